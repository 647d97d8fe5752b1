//! Looks from time to time whether the host has what it should, beside the feed that keeps it so.

use moorline_client::ClientError;
use moorline_shared::api::sync::HostSync;

use super::calls::Called;
use super::{Feed, Over};
use crate::uplink::Causes;
use crate::uplink::sync::Found;

impl Feed {
    /// Asks the control plane, if that is due and nothing is on its way that could differ for that reason. At a bookmark
    /// everything is applied up to the cursor.
    pub(super) async fn compare(&mut self) -> Result<(), Over> {
        let Some(cursor) = self.cursor else {
            return Ok(());
        };
        let on_its_way = !self.lost.is_empty() || !self.calls.asked.is_empty();
        if on_its_way || !self.syncing.is_due(crate::link::now()) {
            return Ok(());
        }
        let held = self.shards.held().await?;
        let Some(said) = self.syncing.ask(&held, cursor) else {
            return Ok(());
        };
        let (client, host) = (self.client.clone(), self.host.clone());
        self.calls
            .under_way
            .spawn(async move { Called::Synced(client.sync_host(&host, &said).await) });
        Ok(())
    }

    /// What differs is asked for whole, as if its changes had been lost.
    pub(super) fn synced(&mut self, answer: Result<HostSync, ClientError>) -> Result<(), Over> {
        let Some(asked) = self.syncing.answered(crate::link::now()) else {
            return Ok(());
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "the host can't be compared with the control plane");
                return Ok(());
            }
        };
        match asked.judge(&answer) {
            Found::Nothing => Ok(()),
            Found::Views(views) => {
                for view in &views {
                    tracing::warn!(reader = %view.reader, instance = %view.instance, at = %asked.revision,
                        "a view is not what the control plane has, and is asked for anew");
                }
                self.lose(&views, asked.revision);
                self.lost.extend(views);
                Ok(())
            }
            Found::Instances => {
                self.cursor = None;
                Err(Over::OtherInstances)
            }
        }
    }
}
