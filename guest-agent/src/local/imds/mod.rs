//! The metadata service of EC2 (IMDS), version 2 and where allowed version 1, for what data this instance has.
//!
//! [`door`] listens once the first data are there, and knows of every connection whose it is. [`request`] decides what a
//! request is for and whether it may be answered at all; [`token`] makes the tokens of version 2. [`table`] says which
//! path shows what, [`tree`] walks it, and [`documents`] makes what is no entry. Every answer comes from one state of the
//! mirror and of the credentials, so that what a listing names a read then finds.

mod documents;
mod door;
mod request;
mod respond;
mod table;
#[cfg(test)]
mod tests;
mod token;
mod tree;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use moorline_shared::link::Moment;
use tokio::time::timeout;

use super::Backing;
use super::body::Body;
use super::connection::{Answering, Asker};
use super::surface::{Opened, Surface};
use crate::access::Peer;
use crate::platform::{self, now};
use door::Gate;
use request::{Asked, Hosts, Refusal};
use token::Tokens;
use tree::{State, Target};

pub(super) use door::OpenError;

/// How long a request waits for data that are on their way; clients give up after a second.
const LONGEST_WAIT: Duration = Duration::from_millis(900);

/// Whether the service is wanted, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether a request without a token is answered.
    pub version: Version,
    /// Where it listens. An address that is none of the machine's own 127.0.0.0/8 is added to `lo` meanwhile.
    pub listen: SocketAddrV4,
}

/// Which requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Those without a token, too.
    V1,
    /// Only those with a token.
    V2,
}

/// The text names no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is v1 and v2")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(VersionError),
        }
    }
}

impl Settings {
    /// Where every client looks.
    pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80);
}

/// The surface.
#[derive(Debug)]
pub(super) struct Imds {
    backing: Rc<Backing>,
    version: Version,
    hosts: Hosts,
    tokens: Tokens,
}

/// The last token that was good on a connection, and until when it is: clients send the same one again and again.
type Memory = RefCell<Option<(HeaderValue, Moment)>>;

/// Binds the address, if the service is wanted, and adds it to the machine before.
pub(super) fn open(backing: &Rc<Backing>) -> Result<Option<Opened<Gate, Imds>>, OpenError> {
    let Some(settings) = backing.settings.imds else {
        return Ok(None);
    };
    let door = Gate::bind(settings.listen, Rc::clone(&backing.given.mirror))?;
    let surface = Imds::new(backing, settings).map_err(OpenError::Key)?;
    Ok(Some(Opened {
        door,
        surface: Rc::new(surface),
    }))
}

impl Surface for Imds {
    type Memory = Memory;

    fn answer(self: &Rc<Self>, request: Request<Incoming>, asker: &Rc<Asker<Memory>>) -> Answering {
        match request::read(&request, &self.hosts) {
            Ok(Asked::Token(ttl)) => Answering::now(respond::token(self.tokens.issue(ttl, now()), ttl)),
            Ok(Asked::Path { path, token }) => self.read(path, token, asker),
            Err(refusal) => Answering::now(respond::refusal(refusal)),
        }
    }
}

impl Imds {
    fn new(backing: &Rc<Backing>, settings: Settings) -> Result<Self, token::KeyError> {
        Ok(Self {
            backing: Rc::clone(backing),
            version: settings.version,
            hosts: Hosts::of(settings.listen),
            tokens: Tokens::new()?,
        })
    }

    fn read(
        self: &Rc<Self>,
        path: &str,
        token: Option<&HeaderValue>,
        asker: &Rc<Asker<Memory>>,
    ) -> Answering {
        let now = now();
        if let Err(refusal) = self.admit(token, &asker.memory, now) {
            return Answering::now(respond::refusal(refusal));
        }
        let Some(target) = Target::parse(path) else {
            return Answering::now(respond::refusal(Refusal::NotFound));
        };
        if self.is_settled(&target, now) {
            return Answering::now(self.show(&target, &asker.peer, now));
        }
        let (surface, asker, target) = (Rc::clone(self), Rc::clone(asker), target.into_owned());
        Answering::later(async move {
            let _busy = asker.busy();
            surface.settle(&target).await;
            surface.show(&target, &asker.peer, platform::now())
        })
    }

    /// Whether the request has the token that it needs.
    fn admit(&self, token: Option<&HeaderValue>, memory: &Memory, now: Moment) -> Result<(), Refusal> {
        match token {
            None if self.version == Version::V1 => Ok(()),
            None => Err(Refusal::Unauthorized),
            Some(token) => self.check(token, memory, now),
        }
    }

    fn check(&self, token: &HeaderValue, memory: &Memory, now: Moment) -> Result<(), Refusal> {
        let mut last = memory.borrow_mut();
        if let Some((known, until)) = &*last
            && now < *until
            && known == token
        {
            return Ok(());
        }
        let until = self.tokens.check(token.as_bytes(), now);
        let until = until.ok_or(Refusal::Unauthorized)?;
        *last = Some((token.clone(), until));
        Ok(())
    }

    /// Whether nothing that the answer needs is still on its way.
    fn is_settled(&self, target: &Target<'_>, now: Moment) -> bool {
        let given = &self.backing.given;
        given.mirror.read().applied().is_some()
            && (!target.is_of_credentials() || !given.credentials.read().is_incomplete(now))
    }

    async fn settle(&self, target: &Target<'_>) {
        let given = &self.backing.given;
        let all = async {
            given.mirror.until(|mirror| mirror.applied().map(|_| ())).await;
            if target.is_of_credentials() {
                given.credentials.complete(LONGEST_WAIT).await;
            }
        };
        // Whoever asks then gets what there is.
        let _ = timeout(LONGEST_WAIT.min(self.backing.settings.first_wait), all).await;
    }

    fn show(&self, target: &Target<'_>, peer: &Peer, now: Moment) -> Response<Body> {
        let (mirror, held) = (
            self.backing.given.mirror.read(),
            self.backing.given.credentials.read(),
        );
        let state = State {
            view: self.backing.seen(&mirror, peer),
            held: &held,
            backing: &self.backing,
            peer,
            now,
        };
        match target.show(&state) {
            Some(shown) => respond::shown(shown),
            // What may still come must not be taken for what isn't there.
            None if !self.is_settled(target, now) => respond::refusal(Refusal::Unavailable),
            None => respond::refusal(Refusal::NotFound),
        }
    }
}
