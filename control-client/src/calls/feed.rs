//! The feed of a host, and the views that it brings.

use http::Method;
use moorline_shared::HostId;
use moorline_shared::api::feed::{FeedMessage, MAX_LINE_BYTES, OpenFeed, SetInterests, View, ViewId};
use moorline_shared::api::sync::{HostSync, SyncHost};

use crate::error::ClientError;
use crate::ndjson::Lines;
use crate::stream::EventStream;
use crate::transport::{Client, succeeded};

impl Client {
    /// `OpenFeed`: what concerns a host, from its cursor on. The stream ends when the connection does; open it again
    /// with the last revision that was applied. A consumer watches for the bookmarks that `hello` promises.
    ///
    /// # Errors
    /// Those of every call; in the stream also a line of more than [`MAX_LINE_BYTES`].
    pub async fn open_feed(
        &self,
        host: &HostId,
        body: &OpenFeed,
    ) -> Result<EventStream<FeedMessage>, ClientError> {
        let request = self.stream(Method::POST, &format!("/v1/hosts/{host}/feed"))?;
        self.lines(request.json(body), Lines::with_longest(MAX_LINE_BYTES))
            .await
    }

    /// `SetInterests`: adds views to an open feed and removes others.
    pub async fn set_interests(&self, host: &HostId, body: &SetInterests) -> Result<(), ClientError> {
        let request = self.call(Method::POST, &format!("/v1/hosts/{host}/interests"))?;
        succeeded(self.exchange(request.json(body)).await?).map(drop)
    }

    /// `SyncHost`: compares what a host has with what it should have.
    pub async fn sync_host(&self, host: &HostId, body: &SyncHost) -> Result<HostSync, ClientError> {
        let request = self.call(Method::POST, &format!("/v1/hosts/{host}/sync"))?;
        self.answer(request.json(body)).await
    }

    /// `GetFeedView`: a view as it is now.
    pub async fn get_feed_view(&self, host: &HostId, view: ViewId) -> Result<View, ClientError> {
        let target = format!("/v1/hosts/{host}/views/{}/{}", view.reader, view.instance);
        self.answer(self.call(Method::GET, &target)?).await
    }
}
