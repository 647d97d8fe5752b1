//! Entries: got, listed, put, appended to, deleted, changed in batches, watched; their history and their access.

use std::time::Duration;

use http::Method;
use moorline_shared::api::data::{
    AppendEntry, Batch, Changed, Description, Entry, EntryPage, History, ListQuery, PutEntry, SetAccess,
    WatchEvent, WatchQuery,
};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::{EntryPath, InstanceId};
use serde::Serialize;

use crate::error::ClientError;
use crate::ndjson::Lines;
use crate::stream::EventStream;
use crate::terms::Terms;
use crate::transport::{Client, REQUEST_TIMEOUT};

/// Which page of a history: `next` of the page before, and how many changes at most.
#[derive(Serialize)]
struct HistoryQuery<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

impl Client {
    /// `GetInstanceData`: an entry with its value.
    pub async fn get_instance_data(
        &self,
        instance: InstanceId,
        path: &EntryPath,
    ) -> Result<Entry, ClientError> {
        let target = entry_target(instance, "data", path);
        self.answer(self.call(Method::GET, &target)?).await
    }

    /// `ListInstanceData`: one page of the entries that the caller may read.
    pub async fn list_instance_data(
        &self,
        instance: InstanceId,
        query: &ListQuery,
    ) -> Result<EntryPage, ClientError> {
        let target = format!("/v1/instances/{instance}/data");
        self.answer(self.call(Method::GET, &target)?.query(query)).await
    }

    /// `PutInstanceData`: gives an entry a value.
    pub async fn put_instance_data(
        &self,
        instance: InstanceId,
        path: &EntryPath,
        body: &PutEntry,
        terms: &Terms,
    ) -> Result<Changed, ClientError> {
        let target = entry_target(instance, "data", path);
        self.change_on(Method::PUT, &target, body, terms).await
    }

    /// `AppendInstanceData`: adds to the end of an entry's value.
    pub async fn append_instance_data(
        &self,
        instance: InstanceId,
        path: &EntryPath,
        body: &AppendEntry,
        terms: &Terms,
    ) -> Result<Changed, ClientError> {
        let target = entry_target(instance, "data", path);
        self.change_on(Method::POST, &target, body, terms).await
    }

    /// `DeleteInstanceData`: removes an entry.
    pub async fn delete_instance_data(
        &self,
        instance: InstanceId,
        path: &EntryPath,
        terms: &Terms,
    ) -> Result<Changed, ClientError> {
        let target = entry_target(instance, "data", path);
        let request = self.call(Method::DELETE, &target)?.headers(terms.headers());
        self.answer(request).await
    }

    /// `BatchInstanceData`: several changes of one instance's entries, all or none.
    pub async fn batch_instance_data(
        &self,
        instance: InstanceId,
        body: &Batch,
        key: &IdempotencyKey,
    ) -> Result<Changed, ClientError> {
        let target = format!("/v1/instances/{instance}/batch");
        self.change(Method::POST, &target, body, key).await
    }

    /// `SetEntryAccess`: who may do what with an entry from now on.
    pub async fn set_entry_access(
        &self,
        instance: InstanceId,
        path: &EntryPath,
        body: &SetAccess,
        terms: &Terms,
    ) -> Result<Changed, ClientError> {
        let target = entry_target(instance, "access", path);
        self.change_on(Method::PUT, &target, body, terms).await
    }

    /// `DescribeInstanceData`: the published listing of an instance's entries.
    pub async fn describe_instance_data(&self, instance: InstanceId) -> Result<Description, ClientError> {
        let target = format!("/v1/instances/{instance}/describe");
        self.answer(self.call(Method::GET, &target)?).await
    }

    /// `GetInstanceDataHistory`: one page of an entry's changes, the newest first. `cursor` is `next` of the page
    /// before; the server decides how many changes there are on a page if `limit` doesn't.
    pub async fn get_instance_data_history(
        &self,
        instance: InstanceId,
        path: &EntryPath,
        cursor: Option<&str>,
        limit: Option<u32>,
    ) -> Result<History, ClientError> {
        let target = entry_target(instance, "history", path);
        let request = self.call(Method::GET, &target)?;
        self.answer(request.query(&HistoryQuery { cursor, limit })).await
    }

    /// `WatchInstanceData` as a stream, whatever `query.wait_seconds` says. It ends when the connection does: watch
    /// again after the last revision that came, or let [`Client::follow`] do that.
    pub async fn watch_instance_data(
        &self,
        instance: InstanceId,
        query: &WatchQuery,
    ) -> Result<EventStream<WatchEvent>, ClientError> {
        let query = WatchQuery {
            wait_seconds: None,
            ..query.clone()
        };
        let request = self.stream(Method::GET, &format!("/v1/instances/{instance}/watch"))?;
        self.lines(request.query(&query), Lines::default()).await
    }

    /// `WatchInstanceData` as a long poll of `wait_seconds`, 1 to 300: the first change, or a bookmark.
    pub async fn poll_instance_data(
        &self,
        instance: InstanceId,
        query: &WatchQuery,
        wait_seconds: u32,
    ) -> Result<WatchEvent, ClientError> {
        let query = WatchQuery {
            wait_seconds: Some(wait_seconds),
            ..query.clone()
        };
        let request = self.call(Method::GET, &format!("/v1/instances/{instance}/watch"))?;
        let patience = REQUEST_TIMEOUT + Duration::from_secs(u64::from(wait_seconds));
        self.answer(request.timeout(patience).query(&query)).await
    }

    async fn change_on(
        &self,
        method: Method,
        target: &str,
        body: &impl Serialize,
        terms: &Terms,
    ) -> Result<Changed, ClientError> {
        let request = self.call(method, target)?.headers(terms.headers()).json(body);
        self.answer(request).await
    }
}

/// Paths of entries have no character that a URL's path would escape.
fn entry_target(instance: InstanceId, of: &str, path: &EntryPath) -> String {
    format!("/v1/instances/{instance}/{of}/{path}")
}
