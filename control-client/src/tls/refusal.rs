//! Why TLS didn't come about, in words that say what to do.

use std::error::Error as StdError;

use rustls::{CertificateError, Error};

use super::AuthorityDigest;

/// Why a connection is not trusted, by us or by the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsRefusal {
    /// The server's certificate was made by another authority than is trusted.
    #[error(
        "its certificate was made by an authority that is not trusted here: \
         give the control plane's own ca.pem with --ca-file or MOORLINE_CA_FILE"
    )]
    UnknownAuthority,
    /// None of the certificates has the digest.
    #[error(
        "its authority is not {0}: it is another control plane, or somebody stands in between; \
         the right one logs its digest at its start"
    )]
    OtherAuthority(AuthorityDigest),
    /// The server's certificate has ended.
    #[error("its certificate has expired: see that the clocks of both machines are right")]
    Expired,
    /// The server's certificate has not begun.
    #[error("its certificate is not valid yet: see that the clocks of both machines are right")]
    NotYet,
    /// The server is known by other names.
    #[error(
        "its certificate is for other names{}: ask by one of them, or add this one to 'names' in control.toml",
        shown(.0)
    )]
    Name(Vec<String>),
    /// Whatever answers there, it isn't TLS.
    #[error("it doesn't speak TLS: see that it is a control plane of this version")]
    NoTls,
    /// The server didn't take our certificate.
    #[error("it refused this client's certificate: a host that has none that counts must be enrolled again")]
    OurCertificate,
    /// Anything else.
    #[error("TLS failed: {0}")]
    Other(String),
}

fn shown(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!(" ({})", names.join(", "))
}

impl TlsRefusal {
    /// Finds in what the HTTP library says that TLS was what failed.
    pub(crate) fn in_causes(error: &(dyn StdError + 'static)) -> Option<Self> {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        causes.into_iter().find_map(of_cause)
    }
}

fn of_cause(cause: &(dyn StdError + 'static)) -> Option<TlsRefusal> {
    if let Some(error) = cause.downcast_ref::<Error>() {
        return Some(of(error));
    }
    // An I/O error doesn't count what it is made of among its sources.
    let inner = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    TlsRefusal::in_causes(inner)
}

fn of(error: &Error) -> TlsRefusal {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::InvalidMessage(_) => TlsRefusal::NoTls,
        // Our own certificate is the only thing of ours that a server judges.
        Error::AlertReceived(alert) if is_about_certificates(*alert) => TlsRefusal::OurCertificate,
        other => TlsRefusal::Other(other.to_string()),
    }
}

fn is_about_certificates(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    )
}

fn of_certificate(error: &CertificateError) -> TlsRefusal {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsRefusal::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsRefusal::NotYet,
        // Authorities of one deployment after another have one name, and then it is the signature that is wrong.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsRefusal::UnknownAuthority,
        CertificateError::NotValidForName => TlsRefusal::Name(Vec::new()),
        CertificateError::NotValidForNameContext { presented, .. } => TlsRefusal::Name(presented.clone()),
        CertificateError::Other(other) => TlsRefusal::in_causes(other.0.as_ref())
            .or_else(|| other.0.downcast_ref::<TlsRefusal>().cloned())
            .unwrap_or_else(|| TlsRefusal::Other(error.to_string())),
        other => TlsRefusal::Other(other.to_string()),
    }
}
