//! Turns requests into answers: from the cache where it has them, otherwise by asking the control plane.

use moorline_shared::api::data::Entry;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::body::{Code, Freshness, Get, List, Relay, Watch};
use moorline_shared::link::session::Deferred;
use moorline_shared::link::{Kind, StreamId};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision};

use super::ask::{Asker, Errand, MissKey, Page, Question, Refusal, Reply};
use super::clock::Standing;
use super::desk::Desk;
use super::misses::Known;
use super::push::{Feeder, Shown};
use super::reply::{listed, listing, send_entry, send_listing, send_reply};
use super::talk::Talk;
use crate::cache::{CachedEntry, View};

/// When to ask again after too many questions to the control plane, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// A request whose answer is being fetched.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: u64,
    request: Request,
}

#[derive(Debug)]
enum Request {
    Entry,
    List(List),
    Watch(Watch),
    Relay,
}

impl Talk {
    pub(super) fn get(&mut self, stream: StreamId, get: &Get<'_>, desk: &mut Desk) {
        self.requests.gets += 1;
        desk.counts.gets.add();
        let view = self.view_id(get.instance);
        let now = desk.now;
        let serves = |standing: Standing| get.max_age_ms.is_none_or(|most| standing.age_ms <= most);
        match self.look_up(&view, &get.path, desk) {
            Look::Found(entry, standing) if serves(standing) => {
                send_entry(&mut self.core, stream, entry, standing, now);
            }
            Look::Refused(refusal) => self.refuse(stream, &refusal, desk),
            Look::Nothing(standing) if serves(standing) => self.refuse(stream, &no_entry(&get.path), desk),
            Look::Found(..) | Look::Nothing(_) | Look::Ask => self.ask_entry(stream, view, &get.path, desk),
        }
    }

    fn look_up<'d>(&self, id: &ViewId, path: &str, desk: &'d mut Desk) -> Look<'d> {
        let now = desk.now;
        let refused = desk.misses.refused_as_of(id, path, now);
        if id.instance == self.instance && desk.cache.own(&id.reader).is_some_and(|own| self.lags(own)) {
            return Look::Ask;
        }
        match self.whole_view(id, desk) {
            Err(refusal) => Look::Refused(refusal),
            Ok(None) => Look::Ask,
            Ok(Some((view, standing))) => match view.get(path, now) {
                Some(entry) if !self.shown().shows(entry) => Look::Refused(no_entry(path)),
                // The view lags behind what the guest was told, and what somebody sees never goes back.
                Some(entry) if refused.is_some_and(|no| entry.revision <= no && view.known() < no) => {
                    Look::Ask
                }
                Some(entry) => Look::Found(entry, standing),
                None if id.instance == self.instance => Look::Nothing(standing),
                // What a view of another instance doesn't hold may be withheld or not there: the control plane says
                // which.
                None => Look::Ask,
            },
        }
    }

    fn ask_entry(&mut self, stream: StreamId, id: ViewId, path: &str, desk: &mut Desk) {
        let path = match path.parse::<EntryPath>() {
            Ok(path) => path,
            Err(error) => {
                let refusal = Refusal::new(Code::Invalid, error.to_string());
                return self.refuse(stream, &refusal, desk);
            }
        };
        let key = MissKey {
            reader: id.reader,
            instance: id.instance,
            path,
        };
        match desk.misses.look(&key, desk.now) {
            Known::Refused(refusal) => self.refuse(stream, refusal, desk),
            Known::Asking => self.join_in(stream, key, desk),
            Known::Nothing => self.ask_first(stream, key, desk),
        }
    }

    fn join_in(&mut self, stream: StreamId, key: MissKey, desk: &mut Desk) {
        if let Some(asker) = self.defer(stream, Request::Entry, desk) {
            desk.misses.ask(key, asker);
        }
    }

    fn ask_first(&mut self, stream: StreamId, key: MissKey, desk: &mut Desk) {
        if !self.may_ask(stream, Errand::Read, desk) {
            return;
        }
        let Some(asker) = self.defer(stream, Request::Entry, desk) else {
            return;
        };
        if desk.ask(self.instance, Question::Entry(key.clone())) {
            desk.misses.ask(key, asker);
        } else {
            self.busy(stream, desk);
        }
    }

    pub(super) fn list(&mut self, stream: StreamId, list: List, desk: &mut Desk) {
        self.requests.lists += 1;
        desk.counts.lists.add();
        let id = self.view_id(list.instance);
        let now = desk.now;
        match self.whole_view(&id, desk) {
            Ok(Some((view, standing))) => {
                let after = list.after.as_ref();
                let entries = view.range(&list.prefix, after, now);
                let shown = self.shown();
                let entries = entries.filter(|(_, entry)| shown.shows(entry));
                let entries = entries.map(|(path, entry)| listed(path, entry));
                let listing = listing(view.revision(), standing, entries);
                send_listing(&mut self.core, stream, &listing, now);
            }
            Ok(None) => {
                let (instance, prefix) = (id.instance, list.prefix.clone());
                let page = |asker| Question::Page {
                    instance,
                    prefix,
                    asker,
                };
                if self.may_ask(stream, Errand::Read, desk)
                    && let Some(asker) = self.defer(stream, Request::List(list), desk)
                {
                    self.ask(asker, page(asker), desk);
                }
            }
            Err(refusal) => self.refuse(stream, &refusal, desk),
        }
    }

    pub(super) fn watch(&mut self, stream: StreamId, watch: Watch, desk: &mut Desk) {
        self.requests.watches += 1;
        desk.counts.watches.add();
        let id = self.view_id(watch.instance);
        match self.whole_view(&id, desk) {
            Ok(Some(_)) => self.follow(stream, id, watch.prefix),
            Ok(None) => {
                // Whether the instance is there to be watched is the control plane's to say.
                let (instance, prefix) = (id.instance, watch.prefix.clone());
                if self.may_ask(stream, Errand::Read, desk) {
                    let asker = self.await_answer(stream, Request::Watch(watch), desk);
                    let question = Question::Page {
                        instance,
                        prefix,
                        asker,
                    };
                    self.ask(asker, question, desk);
                }
            }
            Err(refusal) => self.refuse(stream, &refusal, desk),
        }
    }

    pub(super) fn relay(&mut self, stream: StreamId, relay: Relay, desk: &mut Desk) {
        self.requests.relays += 1;
        desk.counts.relays.add();
        if self.may_ask(stream, Errand::Relay, desk) {
            let asker = self.await_answer(stream, Request::Relay, desk);
            self.ask(asker, Question::Relay { relay, asker }, desk);
        }
    }

    /// The view and how far it can be trusted, if it is here; `None` if the control plane has to be asked.
    fn whole_view<'d>(
        &self,
        id: &ViewId,
        desk: &'d mut Desk,
    ) -> Result<Option<(&'d View, Standing)>, Refusal> {
        if id.instance == self.instance {
            return self.own_view(desk).map(Some);
        }
        let (feed, now, bounds) = (desk.standing(), desk.now, desk.bounds);
        bounds.foreign(feed)?;
        let view = desk.cache.read_foreign(id, now).filter(|view| view.is_served());
        let with_standing = |view| Ok((view, bounds.foreign(feed.of_view(view, now))?));
        view.map(with_standing).transpose()
    }

    /// What the guest is shown of views. One that doesn't know of secret entries would give them to anybody.
    pub(super) fn shown(&self) -> Shown {
        if self.core.understands(Kind::Secrets) {
            Shown::All
        } else {
            Shown::Open
        }
    }

    fn view_id(&self, instance: Option<InstanceId>) -> ViewId {
        ViewId {
            reader: self.instance,
            instance: instance.unwrap_or(self.instance),
        }
    }

    fn follow(&mut self, stream: StreamId, view: ViewId, prefix: PathPrefix) {
        self.feeders.insert(stream, Feeder::from_nothing(view, prefix));
        self.feed_due = true;
    }

    /// Whether the guest may ask the control plane now; if not, it is told to come back.
    fn may_ask(&mut self, stream: StreamId, errand: Errand, desk: &mut Desk) -> bool {
        let may = desk.may_ask(&self.instance, errand);
        if !may {
            self.busy(stream, desk);
        }
        may
    }

    /// Keeps a GET or LIST open; `None` if too many are, and then the guest was told to come back.
    fn defer(&mut self, stream: StreamId, request: Request, desk: &mut Desk) -> Option<Asker> {
        match self.core.defer(stream, desk.now) {
            Deferred::TooMany => {
                self.requests.refused += 1;
                desk.counts.refused_busy.add();
                None
            }
            Deferred::Open => Some(self.await_answer(stream, request, desk)),
        }
    }

    fn await_answer(&mut self, stream: StreamId, request: Request, desk: &mut Desk) -> Asker {
        let ticket = desk.ticket();
        self.pending.insert(stream, Pending { ticket, request });
        Asker {
            session: self.token,
            stream,
            ticket,
        }
    }

    fn ask(&mut self, asker: Asker, question: Question, desk: &mut Desk) {
        if !desk.ask(self.instance, question) {
            self.busy(asker.stream, desk);
        }
    }

    fn busy(&mut self, stream: StreamId, desk: &Desk) {
        self.requests.refused += 1;
        desk.counts.refused_busy.add();
        self.pending.remove(&stream);
        self.core.busy(stream, RETRY_MS, desk.now);
    }

    fn refuse(&mut self, stream: StreamId, refusal: &Refusal, desk: &Desk) {
        self.requests.refused += 1;
        desk.counts.refused.add();
        self.core.refuse(stream, refusal.code, &refusal.message, desk.now);
    }

    /// The request that waits under this ticket, if it still does.
    fn redeem(&mut self, asker: &Asker) -> Option<Request> {
        let pending = self.pending.get(&asker.stream)?;
        if pending.ticket != asker.ticket {
            return None;
        }
        self.pending.remove(&asker.stream).map(|pending| pending.request)
    }

    /// The control plane answered a GET.
    pub(super) fn entry_came(
        &mut self,
        asker: &Asker,
        answer: Result<&Entry, &Refusal>,
        desk: &mut Desk,
        instance: InstanceId,
    ) {
        if self.redeem(asker).is_none() {
            return;
        }
        match answer {
            Err(refusal) => self.refuse(asker.stream, refusal, desk),
            Ok(entry) => {
                let cached = CachedEntry {
                    revision: entry.revision,
                    content_type: entry.content_type.clone(),
                    value: entry.value.clone().unwrap_or_default(),
                    secret: entry.secret,
                    deadline: None,
                };
                if self.shown().shows(&cached) {
                    send_entry(&mut self.core, asker.stream, &cached, JUST_NOW, desk.now);
                } else {
                    self.refuse(asker.stream, &no_entry(&entry.path), desk);
                }
                if instance == self.instance {
                    self.was_shown(entry.revision);
                }
                self.keep_told(Some(instance), Some(entry.revision), desk);
            }
        }
    }

    /// The control plane answered a LIST, or said that a WATCH may begin.
    pub(super) fn page_came(&mut self, asker: &Asker, answer: Result<Page, Refusal>, desk: &mut Desk) {
        let Some(request) = self.redeem(asker) else {
            return;
        };
        let page = match answer {
            Ok(page) => page,
            Err(refusal) => return self.refuse(asker.stream, &refusal, desk),
        };
        match request {
            Request::List(list) => self.send_page(asker.stream, &list, page, desk),
            Request::Watch(watch) => self.begin_watch(asker.stream, watch, desk),
            Request::Entry | Request::Relay => {}
        }
    }

    fn send_page(&mut self, stream: StreamId, list: &List, page: Page, desk: &mut Desk) {
        let after = list.after.as_ref();
        let shown = self.shown();
        let latest = page.entries.iter().map(|entry| entry.listed.revision).max();
        let rest = page.entries.into_iter().filter(|entry| {
            let named = shown == Shown::All || !entry.secret;
            named && after.is_none_or(|after| entry.listed.path > *after)
        });
        let listing = listing(page.revision, JUST_NOW, rest);
        send_listing(&mut self.core, stream, &listing, desk.now);
        self.keep_told(list.instance, latest, desk);
    }

    fn begin_watch(&mut self, stream: StreamId, watch: Watch, desk: &mut Desk) {
        if self.keep_view(watch.instance, desk) {
            let view = self.view_id(watch.instance);
            self.follow(stream, view, watch.prefix);
        } else {
            let refusal = Refusal::new(
                Code::TooMuch,
                "as many other instances are watched as the host allows: cancel a watch",
            );
            self.refuse(stream, &refusal, desk);
        }
    }

    /// Has the feed keep the view here from now on. `false` if there is no room for it.
    pub(super) fn keep_view(&self, instance: Option<InstanceId>, desk: &mut Desk) -> bool {
        let view = self.view_id(instance);
        view.instance == self.instance || desk.want(view, &self.watched())
    }

    /// The same for a guest that the control plane itself has told of a change: it is shown nothing from before that.
    fn keep_told(&self, instance: Option<InstanceId>, latest: Option<Revision>, desk: &mut Desk) {
        if self.keep_view(instance, desk)
            && let Some(latest) = latest
        {
            desk.cache.told(&self.view_id(instance), latest);
        }
    }

    /// The control plane answered a RELAY.
    pub(super) fn reply_came(&mut self, asker: &Asker, answer: Result<Reply, Refusal>, desk: &Desk) {
        if self.redeem(asker).is_none() {
            return;
        }
        match answer {
            Err(refusal) => self.refuse(asker.stream, &refusal, desk),
            Ok(reply) if self.core.outbox().answer_bytes() + reply.body.len() > desk.link.relayed_bytes => {
                let message =
                    "too many large answers wait for the guest: read them first, and ask for less at a time";
                self.refuse(asker.stream, &Refusal::new(Code::TooMuch, message), desk);
            }
            Ok(reply) => send_reply(&mut self.core, asker.stream, reply, desk.now),
        }
    }
}

/// What the cache says about an entry.
enum Look<'a> {
    Found(&'a CachedEntry, Standing),
    /// There is none.
    Nothing(Standing),
    /// The control plane has to be asked.
    Ask,
    Refused(Refusal),
}

const JUST_NOW: Standing = Standing {
    freshness: Freshness::Fresh,
    age_ms: 0,
    pause_ms: 0,
};

fn no_entry(path: &str) -> Refusal {
    match EntryPath::check(path) {
        Ok(()) => Refusal::new(Code::NotFound, "there is no such entry"),
        Err(error) => Refusal::new(Code::Invalid, error.to_string()),
    }
}
