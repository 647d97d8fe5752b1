//! Who is concerned by an event, and what they are told. Pure: events in, items per host out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use moorline_shared::access::Right;
use moorline_shared::api::feed::{FeedEntry, FeedItem, InstanceSpec, ViewId};
use moorline_shared::api::instances::InstanceState;
use moorline_shared::entry::Value;
use moorline_shared::id::GroupName;
use moorline_shared::{EntryPath, HostId, InstanceId, Principal, Revision};

use crate::identity::directory::MembershipRecord;
use crate::identity::master::MasterKey;
use crate::instance_data::access::{Asker, Owner, rights};
use crate::instance_data::records::EntryRecord;
use crate::instances::records::InstanceRecord;
use crate::model::content::LongValue;
use crate::model::sealing::open;
use crate::model::{Record, Role};
use crate::settings::AccessControl;
use crate::store::Event;

/// What a change of the store is about, as far as hosts are concerned.
#[derive(Debug)]
pub enum Change {
    /// An instance is new or changed.
    Instance(InstanceRecord, Revision),
    /// A terminated instance is no longer kept.
    InstanceForgotten(InstanceId),
    /// An entry is new or changed; its value where it is short or came in the same transaction, opened if it is secret.
    Entry(EntryRecord, Revision, Option<Value>),
    /// An entry is gone.
    EntryGone(InstanceId, EntryPath),
    /// An instance came into a group, or left it.
    Membership(MembershipRecord, InstanceId, Place),
}

/// Whether somebody is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// They are.
    In,
    /// They are not.
    Out,
}

impl Change {
    /// Instances come first: an entry of a new instance concerns the host that the instance is on. Groups come before
    /// entries, which they decide who reads. Those that are no longer kept go last: their entries went with them.
    const fn turn(&self) -> u8 {
        match self {
            Self::Instance(..) => 0,
            Self::Membership(..) => 1,
            Self::Entry(..) | Self::EntryGone(..) => 2,
            Self::InstanceForgotten(_) => 3,
        }
    }
}

type LongId = <LongValue as Record>::Id;

/// What concerns hosts among the events of a transaction.
pub fn changes(epoch: u64, events: &[Event], master: &MasterKey) -> Vec<Change> {
    let long: HashMap<_, _> = events.iter().filter_map(long_value).collect();
    events
        .iter()
        .filter_map(|event| change(epoch, event, &long, master))
        .collect()
}

/// An append may write two: what was added, and what came of it.
fn long_value(event: &Event) -> Option<(LongId, Value)> {
    event.key.as_bytes().strip_prefix(b"value/")?;
    let long: LongValue = serde_json::from_slice(&event.value.as_ref()?.value).ok()?;
    Some(((long.instance, long.path, long.digest), long.value))
}

fn change(epoch: u64, event: &Event, long: &HashMap<LongId, Value>, master: &MasterKey) -> Option<Change> {
    let key = std::str::from_utf8(event.key.as_bytes()).ok()?;
    match (key.split_once('/')?, &event.value) {
        (("instance", _), Some(kept)) => {
            let record = serde_json::from_slice(&kept.value).ok()?;
            Some(Change::Instance(record, Revision::new(epoch, kept.modified)))
        }
        (("instance", id), None) => Some(Change::InstanceForgotten(id.parse().ok()?)),
        (("entry", _), Some(kept)) => {
            let record: EntryRecord = serde_json::from_slice(&kept.value).ok()?;
            let content = match record.content.digest() {
                None => Some(record.content.clone()),
                Some(digest) => long
                    .get(&(record.instance, record.path.clone(), digest))
                    .map(|bytes| record.content.clone().with(bytes.clone())),
            };
            // One that doesn't open is told of by whoever reads the view anew for the want of it.
            let value =
                content.and_then(|content| open(master, record.instance, &record.path, &content).ok());
            Some(Change::Entry(record, Revision::new(epoch, kept.modified), value))
        }
        (("entry", rest), None) => {
            let (instance, path) = rest.split_once('/')?;
            Some(Change::EntryGone(instance.parse().ok()?, path.parse().ok()?))
        }
        (("membership", rest), kept) => {
            let place = if kept.is_some() { Place::In } else { Place::Out };
            let membership = MembershipRecord::named(rest)?;
            match membership.member {
                Principal::Instance(instance) => Some(Change::Membership(membership, instance, place)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What a host is told of a transaction. A view that must be read as a whole is named, to be read at its revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// This changed.
    Item(FeedItem),
    /// This view is to be read anew: what its reader may see changed, or a value is not at hand.
    Reread(ViewId),
    /// An entry that the reader may not read, or that is gone. A host that was shown it before is told that it is no more
    /// to be seen; any other doesn't even hear its name.
    Withheld(ViewId, EntryPath),
}

/// Which instances are where, and who reads whom.
#[derive(Debug, Default)]
pub struct Index {
    instances: HashMap<InstanceId, InstanceRecord>,
    by_host: HashMap<HostId, BTreeSet<InstanceId>>,
    readers: HashMap<InstanceId, BTreeSet<InstanceId>>,
    groups: HashMap<InstanceId, BTreeSet<GroupName>>,
    control: AccessControl,
}

/// What one transaction tells each host.
pub type PerHost = BTreeMap<HostId, Vec<Told>>;

impl Index {
    /// An index of no instances.
    pub fn new(control: AccessControl) -> Self {
        Self {
            control,
            ..Self::default()
        }
    }

    /// The instance's record.
    pub fn instance(&self, id: &InstanceId) -> Option<&InstanceRecord> {
        self.instances.get(id)
    }

    /// The instances of a host.
    pub fn on(&self, host: &HostId) -> impl Iterator<Item = &InstanceRecord> {
        self.by_host
            .get(host)
            .into_iter()
            .flatten()
            .filter_map(|id| self.instances.get(id))
    }

    /// Whether `view`'s reader is on `host`: no host asks for another's guests.
    pub fn may_want(&self, host: &HostId, view: ViewId) -> bool {
        self.instances
            .get(&view.reader)
            .is_some_and(|reader| reader.host == *host)
    }

    /// The reader's host is told of the instance's entries from now on.
    pub fn add_reader(&mut self, view: ViewId) {
        self.readers.entry(view.instance).or_default().insert(view.reader);
    }

    /// No longer.
    pub fn remove_reader(&mut self, view: ViewId) {
        if let Some(readers) = self.readers.get_mut(&view.instance) {
            readers.remove(&view.reader);
            if readers.is_empty() {
                self.readers.remove(&view.instance);
            }
        }
    }

    /// Takes an instance in without telling anybody.
    pub fn load(&mut self, record: InstanceRecord) {
        self.by_host
            .entry(record.host.clone())
            .or_default()
            .insert(record.id);
        self.instances.insert(record.id, record);
    }

    /// Takes an instance's place in a group in without telling anybody. A group and its members are of one account.
    pub fn load_membership(&mut self, instance: InstanceId, group: GroupName, place: Place) {
        let groups = self.groups.entry(instance).or_default();
        match place {
            Place::In => drop(groups.insert(group)),
            Place::Out => drop(groups.remove(&group)),
        }
        if groups.is_empty() {
            self.groups.remove(&instance);
        }
    }

    /// Takes the changes of one transaction in, and says who is told what.
    pub fn apply(&mut self, mut changes: Vec<Change>) -> PerHost {
        let mut told = PerHost::new();
        changes.sort_by_key(Change::turn);
        for change in changes {
            match change {
                Change::Instance(record, revision) => self.apply_instance(record, revision, &mut told),
                Change::Entry(record, revision, value) => {
                    self.apply_entry(&record, revision, value.as_ref(), &mut told);
                }
                Change::Membership(membership, instance, place) => {
                    self.load_membership(instance, membership.group, place);
                    self.reread(instance, &mut told);
                }
                Change::InstanceForgotten(id) => self.forget(id),
                Change::EntryGone(instance, path) => {
                    for (host, view) in self.concerned(instance) {
                        let withheld = Told::Withheld(view, path.clone());
                        told.entry(host).or_default().push(withheld);
                    }
                }
            }
        }
        told
    }

    /// Its host was told of its end long ago.
    fn forget(&mut self, id: InstanceId) {
        if let Some(record) = self.instances.remove(&id)
            && let Some(others) = self.by_host.get_mut(&record.host)
        {
            others.remove(&id);
            if others.is_empty() {
                self.by_host.remove(&record.host);
            }
        }
        self.groups.remove(&id);
        self.readers.remove(&id);
        self.readers.retain(|_, readers| {
            readers.remove(&id);
            !readers.is_empty()
        });
    }

    fn apply_instance(&mut self, record: InstanceRecord, revision: Revision, told: &mut PerHost) {
        let old = self.instances.get(&record.id);
        let reads_otherwise = old.is_some_and(|old| {
            old.tags != record.tags || old.is_out_of_session() != record.is_out_of_session()
        });
        let item = if record.state == InstanceState::Terminated {
            FeedItem::InstanceGone { instance: record.id }
        } else {
            FeedItem::Instance(spec(&record, revision))
        };
        told.entry(record.host.clone())
            .or_default()
            .push(Told::Item(item));
        let id = record.id;
        self.load(record);
        if reads_otherwise {
            self.reread(id, told);
        }
    }

    /// Has everything read anew that a reader sees, because it has other rights than before. One that has ended is not
    /// on its host any more.
    fn reread(&self, reader: InstanceId, told: &mut PerHost) {
        let Some(record) = self.instances.get(&reader) else {
            return;
        };
        if record.state != InstanceState::Terminated {
            let views = self.read_by(reader).map(Told::Reread);
            told.entry(record.host.clone()).or_default().extend(views);
        }
    }

    /// The views of a reader: of itself and of those it reads.
    fn read_by(&self, reader: InstanceId) -> impl Iterator<Item = ViewId> {
        let others = self
            .readers
            .iter()
            .filter(move |(_, readers)| readers.contains(&reader));
        let others = others.map(move |(instance, _)| ViewId {
            reader,
            instance: *instance,
        });
        std::iter::once(ViewId::own(reader)).chain(others)
    }

    /// The views that show an instance's entries, each with the host that has it.
    fn concerned(&self, instance: InstanceId) -> Vec<(HostId, ViewId)> {
        let readers = self.readers.get(&instance).into_iter().flatten().copied();
        std::iter::once(instance)
            .chain(readers)
            .filter_map(|reader| {
                Some((
                    self.instances.get(&reader)?.host.clone(),
                    ViewId { reader, instance },
                ))
            })
            .collect()
    }

    fn apply_entry(
        &self,
        record: &EntryRecord,
        revision: Revision,
        value: Option<&Value>,
        told: &mut PerHost,
    ) {
        for (host, view) in self.concerned(record.instance) {
            let told = told.entry(host).or_default();
            if !self.may_read(view, record) {
                told.push(Told::Withheld(view, record.path.clone()));
            } else if let Some(value) = value {
                let entry = Some(shown(record, revision, value.clone()));
                told.push(Told::Item(FeedItem::Entry {
                    view,
                    path: record.path.clone(),
                    entry,
                }));
            } else {
                told.push(Told::Reread(view));
            }
        }
    }

    /// Whether the view shows the entry.
    pub fn may_read(&self, view: ViewId, entry: &EntryRecord) -> bool {
        let (Some(reader), Some(owner)) = (
            self.instances.get(&view.reader),
            self.instances.get(&view.instance),
        ) else {
            return false;
        };
        if !sees(reader, view.instance) {
            return false;
        }
        let groups = self.groups.get(&view.reader).cloned().unwrap_or_default();
        may_read(&asker(reader, groups), owner, entry, self.control)
    }
}

/// Whether a reader sees anything of an instance. One whose session was ended keeps what is its own, and reads nothing of
/// others, as if it asked the control plane.
pub fn sees(reader: &InstanceRecord, instance: InstanceId) -> bool {
    reader.id == instance || !reader.is_out_of_session()
}

/// An instance as decisions take it.
pub fn asker(reader: &InstanceRecord, groups: BTreeSet<GroupName>) -> Asker {
    Asker {
        principal: Principal::Instance(reader.id),
        account: reader.account.clone(),
        role: Role::Member,
        tags: reader.tags.clone(),
        groups,
    }
}

/// Whether an instance may read an entry: the same decision as an operation's.
pub fn may_read(reader: &Asker, owner: &InstanceRecord, entry: &EntryRecord, control: AccessControl) -> bool {
    let owner = Owner {
        instance: owner.id,
        account: &owner.account,
    };
    rights(reader, owner, entry, control).has(Right::Read)
}

/// An entry as hosts keep it.
pub fn shown(record: &EntryRecord, revision: Revision, value: Value) -> FeedEntry {
    FeedEntry {
        revision,
        content_type: record.content_type.clone(),
        value,
        secret: record.is_secret(),
        expires_at: record.expires_at,
    }
}

/// An instance as its host must know it.
pub fn spec(record: &InstanceRecord, revision: Revision) -> InstanceSpec {
    InstanceSpec {
        instance: record.id,
        revision,
        account: record.account.clone(),
        name: record.name.clone(),
        driver: record.driver,
        image: record.image.clone(),
        vcpus: record.vcpus,
        memory_mib: record.memory_mib,
        desired: record.desired,
        roles: record.roles.clone(),
        reboots: record.reboots,
        incarnation: record.incarnation,
    }
}
