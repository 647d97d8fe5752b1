//! `moorline instance`.

mod make;
mod wait;

use clap::{Args, Subcommand};
use moorline_shared::access::Tag;
use moorline_shared::api::instances::{
    Instance, InstanceIds, InstanceQuery, InstanceState, InstancesMade, ModifyInstance,
};
use moorline_shared::id::{RoleName, TypeName};
use moorline_shared::{HostId, Timestamp};

use super::Session;
use super::failure::{Failure, state_word};
use super::name::{NameError, all_instances};
use super::table::{Table, age, now, or_dash, pairs};
pub(super) use make::id_or_uuid;
use wait::WaitArgs;

const MODIFY_USAGE: &str = "moorline instance modify [OPTIONS] <INSTANCE> \
    <--name <NAME>|--tag <KEY=VALUE>|--no-tags|--role <ROLE>|--no-roles|--type <TYPE>>...";

#[derive(Debug, Subcommand)]
pub(super) enum InstanceCommand {
    /// Make instances and start them.
    Run(make::RunArgs),
    /// Make an instance of a VM that somebody else runs.
    Register(make::RegisterArgs),
    /// List instances.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one instance.
    Show {
        /// A name, an id, or the beginning of an id.
        instance: String,
    },
    /// Start stopped instances.
    Start(ChangeArgs),
    /// Stop instances; their data stay.
    Stop(ChangeArgs),
    /// Restart the VMs of running instances.
    Reboot {
        /// Names, ids, or beginnings of ids: all of them or none.
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<String>,
    },
    /// End instances for ever.
    Terminate(ChangeArgs),
    /// Change an instance's name, tags, roles or type.
    Modify(ModifyArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those with this name.
    #[arg(long)]
    name: Option<String>,
    /// Only those on this host.
    #[arg(long)]
    host: Option<HostId>,
    /// Only those in this state.
    #[arg(long, value_parser = state)]
    state: Option<InstanceState>,
    /// Terminated ones too, for as long as they are known.
    #[arg(long, short)]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// Names, ids, or beginnings of ids: all of them or none.
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(override_usage = MODIFY_USAGE, group = clap::ArgGroup::new("changes").required(true).multiple(true))]
pub(super) struct ModifyArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Another name.
    #[arg(long, group = "changes")]
    name: Option<String>,
    /// A tag, instead of all it has; may be given several times.
    #[arg(long = "tag", value_name = "KEY=VALUE", group = "changes")]
    tags: Vec<Tag>,
    /// No tags.
    #[arg(long, group = "changes", conflicts_with = "tags")]
    no_tags: bool,
    /// A role whose credentials it is given, instead of all it has; may be given several times.
    #[arg(long = "role", value_name = "ROLE", group = "changes")]
    roles: Vec<RoleName>,
    /// No roles.
    #[arg(long, group = "changes", conflicts_with = "roles")]
    no_roles: bool,
    /// Another type; the instance must be stopped.
    #[arg(long = "type", value_name = "TYPE", group = "changes")]
    instance_type: Option<TypeName>,
}

pub(super) async fn run(command: InstanceCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        InstanceCommand::Run(args) => make::run(args, session).await,
        InstanceCommand::Register(args) => make::register(args, session).await,
        InstanceCommand::List(args) => list(args, session).await,
        InstanceCommand::Show { instance } => show(&instance, session).await,
        InstanceCommand::Start(args) => {
            let body = ids(&args.instances, session).await?;
            let made = session.client.start_instances(&body, &session.key).await?;
            wait::settled(made, InstanceState::Running, &args.wait, session).await
        }
        InstanceCommand::Stop(args) => {
            let body = ids(&args.instances, session).await?;
            let made = session.client.stop_instances(&body, &session.key).await?;
            wait::settled(made, InstanceState::Stopped, &args.wait, session).await
        }
        InstanceCommand::Reboot { instances } => {
            let body = ids(&instances, session).await?;
            let made = session.client.reboot_instances(&body, &session.key).await?;
            print_made(&made, session)
        }
        InstanceCommand::Terminate(args) => {
            let body = ids(&args.instances, session).await?;
            let made = session.client.terminate_instances(&body, &session.key).await?;
            wait::settled(made, InstanceState::Terminated, &args.wait, session).await
        }
        InstanceCommand::Modify(args) => modify(args, session).await,
    }
}

async fn ids(texts: &[String], session: &Session<'_>) -> Result<InstanceIds, Failure> {
    let instances = session.instances(texts).await?;
    Ok(InstanceIds { instances })
}

async fn list(args: ListArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let hides_terminated = !args.all && args.state.is_none();
    let query = InstanceQuery {
        name: args.name,
        host: args.host,
        state: args.state,
        ..InstanceQuery::default()
    };
    let mut page = all_instances(&session.client, &query).await?;
    if hides_terminated {
        page.instances
            .retain(|instance| instance.state != InstanceState::Terminated);
    }
    session.out.show(&page, |page| table(&page.instances, now()))
}

async fn show(text: &str, session: &mut Session<'_>) -> Result<(), Failure> {
    let query = InstanceQuery {
        instance: Some(session.instance(text).await?),
        ..InstanceQuery::default()
    };
    let page = session.client.describe_instances(&query).await?;
    match page.instances.first() {
        Some(instance) => session.out.show(instance, |instance| details(instance, now())),
        None => Err(NameError::Unknown(text.to_owned()).into()),
    }
}

async fn modify(args: ModifyArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let body = ModifyInstance {
        name: args.name,
        tags: (args.no_tags || !args.tags.is_empty()).then_some(args.tags),
        roles: (args.no_roles || !args.roles.is_empty()).then(|| args.roles.into_iter().collect()),
        instance_type: args.instance_type,
    };
    let made = session
        .client
        .modify_instance(instance, &body, &session.key)
        .await?;
    print_made(&made, session)
}

fn print_made(made: &InstancesMade, session: &mut Session<'_>) -> Result<(), Failure> {
    session.out.show(made, |made| table(&made.instances, now()))
}

fn table(instances: &[Instance], now: Timestamp) -> String {
    let mut table = Table::new(["ID", "NAME", "STATE", "HOST", "TYPE", "AGE"]);
    for instance in instances {
        table.row([
            instance.id.to_string(),
            or_dash(instance.name.as_ref()),
            state_word(instance.state).to_owned(),
            instance.host.to_string(),
            or_dash(instance.instance_type.as_ref()),
            age(instance.created_at, now),
        ]);
    }
    table.to_string()
}

fn details(instance: &Instance, now: Timestamp) -> String {
    let driver = serde_json::to_value(instance.driver).unwrap_or_default();
    let desired = serde_json::to_value(instance.desired).unwrap_or_default();
    pairs(&[
        ("id", instance.id.to_string()),
        ("name", or_dash(instance.name.as_ref())),
        ("state", state_word(instance.state).to_owned()),
        ("wanted", desired.as_str().unwrap_or_default().to_owned()),
        ("reason", or_dash(instance.reason.as_ref())),
        ("host", instance.host.to_string()),
        ("zone", instance.zone.to_string()),
        ("account", instance.account.to_string()),
        ("driver", driver.as_str().unwrap_or_default().to_owned()),
        ("image", or_dash(instance.image.as_ref())),
        ("type", or_dash(instance.instance_type.as_ref())),
        ("tags", listed(&instance.tags)),
        ("roles", listed(&instance.roles)),
        ("incarnation", instance.incarnation.to_string()),
        (
            "created",
            format!("{} ({} ago)", instance.created_at, age(instance.created_at, now)),
        ),
        ("revision", instance.revision.to_string()),
    ])
}

fn listed<'t, T: ToString + 't>(all: impl IntoIterator<Item = &'t T>) -> String {
    let all: Vec<_> = all.into_iter().map(ToString::to_string).collect();
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join(", ")
    }
}

/// A state by its word in the API.
fn state(text: &str) -> Result<InstanceState, String> {
    let word = serde_json::Value::from(text.replace('-', "_"));
    let words = "pending, running, stopping, stopped, shutting_down, terminated or failed";
    serde_json::from_value(word).map_err(|_| format!("a state is {words}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::{details, state, table};
    use moorline_shared::InstanceId;
    use moorline_shared::api::instances::{Instance, InstanceState};
    use serde_json::json;

    /// An instance whose id is `id` sixteen times.
    pub(in crate::cli) fn instance(id: u8, name: &str, state: InstanceState) -> Instance {
        let instance = json!({
            "id": InstanceId::from_bytes([id; 16]), "name": name, "account": "main", "host": "h1", "zone": "z1",
            "driver": "qemu", "image": "debian-13", "type": "small", "tags": ["role=web"], "roles": ["backup", "mail"],
            "desired": "running",
            "state": state, "incarnation": 3, "created_at": "2000-01-01T00:00:00Z", "revision": "1.7",
        });
        serde_json::from_value(instance).unwrap()
    }

    #[test]
    fn instances_are_shown_in_a_table_and_one_by_one() {
        let now = "2000-01-01T02:30:00Z".parse().unwrap();
        let web = instance(0x1a, "web", InstanceState::Running);
        insta::assert_snapshot!(table(std::slice::from_ref(&web), now));
        insta::assert_snapshot!(details(&web, now));
    }

    #[test]
    fn states_are_known_by_their_words() {
        assert_eq!(state("shutting-down"), Ok(InstanceState::ShuttingDown));
        assert!(state("on").unwrap_err().contains("running"));
    }
}
