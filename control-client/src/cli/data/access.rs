//! Who may do what with an entry: shown and set.

use std::str::FromStr;

use clap::{Args, Subcommand};
use moorline_shared::access::{AccessError, AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::{Entry, SetAccess};
use moorline_shared::{EntryPath, Revision};

use super::print_changed;
use super::write::terms;
use crate::cli::Session;
use crate::cli::failure::Failure;
use crate::cli::table::Table;

const SET_USAGE: &str =
    "moorline data access set [OPTIONS] <INSTANCE> <PATH> <--grant <SUBJECT=RIGHT,...>|--default>";

const SET_EXAMPLES: &str = "\
Examples:
  moorline data access set db port --grant instance:web=read --grant owner=read
  moorline data access set db log --grant tag:role=web=read,append
  moorline data access set db config/url --grant group:operators=read,update
  moorline data access set db port --default

A SUBJECT is owner, account, user:NAME, instance:INSTANCE, group:NAME, tag:KEY=VALUE or service:NAME.
A RIGHT is read, update, append, delete, administer, or all.";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AccessCommand {
    /// Show who may do what with an entry.
    Show {
        /// A name, an id, or the beginning of an id.
        instance: String,
        /// Which entry, as in app/config.
        path: EntryPath,
    },
    /// Set who may do what with an entry, instead of what was set before.
    #[command(after_help = SET_EXAMPLES, override_usage = SET_USAGE)]
    Set(SetArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Which entry, as in app/config.
    path: EntryPath,
    #[command(flatten)]
    access: AccessArgs,
    /// Only if the entry last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AccessArgs {
    /// Rights for somebody; may be given several times. What is not granted is withheld.
    #[arg(long = "grant", value_name = "SUBJECT=RIGHT,...")]
    grants: Vec<Grant>,
    /// What applies where nothing is set: the instance reads its own entries and writes those it made itself.
    #[arg(long)]
    default: bool,
}

/// A clause whose instance may still be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    to: Grantee,
    rights: Rights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Grantee {
    Subject(Subject),
    Instance(String),
}

/// Not a grant.
#[derive(Clone, Debug, thiserror::Error)]
enum GrantError {
    #[error("write SUBJECT=RIGHT,RIGHT as in user:ann=read,update")]
    Form,
    #[error("{0}")]
    Access(#[from] AccessError),
}

impl FromStr for Grant {
    type Err = GrantError;

    /// The last `=` parts subject and rights, since a tag has one of its own.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (subject, rights) = text.rsplit_once('=').ok_or(GrantError::Form)?;
        let to = match subject.strip_prefix("instance:") {
            Some(instance) if !instance.is_empty() => Grantee::Instance(instance.to_owned()),
            _ => Grantee::Subject(subject.parse()?),
        };
        let rights = match rights {
            "all" => Rights::ALL,
            words => words.split(',').map(Right::from_str).collect::<Result<_, _>>()?,
        };
        Ok(Self { to, rights })
    }
}

pub(super) async fn run(command: AccessCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        AccessCommand::Show { instance, path } => show(&instance, &path, session).await,
        AccessCommand::Set(args) => set(args, session).await,
    }
}

async fn show(instance: &str, path: &EntryPath, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(instance).await?;
    let mut entry = session.client.get_instance_data(instance, path).await?;
    entry.value = None;
    session.out.show(&entry, clauses)
}

fn clauses(entry: &Entry) -> String {
    let Some(access) = &entry.access else {
        return "the access of this entry is shown only to those who may administer it".to_owned();
    };
    if access.is_default() {
        return "nothing is set: the default applies".to_owned();
    }
    let mut table = Table::new(["SUBJECT", "RIGHTS"]);
    for clause in access.clauses() {
        let rights: Vec<_> = clause.rights.iter().map(Right::as_str).collect();
        table.row([clause.subject.to_string(), rights.join(", ")]);
    }
    table.to_string()
}

async fn set(args: SetArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let mut clauses = Vec::with_capacity(args.access.grants.len());
    for grant in args.access.grants {
        clauses.push(resolved(grant, session).await?);
    }
    let count = clauses.len();
    let access = AccessList::try_from(clauses)
        .map_err(|error| Failure::argument("the access of an entry", format!("{count} grants"), error))?;
    let terms = terms(args.if_revision, session);
    let changed = session
        .client
        .set_entry_access(instance, &args.path, &SetAccess { access }, &terms)
        .await?;
    print_changed(&changed, session)
}

async fn resolved(grant: Grant, session: &Session<'_>) -> Result<Clause, Failure> {
    let subject = match grant.to {
        Grantee::Subject(subject) => subject,
        Grantee::Instance(text) => Subject::Instance(session.instance(&text).await?),
    };
    Ok(Clause {
        subject,
        rights: grant.rights,
    })
}

#[cfg(test)]
mod tests {
    use super::{Grant, Grantee};
    use moorline_shared::access::{Right, Rights, Subject};

    #[test]
    fn a_grant_is_a_subject_and_rights() {
        let grant: Grant = "tag:role=web=read,append".parse().unwrap();
        assert_eq!(
            grant.to,
            Grantee::Subject(Subject::Tag("role=web".parse().unwrap()))
        );
        assert_eq!(
            grant.rights,
            Rights::only(Right::Read).or(Rights::only(Right::Append))
        );
        let grant: Grant = "instance:web=all".parse().unwrap();
        assert_eq!(grant.to, Grantee::Instance("web".to_owned()));
        assert_eq!(grant.rights, Rights::ALL);
    }

    #[test]
    fn what_is_no_grant_says_what_to_write() {
        let errors = [
            "owner",
            "owner=",
            "owner=write",
            "everybody=read",
            "instance:=read",
            "user:A=read",
        ]
        .map(|text| format!("{text}: {}", text.parse::<Grant>().unwrap_err()));
        insta::assert_snapshot!(errors.join("\n"));
    }
}
