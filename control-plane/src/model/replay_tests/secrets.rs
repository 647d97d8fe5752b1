//! Secrets of a run: sealed wherever the store has them, and opened for those who may read them.

use moorline_shared::api::data::PutEntry;
use moorline_shared::entry::Value;
use moorline_shared::{EntryPath, InstanceId, OperationId};

use super::steps::{SEED_SECRET, run};
use super::world::{World, administrator, caller_of};
use crate::identity::master::MasterKey;
use crate::instance_data::operations::{BatchAction, BatchChange, Reply};
use crate::instance_data::records::EntryRecord;
use crate::instance_data::{Model, Op as Data, reveal};
use crate::model::content::{LongValue, Secrecy};
use crate::model::journal::{OperationRecord, Outcome};
use crate::model::sealing::open;
use crate::model::{Attempt, Caller, Content, Done, ExecuteError, Record as _};
use crate::services::AnyOp;
use crate::store::{Key, Versioned};
use crate::{instance_data, instances};

impl World {
    /// A value of `size` bytes behind a mark that no other value has.
    pub(super) fn marked(&self, size: usize) -> String {
        format!("<given as {}>{}", self.given(), "v".repeat(size))
    }

    /// Notes how the values begin that sealing found to be secret.
    pub(super) fn note_sealed(&mut self, mut given: AnyOp, mut sealed: AnyOp) {
        let pairs = given.contents().into_iter().zip(sealed.contents());
        let secret = pairs.filter(|(_, sealed)| sealed.secrecy() == Secrecy::Secret);
        for (given, _) in secret {
            let text = given.at_hand().unwrap().text().unwrap().to_owned();
            self.secrets.push(text.chars().take(20).collect());
        }
    }

    /// No secret stands in the store in the clear, every one that an entry has opens for it, and for no other.
    pub(super) fn check_secrets(&self, dump: &[(Key, Versioned)]) {
        for (key, kept) in dump {
            let text = String::from_utf8_lossy(&kept.value);
            let found = self.secrets.iter().find(|secret| text.contains(secret.as_str()));
            assert_eq!(found, None, "{key}: {text}");
        }
        let master = MasterKey::for_tests();
        for (_, kept) in dump
            .iter()
            .filter(|(key, _)| key.to_string().starts_with("entry/"))
        {
            let entry: EntryRecord = serde_json::from_slice(&kept.value).unwrap();
            if let Some(content) = sealed(dump, &entry) {
                let (instance, path) = (entry.instance, entry.path);
                let opened = open(&master, instance, &path, &content).unwrap();
                assert_eq!(opened.len() as u64, content.len());
                let elsewhere = "some/other".parse().unwrap();
                assert!(open(&master, instance, &elsewhere, &content).is_err());
            }
        }
    }
}

/// The entry's sealed bytes, if it is secret.
fn sealed(dump: &[(Key, Versioned)], entry: &EntryRecord) -> Option<Content> {
    let digest = entry.content.digest().filter(|_| entry.is_secret())?;
    let key = LongValue::key(&(entry.instance, entry.path.clone(), digest));
    let (_, kept) = dump.iter().find(|(found, _)| *found == key).unwrap();
    let long: LongValue = serde_json::from_slice(&kept.value).unwrap();
    Some(entry.content.clone().with(long.value))
}

fn path() -> EntryPath {
    "db/password".parse().unwrap()
}

fn put(instance: InstanceId, entry: PutEntry) -> Data {
    Data::PutInstanceData {
        instance,
        path: path(),
        guard: None,
        new: entry.into(),
    }
}

fn plain(value: &str) -> PutEntry {
    PutEntry::value(value.into())
}

fn open_entry(value: &str) -> PutEntry {
    PutEntry {
        secret: Some(false),
        ..plain(value)
    }
}

/// A run whose instances, executor and store are looked at.
struct Run {
    world: World,
    instance: InstanceId,
    keys: u32,
}

impl Run {
    async fn new() -> Self {
        let mut world = World::new().await;
        let op = instances::Op::RunInstances(run(2));
        world.run(op.into(), administrator()).await;
        let instance = world.instances[0];
        Self {
            world,
            instance,
            keys: 0,
        }
    }

    async fn ask(&mut self, op: Data, caller: Caller) -> Result<Done<Reply>, ExecuteError> {
        self.keys += 1;
        let key = format!("secret{}", self.keys);
        self.ask_as(op, caller, &key).await
    }

    async fn ask_as(&self, op: Data, caller: Caller, key: &str) -> Result<Done<Reply>, ExecuteError> {
        let id = OperationId::derive(&caller.principal, &key.parse().unwrap());
        let attempt = Attempt::new(op, caller, id);
        self.world.executor.execute(&Model, attempt).await
    }

    async fn put(&mut self, entry: PutEntry) {
        self.ask(put(self.instance, entry), administrator())
            .await
            .unwrap();
    }

    async fn entry(&self) -> moorline_shared::api::data::Entry {
        let op = Data::GetInstanceData {
            instance: self.instance,
            path: path(),
        };
        let Reply::Entry(shown) = self.world.look(op).await else {
            panic!("an entry is an entry");
        };
        reveal::entry(&MasterKey::for_tests(), self.instance, *shown).unwrap()
    }

    async fn dump(&self) -> Vec<(Key, Versioned)> {
        let store = self.world.executor.store();
        store.dump(store.head().await.unwrap()).await.unwrap()
    }

    /// Which keys hold the text.
    async fn holders(&self, text: &str) -> Vec<String> {
        let dump = self.dump().await;
        let holds = |kept: &Versioned| String::from_utf8_lossy(&kept.value).contains(text);
        let holders = dump.iter().filter(|(_, kept)| holds(kept));
        holders.map(|(key, _)| key.to_string()).collect()
    }
}

fn problem(asked: Result<Done<Reply>, ExecuteError>) -> String {
    match asked {
        Err(ExecuteError::Refused { shown, .. }) => shown.kind.into_owned(),
        other => panic!("{other:?} was not refused"),
    }
}

fn stranger() -> Caller {
    caller_of("user:stranger".parse().unwrap())
}

#[tokio::test]
async fn a_secret_stays_one_until_it_is_said_that_it_is_none() {
    let mut run = Run::new().await;
    run.put(PutEntry::secret("hunter2".into())).await;
    assert_eq!(
        (run.entry().await.value, run.entry().await.secret),
        (Some("hunter2".into()), true)
    );
    run.put(plain("hunter3")).await;
    assert_eq!(
        (run.entry().await.value, run.entry().await.secret),
        (Some("hunter3".into()), true)
    );
    assert_eq!(run.entry().await.length, 7, "the length is the secret's own");
    for secret in ["hunter2", "hunter3"] {
        assert_eq!(run.holders(secret).await, Vec::<String>::new());
    }
    run.put(open_entry("hunter4")).await;
    assert!(!run.entry().await.secret);
    assert_eq!(
        run.holders("hunter4").await.len(),
        3,
        "the entry, its change, the record"
    );
    run.put(plain("hunter5")).await;
    assert!(!run.entry().await.secret);
    run.put(PutEntry::secret("hunter6".into())).await;
    assert_eq!(run.holders("hunter6").await, Vec::<String>::new());
    run.world.replay().await;
}

#[tokio::test]
async fn history_shows_secrets_to_readers_and_the_store_holds_none() {
    let mut run = Run::new().await;
    for value in ["hunter2", "hunter3"] {
        run.put(PutEntry::secret(value.into())).await;
    }
    let delete = Data::DeleteInstanceData {
        instance: run.instance,
        path: path(),
        guard: None,
    };
    run.ask(delete, administrator()).await.unwrap();
    let op = Data::GetInstanceDataHistory {
        instance: run.instance,
        path: path(),
        before: None,
        limit: 10,
    };
    let Reply::History { changes, next } = run.world.look(op).await else {
        panic!("a history is a history");
    };
    let history = reveal::history(&MasterKey::for_tests(), &(run.instance, path()), changes, next).unwrap();
    let to: Vec<_> = history.changes.into_iter().map(|change| change.to).collect();
    assert_eq!(
        to,
        [None, Some(Value::from("hunter3")), Some(Value::from("hunter2"))]
    );
    assert_eq!(run.holders("hunter").await, Vec::<String>::new());
}

#[tokio::test]
async fn who_only_updates_can_not_make_a_secret_open() {
    let mut run = Run::new().await;
    let access = super::steps::list(3);
    let secret = PutEntry {
        access: Some(access),
        ..PutEntry::secret("hunter2".into())
    };
    run.put(secret).await;
    let refused = run.ask(put(run.instance, open_entry("mine")), stranger()).await;
    assert_eq!(problem(refused), "access-denied");
    run.ask(put(run.instance, plain("theirs now")), stranger())
        .await
        .unwrap();
    assert!(run.entry().await.secret);
    assert_eq!(run.holders("theirs now").await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_refused_about_a_secret_leaves_a_record_without_it() {
    let mut run = Run::new().await;
    run.put(PutEntry::secret("hunter2".into())).await;
    let (instance, path) = (run.instance, path());
    let append = Data::AppendInstanceData {
        instance,
        path: path.clone(),
        guard: None,
        content: Value::from("-and-more").into(),
    };
    let change = BatchChange {
        path: path.clone(),
        guard: None,
        action: BatchAction::Append(Value::from("-and-more").into()),
    };
    let batch = Data::BatchInstanceData {
        instance,
        changes: vec![change],
    };
    for op in [append, batch] {
        let refused = run.ask(op, administrator()).await;
        assert_eq!(problem(refused), "entry-secret");
    }
    let denied = run
        .ask(put(instance, PutEntry::secret("my-guess".into())), stranger())
        .await;
    assert_eq!(problem(denied), "entry-not-found");
    let too_long = PutEntry::secret("overlong".repeat(10_000).as_str().into());
    let refused = run.ask(put(instance, too_long), administrator()).await;
    assert_eq!(problem(refused), "value-too-long");
    for secret in ["-and-more", "my-guess", "overlong"] {
        assert_eq!(run.holders(secret).await, Vec::<String>::new());
    }
    run.world.replay().await;
}

#[tokio::test]
async fn the_same_request_is_the_same_whatever_became_of_the_entry() {
    let mut run = Run::new().await;
    run.put(PutEntry::secret("hunter2".into())).await;
    let again = put(run.instance, plain("hunter3"));
    let first = run.ask_as(again.clone(), administrator(), "key").await.unwrap();
    run.put(open_entry("open")).await;
    let second = run.ask_as(again, administrator(), "key").await.unwrap();
    assert_eq!(
        first.revision, second.revision,
        "it was done once, and the entry was secret then"
    );
    let other = put(run.instance, plain("hunter4"));
    let reused = run.ask_as(other, administrator(), "key").await;
    assert!(matches!(reused, Err(ExecuteError::KeyReused)), "{reused:?}");
    assert_eq!(run.entry().await.value, Some("open".into()));
    let plainly = put(run.instance, plain("now open"));
    let first = run
        .ask_as(plainly.clone(), administrator(), "open")
        .await
        .unwrap();
    run.put(PutEntry::secret("hunter5".into())).await;
    let second = run.ask_as(plainly, administrator(), "open").await.unwrap();
    assert_eq!(first.revision, second.revision);
    assert_eq!(run.entry().await.value, Some("hunter5".into()));
}

#[tokio::test]
async fn instances_begin_with_secrets_of_their_own() {
    let run = Run::new().await;
    let mut digests = std::collections::BTreeSet::new();
    let dump = run.dump().await;
    for (_, kept) in dump
        .iter()
        .filter(|(key, _)| key.to_string().ends_with("/config/secret"))
    {
        let entry: EntryRecord = serde_json::from_slice(&kept.value).unwrap();
        let content = sealed(&dump, &entry).unwrap();
        let opened = open(&MasterKey::for_tests(), entry.instance, &entry.path, &content).unwrap();
        assert_eq!(opened, Value::from(SEED_SECRET));
        digests.insert(content.digest());
    }
    assert_eq!(digests.len(), 2, "sealed for each instance in its own way");
    assert_eq!(run.holders(SEED_SECRET).await, Vec::<String>::new());
}

#[tokio::test]
async fn rules_that_are_given_a_secret_unsealed_refuse_it() {
    let mut run = Run::new().await;
    run.put(PutEntry::secret("hunter2".into())).await;
    let store = run.world.executor.store();
    let mut fork = crate::model::Fork::of(store, store.head().await.unwrap())
        .await
        .unwrap();
    let id = OperationId::derive(&administrator().principal, &"unsealed".parse().unwrap());
    let env = crate::model::Env {
        now: run.world.executor.now(),
        operation: id,
        caller: administrator(),
        settings: run.world.executor.settings().clone(),
    };
    let mut view = crate::model::View::new(&mut fork, id);
    let op: AnyOp = put(run.instance, plain("hunter3")).into();
    let stepped = run.world.services.step(&mut view, &op, &env);
    let Err(crate::model::Stop::Refused(problem)) = stepped else {
        panic!("{stepped:?} is kept in the clear");
    };
    assert!(problem.detail.contains("not sealed"), "{problem:?}");
}

#[tokio::test]
async fn records_name_secrets_by_what_tells_nothing_of_them() {
    let mut run = Run::new().await;
    run.put(PutEntry::secret("hunter2".into())).await;
    run.put(PutEntry::secret("hunter2".into())).await;
    let plain_digest = moorline_shared::Digest::of(b"hunter2").to_string();
    assert_eq!(run.holders(&plain_digest).await, Vec::<String>::new());
    let mut names = std::collections::BTreeSet::new();
    for (key, kept) in run.dump().await {
        if key.to_string().starts_with("operation/") {
            let record: OperationRecord = serde_json::from_slice(&kept.value).unwrap();
            assert!(matches!(record.outcome, Outcome::Done(_)));
            if let AnyOp::InstanceData(instance_data::Op::PutInstanceData { new, .. }) = record.asked {
                names.insert(new.content.digest().unwrap());
            }
        }
    }
    assert_eq!(names.len(), 2, "nobody sees that two secrets are the same");
}
