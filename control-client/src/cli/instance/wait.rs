//! Waiting until instances are what was wanted of them.

use std::time::Duration;

use clap::Args;
use moorline_shared::InstanceId;
use moorline_shared::api::instances::{Instance, InstanceQuery, InstanceState, InstancesMade};
use tokio::time::Instant;

use super::print_made;
use crate::cli::Session;
use crate::cli::failure::{Failure, state_word};
use crate::cli::name::NameError;

/// How often is looked. The API has no watch for instances.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArgs {
    /// Wait until the VMs are what is wanted, instead of only until the request is taken.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, requires = "wait")]
    timeout: u32,
}

/// Prints what was made, after waiting for it if that was asked.
pub(super) async fn settled(
    mut made: InstancesMade,
    wanted: InstanceState,
    args: &WaitArgs,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    if args.wait {
        let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
        for instance in &mut made.instances {
            *instance = reached(instance.id, wanted, deadline, args.timeout, session).await?;
        }
    }
    print_made(&made, session)
}

async fn reached(
    id: InstanceId,
    wanted: InstanceState,
    deadline: Instant,
    seconds: u32,
    session: &Session<'_>,
) -> Result<Instance, Failure> {
    loop {
        let instance = look(id, session).await?;
        match progress(&instance, wanted) {
            Progress::There => return Ok(instance),
            Progress::Never => return Err(went_elsewhere(&instance, wanted)),
            Progress::NotYet if Instant::now() >= deadline => {
                return Err(Failure::WaitedInVain {
                    seconds,
                    instance: id.to_string(),
                    state: state_word(instance.state),
                    wanted: state_word(wanted),
                });
            }
            Progress::NotYet => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn look(id: InstanceId, session: &Session<'_>) -> Result<Instance, Failure> {
    let query = InstanceQuery {
        instance: Some(id),
        ..InstanceQuery::default()
    };
    session.keep_fresh().await?;
    let mut page = session.client.describe_instances(&query).await?;
    page.instances
        .pop()
        .ok_or_else(|| NameError::Unknown(id.to_string()).into())
}

/// How far an instance is on the way to a state.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    There,
    NotYet,
    Never,
}

fn progress(instance: &Instance, wanted: InstanceState) -> Progress {
    match instance.state {
        state if state == wanted => Progress::There,
        InstanceState::Terminated => Progress::Never,
        // A failed instance can still be terminated; every other way from there begins with another request.
        InstanceState::Failed if wanted != InstanceState::Terminated => Progress::Never,
        _ => Progress::NotYet,
    }
}

fn went_elsewhere(instance: &Instance, wanted: InstanceState) -> Failure {
    Failure::WentElsewhere {
        instance: instance.id.to_string(),
        state: state_word(instance.state),
        wanted: state_word(wanted),
        reason: instance.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::Progress::{Never, NotYet, There};
    use super::{progress, went_elsewhere};
    use crate::cli::instance::tests::instance;
    use moorline_shared::api::instances::InstanceState::{
        Failed, Pending, Running, ShuttingDown, Stopped, Terminated,
    };

    #[test]
    fn a_wait_ends_where_it_can_go_no_further() {
        for (state, wanted, expected) in [
            (Pending, Running, NotYet),
            (Running, Running, There),
            (Failed, Running, Never),
            (Terminated, Stopped, Never),
            (Failed, Terminated, NotYet),
            (ShuttingDown, Terminated, NotYet),
        ] {
            assert_eq!(progress(&instance(1, "web", state), wanted), expected);
        }
        let mut failed = instance(1, "web", Failed);
        failed.reason = Some("the image is not there".to_owned());
        insta::assert_snapshot!(went_elsewhere(&failed, Running));
    }
}
