//! The rules for instances' data: which function does what is asked.

use moorline_shared::{EntryPath, InstanceId};

use super::operations::{BatchAction, BatchChange, More, Op, Reply};
use super::refusal::{MAX_BATCH, Refusal};
use super::rules::{Data, Progress, Step, repeated};
use super::{history, show};
use crate::model::{Env, Intent, Operation, ServiceModel, Stop, View};

/// The rules for instances' data.
#[derive(Clone, Copy, Debug)]
pub struct Model;

/// How many entries one operation purges: well below what a transaction holds.
const PURGE_AT_ONCE: usize = 500;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        let mut data = Data::open(v, env, op.instance(), op.api())?;
        match op {
            Op::PutInstanceData { path, guard, new, .. } => {
                data.put(path, *guard, new).map(|()| changed(data))
            }
            Op::AppendInstanceData {
                path, guard, content, ..
            } => data.append(path, *guard, content).map(|()| changed(data)),
            Op::DeleteInstanceData { path, guard, .. } => data.delete(path, *guard).map(|()| changed(data)),
            Op::BatchInstanceData { changes, .. } => batch(&mut data, changes).map(|()| changed(data)),
            Op::SetEntryAccess {
                path, guard, access, ..
            } => data.set_access(path, *guard, access).map(|()| changed(data)),
            Op::GetInstanceData { path, .. } => show::get(&mut data, path),
            Op::ListInstanceData {
                prefix,
                after,
                limit,
                values,
                ..
            } => show::list(&mut data, prefix, after.as_ref(), *limit as usize, *values),
            Op::DescribeInstanceData { .. } => show::describe(&mut data),
            Op::WatchInstanceData { .. } => Ok(Reply::Watching {
                asker: data.asker().clone(),
                account: data.account().clone(),
            }),
            Op::GetInstanceDataHistory {
                path, before, limit, ..
            } => history::history(&mut data, path, before.as_deref(), *limit as usize),
            Op::ExpireEntry { path, .. } => data.as_provider().expire(path).map(|()| changed(data)),
            Op::TrimEntryHistory { paths, .. } => trim(data, paths),
            Op::PurgeInstanceData { instance } => purge(v, env, *instance),
        }
    }
}

fn changed(data: Data<'_, '_>) -> Reply {
    data.finish();
    Reply::Changed
}

fn batch(data: &mut Data<'_, '_>, changes: &[BatchChange]) -> Step<()> {
    if changes.is_empty() || changes.len() > MAX_BATCH {
        return Err(Stop::Refused(Refusal::BatchSize(changes.len())));
    }
    if let Some(path) = repeated(changes.iter().map(|change| &change.path)) {
        return Err(Stop::Refused(Refusal::Repeated(path.clone())));
    }
    data.foresee_changes(changes.iter().map(|change| (&change.path, change.given())))?;
    for (at, change) in changes.iter().enumerate() {
        apply(data, change).map_err(|stop| match stop {
            Stop::Refused(refusal) => Stop::Refused(refusal.in_batch(at)),
            load @ Stop::Load(_) => load,
        })?;
    }
    Ok(())
}

fn apply(data: &mut Data<'_, '_>, change: &BatchChange) -> Step<()> {
    let BatchChange { path, guard, action } = change;
    match action {
        BatchAction::Put(new) => data.put(path, *guard, new),
        BatchAction::Append(content) => data.append(path, *guard, content),
        BatchAction::Delete => data.delete(path, *guard),
        BatchAction::SetAccess(access) => data.set_access(path, *guard, access),
    }
}

/// Trims some histories and has the rest trimmed later.
fn trim(mut data: Data<'_, '_>, paths: &[EntryPath]) -> Step<Reply> {
    let progress = data.as_provider().trim(paths)?;
    data.finish();
    Ok(Reply::Removed(progress.into()))
}

/// Purges some entries and has the rest purged later.
fn purge(v: &mut View<'_>, env: &Env, instance: InstanceId) -> Step<Reply> {
    let progress = Data::open(v, env, instance, "PurgeInstanceData")?
        .as_provider()
        .purge(PURGE_AT_ONCE)?;
    if progress == Progress::Partly {
        v.later(Intent {
            due: env.now,
            submit: Op::PurgeInstanceData { instance }.into(),
        });
    }
    Ok(Reply::Removed(progress.into()))
}

impl From<Progress> for More {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Done => Self::No,
            Progress::Partly => Self::Yes,
        }
    }
}
