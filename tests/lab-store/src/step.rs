//! The rules alone: no store, no HTTP, no second thread.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use moorline_control::identity::master::MasterKey;
use moorline_control::instance_data::{Model, Op};
use moorline_control::model::{Caller, Env, Executor, Fork, Role, ServiceModel, Stop, View};
use moorline_control::settings::Settings;
use moorline_control::store::Store;
use moorline_shared::api::data::PutEntry;
use moorline_shared::{Digest, EntryPath, InstanceId, OperationId, Principal};

use crate::per_second;

/// How many steps are taken between two looks at the clock.
const BETWEEN_LOOKS: u64 = 64;
const VALUE_BYTES: usize = 64;

/// Steps a put of the entry over the store's newest state for `time`: how many per second.
pub(crate) async fn rate(
    store: &Store,
    instance: InstanceId,
    path: EntryPath,
    time: Duration,
) -> Result<f64> {
    let mut fork = Fork::of(store, store.head().await?).await?;
    let env = env(store)?;
    let put = PutEntry::value("v".repeat(VALUE_BYTES).as_str().into());
    let op = Op::PutInstanceData {
        instance,
        path,
        guard: None,
        new: put.into(),
    };
    let (begun, mut steps) = (Instant::now(), 0);
    while begun.elapsed() < time {
        for _ in 0..BETWEEN_LOOKS {
            step(&mut fork, &op, &env)?;
        }
        steps += BETWEEN_LOOKS;
    }
    Ok(per_second(steps, begun.elapsed()))
}

fn step(fork: &mut Fork, op: &Op, env: &Env) -> Result<()> {
    let mut view = View::new(fork, env.operation);
    match Model.step(&mut view, op, env) {
        Ok(_) => {
            std::hint::black_box(view.into_trace());
            Ok(())
        }
        Err(Stop::Refused(refusal)) => Err(refusal.into()),
        Err(Stop::Load(_)) => bail!("a record can't be read: {:?}", view.into_trace().broken),
    }
}

/// What the administrator's request would have.
fn env(store: &Store) -> Result<Env> {
    let executor = Executor::new(
        store.clone(),
        Settings::default(),
        MasterKey::new(&[7; 32].into()).into(),
    );
    Ok(Env {
        now: executor.now(),
        operation: OperationId::from(Digest::of(b"a step")),
        caller: Caller {
            principal: Principal::User("admin".parse()?),
            account: "default".parse()?,
            role: Role::Administrator,
            via: None,
            session: None,
        },
        settings: executor.settings().clone(),
    })
}
