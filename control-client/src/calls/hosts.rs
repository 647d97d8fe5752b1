//! Hosts: described, registered, reporting.

use http::Method;
use moorline_shared::HostId;
use moorline_shared::api::data::Changed;
use moorline_shared::api::hosts::{Host, HostPage, RegisterHost, ReportState};
use moorline_shared::id::IdempotencyKey;

use crate::error::ClientError;
use crate::transport::Client;

impl Client {
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
