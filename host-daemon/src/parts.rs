//! Tasks of which none may end before it is told to: a daemon without one of its parts would look well and do nothing.
//!
//! A panic is treated as any other end. In releases it ends the process at once (`panic = "abort"` of the workspace's
//! profile), which comes to the same: systemd starts a whole daemon.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::causes::Causes;

/// A failure of any kind, as the cause of a part's end.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The parts of something, each with its name. Dropping this aborts them.
#[derive(Debug)]
pub(crate) struct Parts {
    tasks: JoinSet<Result<(), Cause>>,
    names: HashMap<Id, &'static str>,
    cancel: CancellationToken,
}

/// A part ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// It has a defect.
    #[error("{part} panicked")]
    Panicked {
        /// Which part.
        part: &'static str,
        /// Where, as far as that is known.
        source: JoinError,
    },
    /// It can't go on.
    #[error("{part} can't go on")]
    Failed {
        /// Which part.
        part: &'static str,
        /// Why not.
        source: Cause,
    },
    /// It believes that there is nothing more to do.
    #[error("{part} ended although nothing told it to")]
    Ended {
        /// Which part.
        part: &'static str,
    },
}

impl Parts {
    /// No parts yet. They are to end when `cancel` is cancelled, and it is cancelled when one of them ends before.
    pub(crate) fn new(cancel: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            cancel,
        }
    }

    /// Starts a part that can't fail. It is to end when the token is cancelled.
    pub(crate) fn add(&mut self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.add_fallible(part, async {
            task.await;
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// Starts a part that may find that it can't go on. It is to end when the token is cancelled.
    pub(crate) fn add_fallible<E>(
        &mut self,
        part: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + Sync + 'static,
    {
        let task = self.tasks.spawn(async { task.await.map_err(Cause::from) });
        self.names.insert(task.id(), part);
    }

    /// Waits until all have ended. If one does so of its own accord, the others are cancelled, and it is the error.
    pub(crate) async fn run(mut self) -> Result<(), PartError> {
        let mut first: Option<PartError> = None;
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let Err(error) = self.judge(ended) else {
                continue;
            };
            self.cancel.cancel();
            tracing::error!(error = %Causes(&error), "ending early");
            // A part that only ended may have done so for want of the one that failed.
            if first
                .as_ref()
                .is_none_or(|first| matches!(first, PartError::Ended { .. }))
            {
                first = Some(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn judge(&self, ended: Result<(Id, Result<(), Cause>), JoinError>) -> Result<(), PartError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let part = self.names.get(&id).copied().unwrap_or("a part without a name");
        match ended {
            Err(source) => Err(PartError::Panicked { part, source }),
            Ok((_, Err(source))) => Err(PartError::Failed { part, source }),
            Ok((_, Ok(()))) if !self.cancel.is_cancelled() => Err(PartError::Ended { part }),
            Ok((_, Ok(()))) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PartError, Parts};
    use tokio_util::sync::CancellationToken;

    /// Parts of which the last one waits to be told.
    fn parts() -> (Parts, CancellationToken) {
        let cancel = CancellationToken::new();
        let mut parts = Parts::new(cancel.clone());
        parts.add("the patient part", cancel.clone().cancelled_owned());
        (parts, cancel)
    }

    #[tokio::test]
    async fn parts_that_were_told_to_end_are_no_failure() {
        let (parts, cancel) = parts();
        cancel.cancel();
        parts.run().await.unwrap();
    }

    #[tokio::test]
    async fn a_part_that_panics_ends_the_others_and_is_named() {
        let (mut parts, cancel) = parts();
        parts.add("the weak part", async { panic!("a defect") });
        let error = parts.run().await.unwrap_err();
        assert!(
            matches!(
                error,
                PartError::Panicked {
                    part: "the weak part",
                    ..
                }
            ),
            "{error}"
        );
        assert!(cancel.is_cancelled());
    }

    #[tokio::test]
    async fn a_part_that_ends_for_want_of_another_is_not_the_cause() {
        let (mut parts, cancel) = parts();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        parts.add("the needy part", async { drop(receiver.await) });
        parts.add("the weak part", async move {
            drop(sender);
            cancel.cancelled().await;
            panic!("a defect")
        });
        let error = parts.run().await.unwrap_err();
        assert!(
            matches!(
                error,
                PartError::Panicked {
                    part: "the weak part",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_part_that_fails_or_only_ends_is_named_too() {
        let (mut failing, _) = parts();
        failing.add_fallible("the honest part", async { Err(std::io::Error::other("no disk")) });
        let error = failing.run().await.unwrap_err();
        assert!(
            matches!(&error, PartError::Failed { part: "the honest part", source } if source.to_string() == "no disk"),
            "{error}"
        );
        let (mut ending, _) = parts();
        ending.add("the lazy part", async {});
        let error = ending.run().await.unwrap_err();
        assert!(
            matches!(
                error,
                PartError::Ended {
                    part: "the lazy part"
                }
            ),
            "{error}"
        );
    }
}
