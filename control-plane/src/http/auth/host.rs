//! A host, by the certificate that its connection shows; and with the header `moorline-instance` one of its instances,
//! which the rules accept only on that host and until somebody ends its session. An instance that is named so may read;
//! what it changes, it [signs].
//!
//! That the certificate was made here was checked when the connection was made. Whether it still counts is asked at every
//! request, since a connection may be older than a revocation.
//!
//! [signs]: super::instance

use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use moorline_shared::Principal;
use moorline_shared::api::ON_BEHALF_OF;

use super::{Said, named};
use crate::http::Control;
use crate::http::peer::HostCertificate;
use crate::http::problem::Failure;
use crate::identity::enrolment::hosts::NotGood;
use crate::model::{Caller, Role};

/// The caller, if its connection shows the certificate of a host.
pub(super) fn look(control: &Control, parts: &Parts) -> Said {
    let Some(shown) = parts.extensions.get::<HostCertificate>() else {
        return Said::Nothing;
    };
    match control.hosts.judge(shown, control.executor.now()) {
        Ok(()) => caller(shown, parts).into(),
        Err(why) => Said::Wrong(refused(shown, why)),
    }
}

fn caller(shown: &HostCertificate, parts: &Parts) -> Result<Caller, Failure> {
    let host = shown.host.clone();
    let (principal, via) = match named(&parts.headers, ON_BEHALF_OF)? {
        None => (Principal::Host(host), None),
        Some(_) if parts.method != Method::GET => return Err(unsigned()),
        Some(instance) => (Principal::Instance(instance), Some(host)),
    };
    Ok(Caller {
        principal,
        account: "default".parse().expect("this is a name"),
        role: Role::Member,
        via,
        session: None,
    })
}

fn unsigned() -> Failure {
    Failure::new(
        "unproven",
        StatusCode::UNAUTHORIZED,
        "The instance did not sign this",
        "a host's word is enough for what its instances read; what they change, they sign themselves",
    )
}

fn refused(shown: &HostCertificate, why: NotGood) -> Failure {
    let kind = match why {
        NotGood::Unknown => "host-not-enrolled",
        NotGood::Revoked => "host-revoked",
        NotGood::Cloned => "host-cloned",
        NotGood::Superseded => "certificate-superseded",
        NotGood::Expired(_) => "certificate-expired",
    };
    let host = &shown.host;
    let detail = format!("{why}; 'moorline host enroll-token {host}' makes a token to enrol it again");
    Failure::new(
        kind,
        StatusCode::UNAUTHORIZED,
        "The certificate doesn't count",
        detail,
    )
}
