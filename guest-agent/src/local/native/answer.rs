//! Sends a request where it belongs.

use std::rc::Rc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use moorline_shared::agent::{MirrorStatus, Status};

use super::Native;
use super::params::Params;
use super::problem::Problem;
use super::respond::{entry_bytes, json};
use super::route::{Owner, Route};
use crate::access::Peer;
use crate::local::body::Body;
use crate::local::connection::Asker;
use crate::mirror::Lookup;
use crate::platform::now;

/// What became of a request.
pub(super) type Outcome = Result<Response<Body>, Problem>;

/// What is asked of a path.
const READ: &str = "GET, HEAD";
const READ_AND_CHANGE: &str = "GET, HEAD, PUT, POST, DELETE";

impl Native {
    /// The answer to the plain read of an entry that the mirror has: what local programs do all the time.
    pub(super) fn at_once(&self, request: &Request<Incoming>, peer: &Peer) -> Option<Response<Body>> {
        if request.method() != Method::GET || request.uri().query().is_some() {
            return None;
        }
        let path = request.uri().path().strip_prefix("/v1/data/")?;
        let now = now();
        let mirror = self.backing.given.mirror.read();
        let age = mirror.age(now)?;
        match self.backing.seen(&mirror, peer).get(path, now) {
            Lookup::Found(entry) => Some(entry_bytes(
                entry,
                age.freshness,
                self.backing.given.mirror.age_header(age.ms),
                request.headers(),
            )),
            Lookup::Expired(_) | Lookup::Absent | Lookup::Unknown => None,
        }
    }

    /// The answer to any request.
    pub(super) async fn full_answer(
        &self,
        request: Request<Incoming>,
        asker: &Rc<Asker<()>>,
    ) -> Response<Body> {
        self.outcome(request, asker)
            .await
            .unwrap_or_else(Problem::response)
    }

    async fn outcome(&self, request: Request<Incoming>, asker: &Rc<Asker<()>>) -> Outcome {
        let peer = &asker.peer;
        let (head, body) = request.into_parts();
        let route = Route::parse(head.uri.path())?;
        let params = Params::parse(head.uri.query())?;
        let reads = head.method == Method::GET || head.method == Method::HEAD;
        match route {
            Route::Data(owner, path) if !reads => match head.method {
                Method::PUT | Method::POST | Method::DELETE => {
                    self.may_change(peer)?;
                    self.change(&head, self.whose(owner)?, path, params, body).await
                }
                _ => Err(Problem::wrong_method(READ_AND_CHANGE)),
            },
            _ if !reads => Err(Problem::wrong_method(READ)),
            Route::Status => params.finish().map(|()| self.status()),
            Route::Data(owner, path) => {
                self.read(peer, self.other(owner), path, params, &head.headers)
                    .await
            }
            Route::Entry(owner, path) => self.describe(peer, self.other(owner), path, params).await,
            Route::Credentials => self.credentials(peer, params).await,
            Route::Role(name) => self.role(peer, name, params).await,
            Route::IdentityToken => {
                self.may_change(peer)?;
                self.identity_token(params).await
            }
            Route::Writes => {
                self.may_change(peer)?;
                self.open_writes(params)
            }
            Route::Write(key) => {
                self.may_change(peer)?;
                self.write_status(key, params).await
            }
            Route::Watch(owner) => self.watch(asker, self.other(owner), params).await,
        }
    }

    /// The other instance that is meant; `None` for this one.
    fn other(&self, owner: Owner) -> Option<moorline_shared::InstanceId> {
        match owner {
            Owner::Own => None,
            Owner::Named(id) => {
                let own = self.backing.line.identity().map(|identity| identity.instance);
                (own != Some(id)).then_some(id)
            }
        }
    }

    /// The instance that is meant, by its id; the agent learns its own from the host.
    pub(super) fn whose(&self, owner: Owner) -> Result<moorline_shared::InstanceId, Problem> {
        match owner {
            Owner::Named(id) => Ok(id),
            Owner::Own => self
                .backing
                .line
                .identity()
                .map(|own| own.instance)
                .ok_or_else(Problem::not_ready),
        }
    }

    fn status(&self) -> Response<Body> {
        let now = now();
        let mirror = self.backing.given.mirror.read();
        let mirrored = mirror
            .revision()
            .zip(mirror.age(now))
            .map(|(revision, age)| MirrorStatus {
                revision,
                entries: mirror.len() as u64,
                bytes: mirror.bytes() as u64,
                age_ms: age.ms,
                freshness: age.freshness,
            });
        let status = Status {
            build: crate::BUILD.to_owned(),
            link: self.backing.line.status(now),
            identity: self.backing.line.identity(),
            mirror: mirrored,
        };
        json(&status)
    }
}
