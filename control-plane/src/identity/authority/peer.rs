//! What a client's certificate says, once it is known to be one of ours.

use moorline_shared::enrolment::serial_text;
use moorline_shared::{HostId, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::Oid;

use super::issue::GENERATION;

/// A host's certificate, as the connection of a request showed it. That it is ours is all that was checked: whether it is
/// good still is decided at every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCertificate {
    /// Whom it names.
    pub host: HostId,
    /// Its number, in hexadecimal.
    pub serial: String,
    /// When it ends.
    pub not_after: Timestamp,
    /// How many certificates the host had before in this enrolment, and 1.
    pub generation: u64,
    /// Its public key, a point on P-256, uncompressed: what the host's signatures are checked with.
    pub public_key: Vec<u8>,
}

impl HostCertificate {
    /// Reads a certificate that the authority of `domain` issued; `None` if it is not a host's.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(Self {
            host: host(&certificate)?,
            serial: serial_text(certificate.raw_serial()),
            not_after: not_after(&certificate)?,
            generation: generation(&certificate)?,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}

/// When a certificate ends.
pub(super) fn not_after(certificate: &X509Certificate<'_>) -> Option<Timestamp> {
    let seconds = certificate.validity().not_after.timestamp();
    Timestamp::from_millis(seconds.checked_mul(1_000)?)
}

/// The host of the one URI in the certificate, `spiffe://DOMAIN/host/NAME`.
fn host(certificate: &X509Certificate<'_>) -> Option<HostId> {
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else {
        return None;
    };
    let (_, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    path.strip_prefix("host/")?.parse().ok()
}

fn generation(certificate: &X509Certificate<'_>) -> Option<u64> {
    let oid = Oid::from(&GENERATION).ok()?;
    let mut found = certificate.subject().iter_by_oid(&oid);
    found.next()?.as_str().ok()?.parse().ok()
}
