//! Instances: run, registered, described, started, stopped, rebooted, changed, terminated.

use http::Method;
use moorline_shared::InstanceId;
use moorline_shared::api::instances::{
    InstanceIds, InstancePage, InstanceQuery, InstancesMade, ModifyInstance, RegisterInstance, RunInstances,
};
use moorline_shared::id::IdempotencyKey;
use serde::Serialize;

use crate::error::ClientError;
use crate::terms::key_header;
use crate::transport::Client;

impl Client {
    /// `RunInstances`: makes instances and starts them. The answer comes when the record is committed, before any
    /// VM runs.
    pub async fn run_instances(
        &self,
        body: &RunInstances,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        self.change(Method::POST, "/v1/instances", body, key).await
    }

    /// `RegisterInstance`: makes an instance of a VM that somebody else runs.
    pub async fn register_instance(
        &self,
        body: &RegisterInstance,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        self.change(Method::POST, "/v1/instances/register", body, key)
            .await
    }

    /// `DescribeInstances`: one page of the instances that the caller may see.
    pub async fn describe_instances(&self, query: &InstanceQuery) -> Result<InstancePage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/instances")?.query(query))
            .await
    }

    /// `StartInstances`.
    pub async fn start_instances(
        &self,
        body: &InstanceIds,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        self.change(Method::POST, "/v1/instances/start", body, key).await
    }

    /// `StopInstances`.
    pub async fn stop_instances(
        &self,
        body: &InstanceIds,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        self.change(Method::POST, "/v1/instances/stop", body, key).await
    }

    /// `RebootInstances`.
    pub async fn reboot_instances(
        &self,
        body: &InstanceIds,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        self.change(Method::POST, "/v1/instances/reboot", body, key).await
    }

    /// `TerminateInstances`.
    pub async fn terminate_instances(
        &self,
        body: &InstanceIds,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        self.change(Method::POST, "/v1/instances/terminate", body, key)
            .await
    }

    /// `ModifyInstanceAttribute`: another name, other tags or roles, another type.
    pub async fn modify_instance(
        &self,
        instance: InstanceId,
        body: &ModifyInstance,
        key: &IdempotencyKey,
    ) -> Result<InstancesMade, ClientError> {
        let path = format!("/v1/instances/{instance}");
        self.change(Method::PATCH, &path, body, key).await
    }

    /// A change under a key.
    pub(super) async fn change<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        key: &IdempotencyKey,
    ) -> Result<T, ClientError> {
        let request = self.call(method, path)?.headers(key_header(key)).json(body);
        self.answer(request).await
    }
}
