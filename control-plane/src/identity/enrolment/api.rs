//! The routes of hosts' certificates.

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use moorline_shared::api::data::Changed;
use moorline_shared::api::enrolment::{
    CreateEnrolmentToken, EnrolHost, EnrolmentTokenMade, HostCertificateIssued, RenewHostCertificate,
    TOKEN_SECONDS,
};
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::{HostId, Principal, Ttl};

use super::model::Model;
use super::operations::{Op, Reply};
use super::records::{Certificate, EnrolmentTokenRecord};
use super::refusal::Refusal;
use super::request::key_of;
use crate::http::extract::{Json, Path, segment};
use crate::http::peer::HostCertificate;
use crate::http::problem::Failure;
use crate::http::{Control, changed, idempotency_key, stamp};
use crate::identity::authority::issue::{IssueError, pem};
use crate::model::{Caller, Done, Problem as _, Record as _, Role};
use crate::store::follow::FollowError;

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/hosts/{host}/enrolment-tokens", post(create_enrolment_token))
        .route("/v1/hosts/{host}/enrol", post(enrol_host))
        .route("/v1/hosts/{host}/certificate", post(renew_host_certificate))
        .route("/v1/hosts/{host}/revoke", post(revoke_host))
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Read(error) => error.into(),
            FollowError::Watch(error) => Self::new(
                "unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Not now",
                error.to_string(),
            ),
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        tracing::error!(%error, "a host's certificate can't be made");
        Self::new(
            "internal",
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something failed here",
            error.to_string(),
        )
    }
}

/// Lets whoever has a secret become a host, once.
///
/// The caller makes the secret, of 32 random bytes, and sends its digest alone. `moorline host enroll-token` does it, and
/// puts all that the machine needs into one text.
#[utoipa::path(post, path = "/v1/hosts/{host}/enrolment-tokens", operation_id = "CreateEnrolmentToken", tag = "hosts",
    request_body = CreateEnrolmentToken,
    params(("host" = HostId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = EnrolmentTokenMade), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_enrolment_token(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    headers: HeaderMap,
    Json(create): Json<CreateEnrolmentToken>,
) -> Result<Response, Failure> {
    let host: HostId = segment("host", &host)?;
    let hour = || Ttl::try_from(TOKEN_SECONDS).expect("an hour is a validity period");
    let op = Op::CreateEnrolmentToken {
        host: host.clone(),
        digest: create.digest,
        ttl: create.ttl.unwrap_or_else(hour),
    };
    let done = control
        .change(&Model, op, caller, idempotency_key(&headers)?)
        .await?;
    let Reply::Token { expires_at } = done.reply else {
        return Err(Failure::unexpected());
    };
    let body = EnrolmentTokenMade {
        host,
        expires_at,
        authority: control.authority.digest(),
        operation: done.operation,
        revision: done.revision,
    };
    Ok((stamp(&done), axum::Json(body)).into_response())
}

/// Makes a machine a host: it shows the secret of an enrolment token and asks for a certificate.
///
/// It needs no token besides. Who didn't hear the answer asks again with the same key and gets the same.
#[utoipa::path(post, path = "/v1/hosts/{host}/enrol", operation_id = "EnrolHost", tag = "hosts", security(()),
    request_body = EnrolHost,
    params(("host" = HostId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = HostCertificateIssued), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn enrol_host(
    State(control): State<Control>,
    Path(host): Path<String>,
    headers: HeaderMap,
    Json(enrol): Json<EnrolHost>,
) -> Result<Response, Failure> {
    let host: HostId = segment("host", &host)?;
    let token = EnrolmentToken::digest_of(&enrol.secret);
    let public_key =
        key_of(&enrol.request).map_err(|error| Failure::invalid("request", error.to_string()))?;
    // Whoever only guesses leaves no record: there would be no end of them.
    let store = control.executor.store();
    let found = store
        .get(store.head().await?, &EnrolmentTokenRecord::key(&token))
        .await?;
    if found.is_none() {
        return Err(Failure(Box::new(Refusal::UnknownToken(host).problem())));
    }
    let op = Op::EnrolHost {
        host: host.clone(),
        token,
        public_key,
    };
    let caller = member(host.clone());
    let done = control
        .change(&Model, op, caller, idempotency_key(&headers)?)
        .await?;
    issued(&control, &host, done).await
}

/// Gives a host its next certificate, by the one that its connection shows, which may have expired.
///
/// A certificate that is no longer the host's present one shows that two machines use it: the host is refused from then
/// on, until an operator enrols it again.
#[utoipa::path(post, path = "/v1/hosts/{host}/certificate", operation_id = "RenewHostCertificate", tag = "hosts",
    request_body = RenewHostCertificate, security(("host" = [])),
    params(("host" = HostId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = HostCertificateIssued), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn renew_host_certificate(
    State(control): State<Control>,
    shown: Option<Extension<HostCertificate>>,
    Path(host): Path<String>,
    headers: HeaderMap,
    Json(renew): Json<RenewHostCertificate>,
) -> Result<Response, Failure> {
    let host: HostId = segment("host", &host)?;
    let Some(Extension(shown)) = shown.filter(|Extension(shown)| shown.host == host) else {
        return Err(not_shown(&host));
    };
    let public_key =
        key_of(&renew.request).map_err(|error| Failure::invalid("request", error.to_string()))?;
    let op = Op::RenewHostCertificate {
        host: host.clone(),
        serial: shown.serial,
        generation: shown.generation,
        public_key,
    };
    let caller = member(host.clone());
    let done = control
        .change(&Model, op, caller, idempotency_key(&headers)?)
        .await?;
    issued(&control, &host, done).await
}

/// Makes a host's certificates worth nothing, at once and on the connections that it has.
#[utoipa::path(post, path = "/v1/hosts/{host}/revoke", operation_id = "RevokeHost", tag = "hosts",
    params(("host" = HostId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn revoke_host(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let op = Op::RevokeHost {
        host: segment("host", &host)?,
    };
    let done = control
        .change(&Model, op, caller, idempotency_key(&headers)?)
        .await?;
    control.hosts.reach(done.revision.n).await?;
    Ok(changed(&done))
}

/// The host itself, as whom it asks for certificates.
fn member(host: HostId) -> Caller {
    Caller {
        principal: Principal::Host(host),
        account: "default".parse().expect("this is a name"),
        role: Role::Member,
        via: None,
        session: None,
    }
}

fn not_shown(host: &HostId) -> Failure {
    let detail = format!("only host {host} may ask for this, by a connection that shows its certificate");
    Failure::new("access-denied", StatusCode::FORBIDDEN, "Not allowed", detail).field("host")
}

/// The answer to who gets a certificate: known everywhere here before the host can use it.
async fn issued(control: &Control, host: &HostId, done: Done<Reply>) -> Result<Response, Failure> {
    control.hosts.reach(done.revision.n).await?;
    let certificate = match &done.reply {
        Reply::Issued(certificate) => certificate,
        Reply::Cloned => {
            tracing::error!(%host, "two machines use the certificate of a host; both are refused");
            let mut problem = Refusal::Cloned(host.clone()).problem();
            problem.operation = Some(done.operation);
            return Err(Failure(Box::new(problem)));
        }
        Reply::Token { .. } | Reply::Done => return Err(Failure::unexpected()),
    };
    let body = shown(control, host, certificate, &done)?;
    Ok((stamp(&done), axum::Json(body)).into_response())
}

fn shown(
    control: &Control,
    host: &HostId,
    certificate: &Certificate,
    done: &Done<Reply>,
) -> Result<HostCertificateIssued, Failure> {
    let made = control.authority.host(&certificate.words(host))?;
    Ok(HostCertificateIssued {
        certificate: pem(&made),
        authority: control.authority.pem(),
        serial: certificate.serial.to_string(),
        generation: certificate.generation,
        expires_at: certificate.until,
        operation: done.operation,
        revision: done.revision,
    })
}
