//! Hosts: described, registered, reporting.

use http::Method;
use moorline_shared::api::data::Changed;
use moorline_shared::api::health::Health;
use moorline_shared::api::hosts::{Host, HostPage, RegisterHost, ReportState};
use moorline_shared::api::session::{
    CreateIdentityToken, CreateInstanceSession, IdentityToken, InstanceSession,
};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::{HostId, InstanceId};

use crate::error::ClientError;
use crate::transport::Client;

impl Client {
    /// `GetHealth`: that the control plane answers. It needs no token.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.answer(self.call(Method::GET, "/v1/health")?).await
    }

    /// `DescribeHosts`: the hosts that the caller may see.
    pub async fn describe_hosts(&self) -> Result<HostPage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/hosts")?).await
    }

    /// `RegisterHost`: says what a host offers.
    pub async fn register_host(
        &self,
        host: &HostId,
        body: &RegisterHost,
        key: &IdempotencyKey,
    ) -> Result<Host, ClientError> {
        self.change(Method::PUT, &format!("/v1/hosts/{host}"), body, key)
            .await
    }

    /// `CreateInstanceSession`: the token of one of the host's instances, or the next one.
    pub async fn create_instance_session(
        &self,
        host: &HostId,
        instance: InstanceId,
        body: &CreateInstanceSession,
    ) -> Result<InstanceSession, ClientError> {
        let target = format!("/v1/hosts/{host}/instances/{instance}/session");
        self.answer(self.call(Method::POST, &target)?.json(body)).await
    }

    /// `CreateIdentityToken`: Moorline's word for who one of the host's instances is, to those whom `audience` names.
    pub async fn create_identity_token(
        &self,
        host: &HostId,
        instance: InstanceId,
        audience: &str,
    ) -> Result<IdentityToken, ClientError> {
        let target = format!("/v1/hosts/{host}/instances/{instance}/identity-token");
        let body = CreateIdentityToken {
            audience: audience.to_owned(),
        };
        self.answer(self.call(Method::POST, &target)?.json(&body)).await
    }

    /// `ReportInstanceState`: a transition that a host saw.
    pub async fn report_instance_state(
        &self,
        host: &HostId,
        body: &ReportState,
        key: &IdempotencyKey,
    ) -> Result<Changed, ClientError> {
        let target = format!("/v1/hosts/{host}/reports");
        self.change(Method::POST, &target, body, key).await
    }
}
