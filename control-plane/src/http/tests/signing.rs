//! A guest and a host that sign, well or badly.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_shared::Digest;
use moorline_shared::signature::{
    self, Algorithm, CONTENT_DIGEST, GUEST, HOST, Input, Parameter, Request as Signed, SIGNATURE, Seconds,
    TOKEN, content_digest, guest_input, host_input,
};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value as Json, json};

use super::host::Host;
use super::{Api, Reply};
use crate::http::peer::HostCertificate;

impl Api {
    /// Asks for the session of an instance, as its host does.
    pub(super) async fn session(&self, host: &Host, instance: &str, asked: Json) -> Reply {
        let target = format!("/v1/hosts/{}/instances/{instance}/session", host.name);
        self.by_host(host, Method::POST, &target, &[], asked).await
    }

    /// An instance in its first life, with its session.
    pub(super) async fn guest(&self, id: &str) -> Guest {
        let given = self.session(self.host(), id, json!({"incarnation": 1})).await;
        assert_eq!(given.status, StatusCode::OK, "{given:?}");
        Guest::of(id, &given.body)
    }
}

/// What a guest has of its session.
pub(super) struct Guest {
    pub(super) id: String,
    pub(super) token: String,
    pub(super) token_id: String,
    pub(super) session: String,
    pub(super) shared: Vec<u8>,
    pub(super) own: Option<Ed25519KeyPair>,
}

impl Guest {
    /// The guest whose host was given this for it.
    pub(super) fn of(id: &str, given: &Json) -> Self {
        let text = |name: &str| given[name].as_str().unwrap().to_owned();
        Self {
            id: id.to_owned(),
            token: text("token"),
            token_id: text("token_id"),
            session: text("session"),
            shared: STANDARD.decode(text("key")).unwrap(),
            own: None,
        }
    }

    /// Makes a key of its own, which the control plane gets to know.
    pub(super) async fn identify(&mut self, api: &Api, host: &Host) -> Reply {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = STANDARD.encode(key.public_key().as_ref());
        let target = format!("/v1/instances/{}/identify", self.id);
        let body = json!({ "public_key": public });
        let reply = Draft::new(self, Method::POST, &target, &body.to_string())
            .passed_on_by(host)
            .send(api)
            .await;
        self.own = Some(key);
        reply
    }

    pub(super) fn put(&self, value: &str) -> Draft<'_> {
        let target = format!("/v1/instances/{}/data/own", self.id);
        Draft::new(self, Method::PUT, &target, &json!({ "value": value }).to_string())
    }
}

/// A request that is still to be signed.
pub(super) struct Draft<'a> {
    guest: &'a Guest,
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) authority: String,
    pub(super) body: String,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) created: i64,
    pub(super) nonce: String,
    pub(super) token: String,
    pub(super) token_id: String,
    pub(super) own: Option<&'a Ed25519KeyPair>,
    /// What is covered instead of what must be.
    pub(super) input: Option<Input>,
}

pub(super) fn present() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

pub(super) fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

impl<'a> Draft<'a> {
    pub(super) fn new(guest: &'a Guest, method: Method, target: &str, body: &str) -> Self {
        Self {
            guest,
            method,
            target: target.to_owned(),
            authority: "test".to_owned(),
            body: body.to_owned(),
            fields: vec![("idempotency-key", random())],
            created: present(),
            nonce: random(),
            token: guest.token.clone(),
            token_id: guest.token_id.clone(),
            own: guest.own.as_ref(),
            input: None,
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Sends it through the host that has all instances.
    pub(super) async fn relayed(self, api: &Api) -> Reply {
        self.passed_on_by(api.host()).send(api).await
    }

    /// Signs it, and has the host sign that.
    pub(super) fn passed_on_by(self, host: &Host) -> Message {
        self.signed_by_host(host, host)
    }

    /// The same, where the host that sends it isn't the one that signs it.
    pub(super) fn signed_by_host(self, signer: &Host, sender: &Host) -> Message {
        let mut fields = self.fields.clone();
        fields.push((
            CONTENT_DIGEST,
            content_digest::write(&Digest::of(self.body.as_bytes())),
        ));
        fields.push((TOKEN, self.token.clone()));
        let lines: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let request = Signed {
            method: self.method.as_str(),
            authority: &self.authority,
            target: &self.target,
            fields: &lines,
        };
        let algorithm = self.own.map_or(Algorithm::HmacSha256, |_| Algorithm::Ed25519);
        let input = self.input.clone().unwrap_or_else(|| {
            guest_input(
                &request,
                Seconds(self.created),
                &self.nonce,
                &self.token_id,
                algorithm,
            )
        });
        let base = request.base(&input).unwrap();
        let signature = if let Some(own) = self.own {
            own.sign(base.as_bytes()).as_ref().to_vec()
        } else {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &self.guest.shared);
            hmac::sign(&key, base.as_bytes()).as_ref().to_vec()
        };
        fields.extend(signature::fields(GUEST, &input, &signature));
        let mut message = Message {
            instance: self.guest.id.clone(),
            method: self.method,
            target: self.target,
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body: self.body,
            certificate: sender.certificate.clone(),
        };
        message.countersign(signer, present());
        message
    }
}

/// A request as it leaves a host.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) instance: String,
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: String,
    certificate: HostCertificate,
}

impl Message {
    pub(super) fn countersign(&mut self, host: &Host, created: i64) {
        let guest = self.field(SIGNATURE);
        let signed = Signed {
            method: "",
            authority: "",
            target: "",
            fields: &[(SIGNATURE, &guest)],
        };
        let input = host_input(Seconds(created), &host.certificate.serial);
        let base = signed.base(&input).unwrap();
        let signature = host.key.sign(&SystemRandom::new(), base.as_bytes()).unwrap();
        let added = signature::fields(HOST, &input, signature.as_ref());
        self.fields
            .extend(added.map(|(name, value)| (name.to_owned(), value)));
    }

    pub(super) fn field(&self, name: &str) -> String {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// The lines of a field, each with its place among all.
    pub(super) fn lines(&self, name: &str) -> Vec<(usize, String)> {
        let all = self.fields.iter().enumerate();
        let of = all.filter(|(_, (known, _))| known == name);
        of.map(|(at, (_, value))| (at, value.clone())).collect()
    }

    pub(super) fn change(&mut self, name: &str, change: impl Fn(&str) -> String) {
        for (_, value) in self.fields.iter_mut().filter(|(known, _)| known == name) {
            *value = change(value);
        }
    }

    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.fields.retain(|(known, _)| known != name);
    }

    pub(super) async fn send(self, api: &Api) -> Reply {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(&self.target)
            .header("moorline-instance", &self.instance)
            .extension(self.certificate);
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        api.exchange(request.body(Body::from(self.body)).unwrap()).await
    }
}

/// The guest's input without one of its components.
pub(super) fn without(draft: &Draft<'_>, component: &str) -> Input {
    let fields: Vec<_> = draft
        .fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let request = Signed {
        method: draft.method.as_str(),
        authority: &draft.authority,
        target: &draft.target,
        fields: &fields,
    };
    let kept = signature::covered(&request)
        .into_iter()
        .filter(|known| known.name() != component);
    Input::new(
        kept.collect(),
        vec![
            Parameter::Created(Seconds(draft.created)),
            Parameter::Nonce(draft.nonce.as_str().into()),
            Parameter::KeyId(draft.token_id.as_str().into()),
            Parameter::Algorithm(Algorithm::HmacSha256.as_str().into()),
            Parameter::Tag(signature::GUEST_TAG.into()),
        ],
    )
}
