//! The rules for the certificates of hosts.

use moorline_shared::api::enrolment::MAX_TOKEN_SECONDS;
use moorline_shared::{Digest, HostId, Ttl};

use super::operations::{Op, Reply};
use super::records::{Certificate, Digits, EnrolmentTokenRecord, HostIdentity, HostKey, Standing};
use super::refusal::{Refusal, refuse};
use crate::model::{Env, Intent, Role, ServiceModel, Stop, View};

/// For how long a token is remembered that is no longer good, in seconds, so that who comes late is told so.
const REMEMBER_SECONDS: u32 = 7 * 86_400;

type Step<T> = Result<T, Stop<Refusal>>;

/// The rules.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        match op {
            Op::CreateEnrolmentToken { host, digest, ttl } => create_token(v, env, host, *digest, *ttl),
            Op::EnrolHost {
                host,
                token,
                public_key,
            } => enrol(v, env, host, *token, public_key),
            Op::RenewHostCertificate {
                host,
                serial,
                generation,
                public_key,
            } => {
                let shown = Shown {
                    serial,
                    generation: *generation,
                };
                renew(v, env, host, &shown, public_key)
            }
            Op::RevokeHost { host } => revoke(v, env, host),
            Op::ForgetEnrolmentToken { token } => forget_token(v, env, *token),
        }
    }
}

/// A certificate that a host shows.
struct Shown<'a> {
    serial: &'a str,
    generation: u64,
}

impl Shown<'_> {
    fn is(&self, certificate: &Certificate) -> bool {
        self.generation == certificate.generation && self.serial == certificate.serial.to_string()
    }
}

fn administrator(env: &Env) -> Step<()> {
    match env.caller.role {
        Role::Administrator | Role::Provider => Ok(()),
        Role::Member => refuse(Refusal::Denied(Box::new(env.caller.clone()))),
    }
}

fn create_token(v: &mut View<'_>, env: &Env, host: &HostId, digest: Digest, ttl: Ttl) -> Step<Reply> {
    administrator(env)?;
    if ttl.seconds() > MAX_TOKEN_SECONDS {
        return refuse(Refusal::TooLong(ttl.seconds()));
    }
    if v.get::<EnrolmentTokenRecord>(&digest)?.is_some() {
        return refuse(Refusal::TokenTwice);
    }
    let expires_at = env.now.plus_seconds(ttl.seconds());
    v.put(&EnrolmentTokenRecord {
        digest,
        host: host.clone(),
        expires_at,
        used: None,
    });
    v.later(Intent {
        due: expires_at.plus_seconds(REMEMBER_SECONDS),
        submit: Op::ForgetEnrolmentToken { token: digest }.into(),
    });
    Ok(Reply::Token { expires_at })
}

fn enrol(v: &mut View<'_>, env: &Env, host: &HostId, token: Digest, key: &HostKey) -> Step<Reply> {
    let found = v.get::<EnrolmentTokenRecord>(&token)?;
    let Some(mut token) = found
        .filter(|token| token.host == *host)
        .map(crate::model::view::Kept::into_inner)
    else {
        return refuse(Refusal::UnknownToken(host.clone()));
    };
    let before = v.get::<HostIdentity>(host)?;
    if let Some(used) = &token.used {
        let again =
            before.filter(|host| host.standing == Standing::Enrolled && host.certificate.public_key == *key);
        return match again {
            // The answer was lost, and who asks has the key that it was for.
            Some(host) if used == key => Ok(Reply::Issued(host.into_inner().certificate)),
            _ => refuse(Refusal::TokenUsed(host.clone())),
        };
    }
    if env.now >= token.expires_at {
        let at = token.expires_at;
        let host = host.clone();
        return refuse(Refusal::TokenExpired { host, at });
    }
    token.used = Some(key.clone());
    v.put(&token);
    let generation = before.map_or(0, |before| before.certificate.generation);
    let certificate = next(env, generation, key);
    v.put(&HostIdentity {
        host: host.clone(),
        standing: Standing::Enrolled,
        since: env.now,
        first: certificate.generation,
        certificate: certificate.clone(),
        previous: None,
        enrolled_at: env.now,
    });
    Ok(Reply::Issued(certificate))
}

fn renew(v: &mut View<'_>, env: &Env, host: &HostId, shown: &Shown<'_>, key: &HostKey) -> Step<Reply> {
    let Some(identity) = v.get::<HostIdentity>(host)? else {
        return refuse(Refusal::NotEnrolled(host.clone()));
    };
    let mut identity = identity.into_inner();
    match identity.standing {
        Standing::Enrolled => {}
        Standing::Revoked => return refuse(Refusal::Revoked(host.clone())),
        Standing::Cloned => return refuse(Refusal::Cloned(host.clone())),
    }
    let present = &identity.certificate;
    // The machine that was this host before it was enrolled again takes nothing from the one that is.
    if shown.generation < identity.first {
        return refuse(Refusal::NotEnrolled(host.clone()));
    }
    let is_previous = identity.previous.as_ref().is_some_and(|before| shown.is(before));
    if is_previous && present.public_key == *key {
        return Ok(Reply::Issued(present.clone()));
    }
    // A later one was issued by what a backup has brought back to before.
    if !shown.is(present) && shown.generation <= present.generation {
        v.put(&identity.stands(Standing::Cloned, env.now));
        return Ok(Reply::Cloned);
    }
    let certificate = next(env, present.generation.max(shown.generation), key);
    identity.previous = Some(std::mem::replace(&mut identity.certificate, certificate.clone()));
    v.put(&identity);
    Ok(Reply::Issued(certificate))
}

/// The certificate after the one of a generation.
fn next(env: &Env, generation: u64, key: &HostKey) -> Certificate {
    let mut serial = [0; 16];
    serial.copy_from_slice(&env.operation.digest().bytes()[..16]);
    // Positive, and of one length.
    serial[0] = serial[0] & 0x3f | 0x40;
    Certificate {
        serial: Digits(serial),
        generation: generation.saturating_add(1),
        public_key: key.clone(),
        from: env.now,
        until: env.now.plus_seconds(env.settings.host_certificates.seconds()),
    }
}

fn revoke(v: &mut View<'_>, env: &Env, host: &HostId) -> Step<Reply> {
    administrator(env)?;
    let Some(identity) = v.get::<HostIdentity>(host)? else {
        return refuse(Refusal::NotEnrolled(host.clone()));
    };
    if identity.standing != Standing::Revoked {
        v.put(&identity.into_inner().stands(Standing::Revoked, env.now));
    }
    Ok(Reply::Done)
}

fn forget_token(v: &mut View<'_>, env: &Env, token: Digest) -> Step<Reply> {
    administrator(env)?;
    let found = v.get::<EnrolmentTokenRecord>(&token)?;
    if found.is_some_and(|token| token.expires_at <= env.now) {
        v.delete::<EnrolmentTokenRecord>(&token);
    }
    Ok(Reply::Done)
}
