//! What is asked for beside the feed: views that were lost, and the interests of this host's guests.

use std::time::Duration;

use moorline_client::ClientError;
use moorline_shared::api::feed::{View, ViewId};
use moorline_shared::api::sync::HostSync;

use super::{Feed, Over, Session};
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

impl Feed {
    /// Begins what has to be asked of the control plane and is not being asked yet: nothing while a snapshot may still
    /// bring it.
    pub(super) fn begin_calls(&mut self, session: &mut Session) {
        if !session.assembly.catches_up() {
            self.ask_for_views(session);
            self.set_interests(session);
        }
    }

    fn ask_for_views(&mut self, session: &mut Session) {
        let room = VIEWS_AT_ONCE.saturating_sub(session.asked.len());
        let next: Vec<_> = self.lost.difference(&session.asked).copied().take(room).collect();
        for view in next {
            session.asked.insert(view);
            let (client, host) = (self.client.clone(), self.host.clone());
            let too_early = self.too_early.remove(&view);
            session.calls.spawn(async move {
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

    fn set_interests(&mut self, session: &mut Session) {
        if session.setting_interests {
            return;
        }
        let Some(set) = self.interests.next(session.number) else {
            return;
        };
        session.setting_interests = true;
        let (client, host) = (self.client.clone(), self.host.clone());
        session.calls.spawn(async move {
            let answer = client.set_interests(&host, &set).await;
            if answer.is_err() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Called::Interests(set.add, answer)
        });
    }

    pub(super) async fn called(&mut self, session: &mut Session, called: Called) -> Result<(), Over> {
        match called {
            Called::Interests(add, answer) => {
                session.setting_interests = false;
                self.interests_set(&add, answer)
            }
            Called::Synced(answer) => self.synced(answer),
            Called::View(view, answer) => {
                session.asked.remove(&view);
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
            (Some(400..=408 | 410..=499), &[view]) => {
                tracing::warn!(reader = %view.reader, instance = %view.instance, error = %Causes(&error),
                    "the control plane refused a view of another instance");
                self.interests.refused(&view);
                self.lost.remove(&view);
                self.shards.refuse(view);
            }
            (Some(400..=408 | 410..=499), _) => self.interests.ask_singly(add),
            _ => return Err(error.into()),
        }
        Ok(())
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
