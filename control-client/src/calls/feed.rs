//! The feed of a host, and the views that it brings.

use http::{Method, StatusCode, header};
use moorline_shared::api::feed::{FeedMessage, OpenFeed, SetInterests, View, ViewId};
use moorline_shared::{Digest, HostId, Revision};

use crate::error::ClientError;
use crate::stream::EventStream;
use crate::terms::quoted;
use crate::transport::{Client, refused, succeeded};

/// What `GetFeedView` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedView {
    /// At this revision, the view is the one whose digest was sent.
    Same(Revision),
    /// The view as it is now.
    Whole(View),
}

impl Client {
    /// `OpenFeed`: what concerns a host, from its cursor on. The stream ends when the connection does; open it again
    /// with the last revision that was applied. A consumer watches for the bookmarks that `hello` promises.
    pub async fn open_feed(
        &self,
        host: &HostId,
        body: &OpenFeed,
    ) -> Result<EventStream<FeedMessage>, ClientError> {
        let request = self.stream(Method::POST, &format!("/v1/hosts/{host}/feed"))?;
        self.lines(request.json(body)).await
    }

    /// `SetInterests`: adds views to an open feed and removes others.
    pub async fn set_interests(&self, host: &HostId, body: &SetInterests) -> Result<(), ClientError> {
        let request = self.call(Method::POST, &format!("/v1/hosts/{host}/interests"))?;
        succeeded(self.exchange(request.json(body)).await?).map(drop)
    }

    /// `GetFeedView`: a view, unless it is the one that the host has.
    ///
    /// # Errors
    /// Those of every call; an answer that says that the view is the same, but not as of when, can't be understood.
    pub async fn get_feed_view(
        &self,
        host: &HostId,
        view: ViewId,
        have: Option<&Digest>,
    ) -> Result<FeedView, ClientError> {
        let target = format!("/v1/hosts/{host}/views/{}/{}", view.reader, view.instance);
        let mut request = self.call(Method::GET, &target)?;
        if let Some(digest) = have {
            request = request.header(header::IF_NONE_MATCH, quoted(digest));
        }
        let reply = self.exchange(request).await?;
        match reply.status {
            StatusCode::NOT_MODIFIED => reply.revision().map(FeedView::Same),
            status if status.is_success() => reply.parsed().map(FeedView::Whole),
            _ => Err(refused(&reply)),
        }
    }
}
