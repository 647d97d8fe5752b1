//! What can happen.

use proptest::prelude::*;

use crate::disk::Round;

/// Something that happens. Numbers stand for one of what there is, whatever there is then.
#[derive(Clone, Debug)]
pub enum Event {
    /// A user gives an entry a value.
    Put {
        /// Whose.
        slot: usize,
        /// Which.
        path: usize,
        /// How long it is.
        size: Size,
    },
    /// A user changes two entries together.
    Pair(usize),
    /// A user removes an entry.
    Delete(usize, usize),
    /// A user lets others read an entry, or do more with it.
    Share {
        /// Whose.
        slot: usize,
        /// Which.
        path: usize,
        /// With whom.
        whom: Whom,
    },
    /// A user tags an instance, or takes its tags.
    Tag(usize, bool),
    /// A user takes an instance into the group, or out of it.
    Group(usize, bool),
    /// A program in a guest changes an entry of its own instance or of another.
    Write {
        /// Where the program is.
        slot: usize,
        /// Whose entry.
        of: usize,
        /// Whether it goes behind what is there.
        append: bool,
    },
    /// A program reads an entry of another instance.
    Get(usize, usize, usize),
    /// A program lists what another instance has.
    List(usize, usize),
    /// A program watches another instance.
    Watch(usize, usize),
    /// It no longer does.
    Unwatch(usize, usize),
    /// One thing moves on; of a connection so many bytes.
    Move(usize, usize),
    /// All that can moves on, so many times.
    Flow(usize),
    /// A call is lost on its way.
    Drop(usize),
    /// A call reaches the control plane twice.
    Echo(usize),
    /// A connection of a guest dies.
    Cut(usize, CutAt),
    /// A host's feed breaks.
    CutFeed(usize),
    /// A host is cut off from the control plane.
    Part(usize),
    /// It isn't any more.
    Join(usize),
    /// Time passes, in milliseconds, with everything moving.
    Advance(u64),
    /// Time passes, in milliseconds, with nothing moving.
    Stall(u64),
    /// The control plane is killed.
    KillPlane,
    /// It starts.
    StartPlane,
    /// It is put back to a backup of so many transactions ago.
    RestorePlane(u64),
    /// A host daemon writes what it has to disk, or begins to.
    Save(usize, Round),
    /// A host daemon is killed.
    KillHost(usize),
    /// It starts.
    StartHost(usize),
    /// An agent is killed.
    KillAgent(usize),
    /// It starts.
    StartAgent(usize),
    /// A machine stands still.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// A snapshot of a machine is made.
    Snapshot(usize),
    /// A machine is put back to its snapshot.
    Restore(usize),
    /// Another life of a machine begins.
    NewLife(usize),
    /// An instance is terminated.
    Terminate(usize),
    /// Another instance's machine takes a slot, with a disk of its own or with a copy of the one before.
    Replace(usize, bool),
}

/// How long a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A few bytes.
    Small,
    /// More than a record holds.
    Long,
    /// More than a frame holds.
    Frames,
}

/// Who is given rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The instance in a slot.
    Instance(usize),
    /// Whoever has the tag.
    Tagged,
    /// Whoever is in the group.
    Group,
    /// With nobody but the instance itself.
    Owner,
    /// Not even the instance itself.
    Nobody,
}

/// Who sees that a connection dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutAt {
    /// Both ends.
    Both,
    /// The guest, while what it sent is still under way.
    Guest,
    /// The host.
    Host,
    /// Nobody.
    Neither,
}

fn whom() -> impl Strategy<Value = Whom> {
    prop_oneof![
        5 => (0..crate::SLOTS).prop_map(Whom::Instance),
        1 => Just(Whom::Tagged),
        1 => Just(Whom::Group),
        2 => Just(Whom::Owner),
        2 => Just(Whom::Nobody),
    ]
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![12 => Just(Size::Small), 2 => Just(Size::Long), 1 => Just(Size::Frames)]
}

fn cut() -> impl Strategy<Value = CutAt> {
    prop_oneof![
        Just(CutAt::Both),
        Just(CutAt::Guest),
        Just(CutAt::Host),
        Just(CutAt::Neither)
    ]
}

fn round() -> impl Strategy<Value = Round> {
    prop_oneof![2 => Just(Round::Whole), 1 => Just(Round::HalfWay)]
}

/// What users and programs do.
fn work() -> impl Strategy<Value = Event> {
    let slot = || 0..crate::SLOTS;
    let path = || prop_oneof![1 => Just(0), 1 => 0..crate::doings::PATHS.len()];
    prop_oneof![
        10 => (slot(), path(), size()).prop_map(|(slot, path, size)| Event::Put { slot, path, size }),
        6 => slot().prop_map(Event::Pair),
        3 => (slot(), path()).prop_map(|(slot, path)| Event::Delete(slot, path)),
        8 => (slot(), path(), whom()).prop_map(|(slot, path, whom)| Event::Share { slot, path, whom }),
        2 => (slot(), any::<bool>()).prop_map(|(slot, on)| Event::Tag(slot, on)),
        2 => (slot(), any::<bool>()).prop_map(|(slot, on)| Event::Group(slot, on)),
        14 => (slot(), slot(), any::<bool>()).prop_map(|(slot, of, append)| Event::Write { slot, of, append }),
        9 => (slot(), slot(), path()).prop_map(|(slot, of, path)| Event::Get(slot, of, path)),
        3 => (slot(), slot()).prop_map(|(slot, of)| Event::List(slot, of)),
        5 => (slot(), slot()).prop_map(|(slot, of)| Event::Watch(slot, of)),
        1 => (slot(), slot()).prop_map(|(slot, of)| Event::Unwatch(slot, of)),
    ]
}

/// What becomes of what is under way, and the time.
fn travel() -> impl Strategy<Value = Event> {
    let host = || 0..crate::HOSTS;
    let bytes = prop_oneof![6 => Just(usize::MAX), 2 => 1usize..40];
    prop_oneof![
        60 => (any::<usize>(), bytes).prop_map(|(which, bytes)| Event::Move(which, bytes)),
        18 => (1usize..8).prop_map(Event::Flow),
        8 => any::<usize>().prop_map(Event::Drop),
        8 => any::<usize>().prop_map(Event::Echo),
        5 => (any::<usize>(), cut()).prop_map(|(which, at)| Event::Cut(which, at)),
        3 => host().prop_map(Event::CutFeed),
        2 => host().prop_map(Event::Part),
        3 => host().prop_map(Event::Join),
        8 => (50u64..3_000).prop_map(Event::Advance),
        2 => (5_000u64..60_000).prop_map(Event::Advance),
        2 => (100u64..2_000).prop_map(Event::Stall),
        1 => (2_000u64..45_000).prop_map(Event::Stall),
    ]
}

/// What becomes of processes and machines.
fn fate() -> impl Strategy<Value = Event> {
    let (host, slot) = (|| 0..crate::HOSTS, || 0..crate::SLOTS);
    prop_oneof![
        2 => Just(Event::KillPlane),
        4 => Just(Event::StartPlane),
        1 => (0u64..12).prop_map(Event::RestorePlane),
        6 => (host(), round()).prop_map(|(host, round)| Event::Save(host, round)),
        2 => host().prop_map(Event::KillHost),
        4 => host().prop_map(Event::StartHost),
        3 => slot().prop_map(Event::KillAgent),
        6 => slot().prop_map(Event::StartAgent),
        2 => slot().prop_map(Event::Pause),
        4 => slot().prop_map(Event::Resume),
        3 => slot().prop_map(Event::Snapshot),
        3 => slot().prop_map(Event::Restore),
        3 => slot().prop_map(Event::NewLife),
        2 => slot().prop_map(Event::Terminate),
        5 => (slot(), any::<bool>()).prop_map(|(slot, copy)| Event::Replace(slot, copy)),
    ]
}

/// Schedules of so many events.
pub fn schedules(length: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![25 => work(), 60 => travel(), 10 => fate()];
    proptest::collection::vec(event, length)
}
