//! What is asked for beside the feed: views that were lost, and the interests of this host's guests.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_client::ClientError;
use moorline_shared::api::feed::{View, ViewId};
use moorline_shared::api::sync::HostSync;
use tokio::task::{JoinError, JoinSet};

use super::{Feed, Over};
use crate::uplink::Causes;

/// How long after a failure the control plane is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many views are asked for at once: all of a host's may be lost together, and each takes memory until it is applied.
const VIEWS_AT_ONCE: usize = 4;

/// A call that ended.
pub(super) enum Called {
    View(ViewId, Result<View, ClientError>),
    Interests(Vec<ViewId>, Result<(), ClientError>),
    Synced(Result<HostSync, ClientError>),
}

/// The calls that are under way. They outlive a poll, and nothing else by which the feed ends.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) under_way: JoinSet<Called>,
    /// Views that are being asked for.
    pub(super) asked: BTreeSet<ViewId>,
    setting_interests: bool,
}

impl Feed {
    /// Asks for views that were lost and are not being asked for yet.
    pub(super) fn ask_for_views(&mut self) {
        let room = VIEWS_AT_ONCE.saturating_sub(self.calls.asked.len());
        let next: Vec<_> = self
            .lost
            .difference(&self.calls.asked)
            .copied()
            .take(room)
            .collect();
        for view in next {
            self.calls.asked.insert(view);
            let (client, host) = (self.client.clone(), self.host.clone());
            let too_early = self.too_early.remove(&view);
            self.calls.under_way.spawn(async move {
                if too_early {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                let answer = client.get_feed_view(&host, view).await;
                if answer.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Called::View(view, answer)
            });
        }
    }

    /// Tells the open feed of the interests that it doesn't know of.
    pub(super) fn set_interests(&mut self, session: u64) {
        if self.calls.setting_interests {
            return;
        }
        let Some(set) = self.interests.next(session) else {
            return;
        };
        self.calls.setting_interests = true;
        let (client, host) = (self.client.clone(), self.host.clone());
        self.calls.under_way.spawn(async move {
            let answer = client.set_interests(&host, &set).await;
            if answer.is_err() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Called::Interests(set.add, answer)
        });
    }

    pub(super) async fn called(&mut self, called: Result<Called, JoinError>) -> Result<(), Over> {
        let called = match called {
            Ok(called) => called,
            Err(error) => {
                tracing::error!(%error, "a call of the feed panicked");
                return Ok(());
            }
        };
        match called {
            Called::Interests(add, answer) => {
                self.calls.setting_interests = false;
                self.interests_set(&add, answer)
            }
            Called::Synced(answer) => self.synced(answer),
            Called::View(view, answer) => {
                self.calls.asked.remove(&view);
                // It may have come, or gone, meanwhile.
                if self.lost.remove(&view) {
                    self.view_came(view, answer).await?;
                }
                Ok(())
            }
        }
    }

    /// A feed that doesn't know its session is over. Views that were refused together are asked for one by one, so that
    /// one of them costs the others nothing; one that is refused by itself is not asked for again, and who waits for it
    /// is told.
    fn interests_set(&mut self, add: &[ViewId], answer: Result<(), ClientError>) -> Result<(), Over> {
        let Err(error) = answer else {
            return Ok(());
        };
        match (error.problem().map(|problem| problem.status), add) {
            (Some(401 | 408 | 429), _) => self.interests.unanswered(add),
            // A long poll that has ended meanwhile: the next one is told.
            (Some(409), _) if self.polls.is_some() => self.interests.unanswered(add),
            (Some(400..=408 | 410..=499), &[view]) => {
                tracing::warn!(reader = %view.reader, instance = %view.instance, error = %Causes(&error),
                    "the control plane refused a view of another instance");
                self.refuse(view);
            }
            (Some(400..=408 | 410..=499), _) => self.interests.ask_singly(add),
            _ => return Err(error.into()),
        }
        Ok(())
    }

    /// The control plane will not bring this view of another instance: who waits for it is told.
    pub(super) fn refuse(&mut self, view: ViewId) {
        self.interests.refused(&view);
        self.lost.remove(&view);
        self.shards.refuse(view);
    }

    /// What a reader may see of an instance that the control plane shows it nothing of. What it saw before may be what
    /// it may see no more.
    fn nothing_of(&self, view: ViewId) -> View {
        View {
            view,
            revision: self.cursor.unwrap_or_default(),
            entries: Vec::new(),
        }
    }

    async fn view_came(&mut self, view: ViewId, answer: Result<View, ClientError>) -> Result<(), Over> {
        let effects = match answer {
            Ok(whole) => {
                let effects = self.shards.replace(whole).await?;
                if effects.wanting.contains(&view) {
                    self.too_early.insert(view);
                } else {
                    self.interests.arrived(&view);
                }
                effects
            }
            Err(error) => {
                // Everything else may be another answer the next time, and without the view its reader is not served.
                let refused = error
                    .problem()
                    .is_some_and(|problem| matches!(problem.status, 403 | 404 | 410));
                tracing::warn!(reader = %view.reader, instance = %view.instance, error = %Causes(&error),
                    "a view can't be had");
                if !refused {
                    self.lost.insert(view);
                    return Ok(());
                }
                if view.reader == view.instance {
                    return Ok(());
                }
                self.shards.replace(self.nothing_of(view)).await?
            }
        };
        self.on_effects(effects);
        if view == ViewId::own(view.reader) {
            // Even if nothing is different: on disk it says that it is behind.
            self.kept.changed([view.reader]);
        }
        Ok(())
    }
}
