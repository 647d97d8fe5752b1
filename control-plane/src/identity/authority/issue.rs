//! Certificates, made by the authority's key. What stands in them is decided elsewhere; nothing here is kept.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use moorline_shared::{Digest, HostId, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// For how long the authority is good: as long as a deployment.
const AUTHORITY_DAYS: i64 = 3_650;
/// For how long a server certificate is good. It is made anew long before.
pub(super) const SERVER_DAYS: i64 = 30;
/// How much earlier than now a certificate begins at most, since not every clock is right: one that is set back by a day, as
/// where it had been a day ahead, must not make all that was issued before something of the future.
const EARLIER_MS: i64 = DAY_MS + 3_600_000;
/// The part of its life that one begins earlier at most, so that who renews in good time doesn't do so at once.
const EARLIER_PART: i64 = 6;
pub(super) const DAY_MS: i64 = 86_400_000;

/// The attribute that holds the generation in a host's certificate: `dnQualifier` of X.520, which tells apart what has
/// the same name.
pub(super) const GENERATION: [u64; 4] = [2, 5, 4, 46];

/// Why a certificate can't be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The library can't do it, for the reason that it gives.
    #[error("a certificate can't be made of what is given")]
    Make(#[from] rcgen::Error),
    /// The clock is outside the years that certificates know.
    #[error("the system's clock is at {0}, which no certificate can name; set it right")]
    Clock(Timestamp),
}

/// A name that a server is reached by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// A name of the DNS.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The text is neither a name of the DNS nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the name of a server: write a name of the DNS or an IP address, without a port")]
pub struct ServerNameError(String);

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match DnsName::try_from(text) {
            Ok(name) => Ok(Self::Dns(name.as_ref().to_owned())),
            Err(_) => Err(ServerNameError(text.chars().take(64).collect())),
        }
    }
}

impl<'de> Deserialize<'de> for ServerName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a host's certificate says. The authority makes the same certificate of the same words, but for the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostWords<'a> {
    /// Whom it names.
    pub host: &'a HostId,
    /// Its number, by which the host's key is known.
    pub serial: [u8; 16],
    /// How many certificates the host had before in this enrolment, and 1.
    pub generation: u64,
    /// The host's public key, as `SubjectPublicKeyInfo` in DER.
    pub public_key: &'a [u8],
    /// When it was made.
    pub from: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

/// The authority with its key, in memory alone.
pub struct Authority {
    domain: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({} sha256:{})", self.domain, self.digest())
    }
}

impl Authority {
    /// A new authority for `domain`, and its key as PKCS #8, to be sealed and kept.
    pub fn make(domain: &str, now: Timestamp) -> Result<(Self, Zeroizing<Vec<u8>>), IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let secret = Zeroizing::new(key.serialize_der());
        let mut params = begun(now, AUTHORITY_DAYS * DAY_MS)?;
        params.distinguished_name = named(&format!("Moorline {domain}"));
        // It vouches for hosts and servers, never for another authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        let authority = Self {
            domain: domain.to_owned(),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
        };
        Ok((authority, secret))
    }

    /// The authority that was made before, with this certificate and key.
    pub fn restore(domain: String, certificate: Vec<u8>, key: &[u8]) -> Result<Self, IssueError> {
        let certificate = CertificateDer::from(certificate);
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
        Ok(Self {
            domain,
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
        })
    }

    /// What the authority is known by: the SHA-256 digest of its certificate.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, as files hold it.
    pub fn pem(&self) -> String {
        pem(&self.certificate)
    }

    /// The identity of a host, as its certificate writes it (SPIFFE).
    pub fn host_uri(&self, host: &HostId) -> String {
        format!("spiffe://{}/host/{host}", self.domain)
    }

    /// Its key, for tests that look whether it is anywhere.
    #[cfg(test)]
    pub(super) fn secret(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// A certificate for a server of these names, with a key of its own.
    pub fn server(
        &self,
        names: &[ServerName],
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = begun(now, SERVER_DAYS * DAY_MS)?;
        params.distinguished_name = named("Moorline control plane");
        params.subject_alt_names = names.iter().map(alternative).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = self.leaf(params, &key)?;
        Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key).into()))
    }

    /// A certificate for a host, by which it proves at the control plane who it is and nowhere else anything.
    pub fn host(&self, words: &HostWords<'_>) -> Result<CertificateDer<'static>, IssueError> {
        let key = SubjectPublicKeyInfo::from_der(words.public_key)?;
        let mut params = begun(words.from, words.from.millis_until(words.until).cast_signed())?;
        params.serial_number = Some(SerialNumber::from_slice(&words.serial));
        params.distinguished_name = named(words.host.as_str());
        let generation = DnType::CustomDnType(GENERATION.to_vec());
        params
            .distinguished_name
            .push(generation, words.generation.to_string());
        params.subject_alt_names = vec![SanType::URI(self.host_uri(words.host).try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(self.leaf(params, &key)?.der().clone())
    }

    fn leaf(
        &self,
        mut params: CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<Certificate, rcgen::Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer)
    }
}

/// A certificate as files hold it.
pub fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A certificate that is good from a little before `now` until `millis` after it.
fn begun(now: Timestamp, millis: i64) -> Result<CertificateParams, IssueError> {
    let at = |millis: i64| {
        let since = u64::try_from(millis).map_err(|_| IssueError::Clock(now))?;
        Ok::<_, IssueError>(date_time_ymd(1970, 1, 1) + Duration::from_secs(since / 1_000))
    };
    let last = now.millis().saturating_add(millis);
    // Beyond it a date has five digits, and adding to it panics.
    if last > 253_402_300_799_000 {
        return Err(IssueError::Clock(now));
    }
    let mut params = CertificateParams::default();
    params.not_before = at(now.millis() - EARLIER_MS.min(millis / EARLIER_PART))?;
    params.not_after = at(last)?;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn alternative(name: &ServerName) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        ServerName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        ServerName::Address(address) => SanType::IpAddress(*address),
    })
}
