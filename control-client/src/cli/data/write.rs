//! Entries changed: set, appended to, deleted.

use clap::Args;
use moorline_shared::api::data::{AppendEntry, PutEntry};
use moorline_shared::entry::{ContentType, Visibility};
use moorline_shared::{EntryPath, Revision, Ttl};

use super::print_changed;
use crate::cli::Session;
use crate::cli::failure::Failure;
use crate::cli::input::{ValueArgs, ttl};
use crate::terms::Terms;

const SET_USAGE: &str = "moorline data set [OPTIONS] <INSTANCE> <PATH> <VALUE|--file <FILE>|--stdin>";
const APPEND_USAGE: &str = "moorline data append [OPTIONS] <INSTANCE> <PATH> <VALUE|--file <FILE>|--stdin>";

const SET_EXAMPLES: &str = "\
Examples:
  moorline data set web app/mode blue
  moorline data set web app/config --file config.json --content-type application/json
  pass show db | moorline data set web db/password --stdin --secret --ttl 12h
  moorline data set web leader node-1 --if-absent
  moorline data set web app/mode green --if-revision 1.42";

#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES, override_usage = SET_USAGE)]
pub(in crate::cli) struct SetArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Which entry, as in app/config.
    path: EntryPath,
    #[command(flatten)]
    value: ValueArgs,
    /// What the bytes are, as in text/plain; guessed from a new entry's bytes, and otherwise kept.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<ContentType>,
    /// For how long it is valid: seconds, or a number with m, h or d behind it, 3650d at most; for ever if absent.
    #[arg(long, value_name = "PERIOD", value_parser = ttl)]
    ttl: Option<Ttl>,
    #[command(flatten)]
    visibility: VisibilityArgs,
    #[command(flatten)]
    secrecy: SecrecyArgs,
    /// Only if there is no such entry yet.
    #[arg(long, conflicts_with = "if_revision")]
    if_absent: bool,
    /// Only if the entry last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
}

/// Whether `describe` is to name the entry; kept as it is if neither is given.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct VisibilityArgs {
    /// Let the published listing name it.
    #[arg(long)]
    public: bool,
    /// Don't let the published listing name it.
    #[arg(long)]
    private: bool,
}

impl VisibilityArgs {
    fn chosen(&self) -> Option<Visibility> {
        match (self.public, self.private) {
            (true, _) => Some(Visibility::Public),
            (false, true) => Some(Visibility::Private),
            (false, false) => None,
        }
    }
}

/// Whether the entry is to be secret; kept as it is if neither is given.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct SecrecyArgs {
    /// Make it secret: sealed wherever it is kept, in no log and no operation record. Give the value by --file or
    /// --stdin: what stands on a command line is seen in the list of processes and kept by shells.
    #[arg(long, conflicts_with = "value")]
    secret: bool,
    /// Make a secret entry an ordinary one, whose value is kept in the clear from now on; needs the right to administer.
    #[arg(long)]
    no_secret: bool,
}

impl SecrecyArgs {
    fn chosen(&self) -> Option<bool> {
        (self.secret || self.no_secret).then_some(self.secret)
    }
}

#[derive(Debug, Args)]
#[command(override_usage = APPEND_USAGE)]
pub(in crate::cli) struct AppendArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Which entry, as in app/config.
    path: EntryPath,
    #[command(flatten)]
    value: ValueArgs,
    /// Only if the entry last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Which entry, as in app/config.
    path: EntryPath,
    /// Only if the entry last changed at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
}

pub(super) async fn set(args: SetArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = PutEntry {
        visibility: args.visibility.chosen(),
        secret: args.secrecy.chosen(),
        value: args.value.read()?,
        content_type: args.content_type,
        ttl: args.ttl,
        access: None,
    };
    let terms = if args.if_absent {
        Terms::keyed(session.key.clone()).if_absent()
    } else {
        terms(args.if_revision, session)
    };
    let instance = session.instance(&args.instance).await?;
    let changed = session
        .client
        .put_instance_data(instance, &args.path, &body, &terms)
        .await?;
    print_changed(&changed, session)
}

pub(super) async fn append(args: AppendArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = AppendEntry {
        value: args.value.read()?,
    };
    let terms = terms(args.if_revision, session);
    let instance = session.instance(&args.instance).await?;
    let changed = session
        .client
        .append_instance_data(instance, &args.path, &body, &terms)
        .await?;
    print_changed(&changed, session)
}

pub(super) async fn delete(args: &DeleteArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let terms = terms(args.if_revision, session);
    let instance = session.instance(&args.instance).await?;
    let changed = session
        .client
        .delete_instance_data(instance, &args.path, &terms)
        .await?;
    print_changed(&changed, session)
}

pub(super) fn terms(if_revision: Option<Revision>, session: &Session<'_>) -> Terms {
    let terms = Terms::keyed(session.key.clone());
    match if_revision {
        Some(revision) => terms.if_revision(revision),
        None => terms,
    }
}
