//! Instances made: run here, or registered because somebody else runs their VM.

use clap::Args;
use moorline_shared::api::instances::{InstanceState, RegisterInstance, RunInstances};
use moorline_shared::id::{ImageName, TypeName, ZoneName};
use moorline_shared::{HostId, InstanceId};

use super::print_made;
use super::wait::{self, WaitArgs};
use crate::cli::Session;
use crate::cli::beginning::BeginningArgs;
use crate::cli::failure::Failure;

const RUN_EXAMPLES: &str = "\
Examples:
  moorline instance run --image debian-13 --type small --name web --wait
  moorline instance run --image debian-13 --type small --count 3 --name worker --tag role=worker \\
      --data app/mode=batch --data-file app/config=config.json --secret-data app/key=key.pem";

const REGISTER_EXAMPLES: &str = "\
Examples:
  moorline instance register --host h1 --name web
  moorline instance register --host h1 --id 0d9c3f6a-6a53-4a5e-9a6c-2f1f6d0c9b11 --data app/mode=blue";

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(in crate::cli) struct RunArgs {
    /// What they boot from: a name that the host's configuration knows.
    #[arg(long)]
    image: ImageName,
    /// How large they are: a name of the control plane's settings.
    #[arg(long = "type", value_name = "TYPE")]
    instance_type: TypeName,
    /// How many, 1 to 100.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: u32,
    /// On this host, instead of one with room.
    #[arg(long)]
    host: Option<HostId>,
    /// In this zone, instead of any.
    #[arg(long)]
    zone: Option<ZoneName>,
    /// A name for people; of several instances each gets its number behind it.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    beginning: BeginningArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = REGISTER_EXAMPLES)]
pub(in crate::cli) struct RegisterArgs {
    /// The host on which the VM runs.
    #[arg(long)]
    host: HostId,
    /// The id it is to have, or the VM's UUID; a fresh one if absent.
    #[arg(long, value_name = "ID|UUID", value_parser = id_or_uuid)]
    id: Option<InstanceId>,
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    beginning: BeginningArgs,
}

pub(super) async fn run(args: RunArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = RunInstances {
        data: args.beginning.entries()?,
        image: args.image,
        instance_type: args.instance_type,
        count: args.count,
        host: args.host,
        zone: args.zone,
        name: args.name,
        tags: args.beginning.tags,
        roles: args.beginning.roles.into_iter().collect(),
    };
    let made = session.client.run_instances(&body, &session.key).await?;
    wait::settled(made, InstanceState::Running, &args.wait, session).await
}

pub(super) async fn register(args: RegisterArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = RegisterInstance {
        data: args.beginning.entries()?,
        host: args.host,
        id: args.id,
        name: args.name,
        tags: args.beginning.tags,
        roles: args.beginning.roles.into_iter().collect(),
    };
    let made = session.client.register_instance(&body, &session.key).await?;
    print_made(&made, session)
}

/// An instance's id is a UUID without its dashes.
pub(in crate::cli) fn id_or_uuid(text: &str) -> Result<InstanceId, String> {
    let dashes: Vec<_> = text.match_indices('-').map(|(at, _)| at).collect();
    let id = if text.len() == 36 && dashes == [8, 13, 18, 23] {
        format!("i-{}", text.replace('-', "").to_ascii_lowercase()).parse()
    } else {
        text.parse()
    };
    id.map_err(|error: moorline_shared::id::IdError| format!("{error}, or a UUID with dashes"))
}

#[cfg(test)]
mod tests {
    use super::id_or_uuid;

    #[test]
    fn a_uuid_is_an_id() {
        let id = id_or_uuid("0D9C3F6A-6a53-4a5e-9a6c-2f1f6d0c9b11").unwrap();
        assert_eq!(id.to_string(), "i-0d9c3f6a6a534a5e9a6c2f1f6d0c9b11");
        assert_eq!(id_or_uuid(&id.to_string()), Ok(id));
        for bad in [
            "",
            "0d9c3f6a6a534a5e9a6c2f1f6d0c9b11",
            "0d9c3f6-a6a53-4a5e-9a6c-2f1f6d0c9b11",
        ] {
            assert!(id_or_uuid(bad).is_err(), "{bad}");
        }
    }
}
