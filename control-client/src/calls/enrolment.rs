//! Hosts: enrolled, renewed, revoked.

use http::Method;
use moorline_shared::HostId;
use moorline_shared::api::data::Changed;
use moorline_shared::api::enrolment::{
    CreateEnrolmentToken, EnrolHost, EnrolmentTokenMade, HostCertificateIssued, RenewHostCertificate,
};
use moorline_shared::id::IdempotencyKey;

use crate::error::ClientError;
use crate::terms::key_header;
use crate::transport::Client;

impl Client {
    /// `CreateEnrolmentToken`: lets whoever has a secret become a host, once.
    pub async fn create_enrolment_token(
        &self,
        host: &HostId,
        body: &CreateEnrolmentToken,
        key: &IdempotencyKey,
    ) -> Result<EnrolmentTokenMade, ClientError> {
        let target = format!("/v1/hosts/{host}/enrolment-tokens");
        self.change(Method::POST, &target, body, key).await
    }

    /// `EnrolHost`: a machine shows the secret of an enrolment token, and gets a certificate.
    pub async fn enrol_host(
        &self,
        host: &HostId,
        body: &EnrolHost,
        key: &IdempotencyKey,
    ) -> Result<HostCertificateIssued, ClientError> {
        let target = format!("/v1/hosts/{host}/enrol");
        self.change(Method::POST, &target, body, key).await
    }

    /// `RenewHostCertificate`: a host gets its next certificate, by the one that this client shows.
    pub async fn renew_host_certificate(
        &self,
        host: &HostId,
        body: &RenewHostCertificate,
        key: &IdempotencyKey,
    ) -> Result<HostCertificateIssued, ClientError> {
        let target = format!("/v1/hosts/{host}/certificate");
        self.change(Method::POST, &target, body, key).await
    }

    /// `RevokeHost`: a host's certificates are worth nothing from then on.
    pub async fn revoke_host(&self, host: &HostId, key: &IdempotencyKey) -> Result<Changed, ClientError> {
        let target = format!("/v1/hosts/{host}/revoke");
        let request = self.call(Method::POST, &target)?.headers(key_header(key));
        self.answer(request).await
    }
}
