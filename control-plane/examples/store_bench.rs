//! Measures the embedded store against bare `SQLite` on the same disk, interleaved, and prints the medians.
//!
//! `cargo run --release -p moorline-control --example store_bench [DIRECTORY [SECONDS]]`
//!
//! The load is what executing operations looks like: each of 32 callers reads 4 keys at the head, and
//! commits 5 puts under guards on what it read. The bare rate is that of the same puts, recorded, in
//! transactions of 32 callers' puts each, with the same settings and nothing around them.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moorline_control::store::sqlite::{Options, Retention};
use moorline_control::store::{Batch, CommitError, Guard, Key, Store, Transaction, Versioned, Write};
use rusqlite::Connection;
use tokio::task::JoinSet;

const CALLERS: usize = 32;
const KEYS: u64 = 20_000;
const VALUE_BYTES: usize = 300;
const REPEATS: usize = 5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().unwrap_or_else(|| ".".to_owned());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let measure = Measure {
        parent: parent.into(),
        time: Duration::from_secs_f64(seconds),
    };

    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    for _ in 0..REPEATS {
        for (name, value) in measure.once() {
            match rows.iter_mut().find(|row| row.0 == name) {
                Some(row) => row.1.push(value),
                None => rows.push((name, vec![value])),
            }
        }
    }
    println!(
        "{:<44} {:>12} {:>12} {:>12}",
        "per second, or ms where it says so", "median", "min", "max"
    );
    for (name, mut values) in rows {
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        println!(
            "{name:<44} {:>12.2} {min:>12.2} {max:>12.2}",
            values[values.len() / 2]
        );
    }
}

struct Measure {
    parent: std::path::PathBuf,
    time: Duration,
}

impl Measure {
    fn once(&self) -> Vec<(&'static str, f64)> {
        let kept = Options::default();
        let small = Options {
            current_bytes: 0,
            ..Options::default()
        };
        let compacting = Options {
            retention: Retention::Last(10_000),
            ..Options::default()
        };
        let with = self.store(&kept);
        let without = self.store(&small);
        let retained = self.store(&compacting);
        let bare = self.bare(&with.batches);
        vec![
            ("puts, 32 callers", with.puts),
            ("puts, 32 callers, no values in memory", without.puts),
            ("puts, 32 callers, last 10,000 revisions kept", retained.puts),
            ("puts, bare SQLite", bare),
            ("share of bare, 32 callers", with.puts / bare),
            ("share of bare, last 10,000 revisions kept", retained.puts / bare),
            ("puts, 1 caller", with.alone),
            ("commit p50 ms, 32 callers", with.p50),
            ("commit p99 ms, 32 callers", with.p99),
            ("commit p99 ms, last 10,000 revisions kept", retained.p99),
            ("point reads", with.reads),
            ("point reads, no values in memory", without.reads),
            ("conflicts per 1,000", with.conflicts),
        ]
    }

    fn store(&self, options: &Options) -> Outcome {
        let directory = tempfile::tempdir_in(&self.parent).unwrap();
        let store = Store::open_sqlite(directory.path().join("store.db"), options).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut outcome = runtime.block_on(load(&store, CALLERS, self.time));
        outcome.reads = runtime.block_on(point_reads(&store, self.time / 4));
        outcome.alone = runtime.block_on(load(&store, 1, self.time / 4)).puts;
        outcome
    }

    fn bare(&self, batches: &[Batch]) -> f64 {
        let directory = tempfile::tempdir_in(&self.parent).unwrap();
        let mut db = open_bare(&directory.path().join("bare.db"));
        let (mut puts, begin) = (0, Instant::now());
        for (group, batches) in batches.chunks(CALLERS).enumerate() {
            let transaction = db.transaction().unwrap();
            for batch in batches {
                puts += batch.events.len();
                insert(&transaction, batch);
            }
            transaction.commit().unwrap();
            if group % 40 == 39 {
                db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                    .unwrap();
            }
        }
        rate(puts, begin.elapsed())
    }
}

#[derive(Default)]
struct Outcome {
    puts: f64,
    alone: f64,
    p50: f64,
    p99: f64,
    reads: f64,
    conflicts: f64,
    batches: Vec<Batch>,
}

fn rate(count: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    let count = count as f64;
    count / time.as_secs_f64()
}

async fn load(store: &Store, callers: usize, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let first = store.head().await.unwrap();
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for seed in 0..callers as u64 {
        tasks.spawn(caller(store.clone(), seed, end));
    }
    let (mut latencies, mut conflicts) = (Vec::new(), 0);
    for (some, lost) in tasks.join_all().await {
        latencies.extend(some);
        conflicts += lost;
    }
    let elapsed = begin.elapsed();
    latencies.sort();
    let at = |part: usize| latencies[latencies.len() * part / 100].as_secs_f64() * 1e3;
    Outcome {
        puts: rate(latencies.len() * 5, elapsed),
        p50: at(50),
        p99: at(99),
        conflicts: rate(conflicts * 1000, Duration::from_secs(latencies.len() as u64)),
        batches: recorded(store, first, latencies.len().min(60_000)).await,
        ..Outcome::default()
    }
}

async fn recorded(store: &Store, after: u64, count: usize) -> Vec<Batch> {
    let Ok(mut watch) = store.watch(after).await else {
        return Vec::new();
    };
    let mut batches = Vec::with_capacity(count);
    for _ in 0..count {
        match watch.next().await {
            Ok(batch) => batches.push(batch),
            Err(_) => return Vec::new(),
        }
    }
    batches
}

async fn caller(store: Store, seed: u64, end: Instant) -> (Vec<Duration>, usize) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut latencies, mut conflicts) = (Vec::new(), 0);
    while Instant::now() < end {
        let keys: Vec<Key> = (0..4).map(|_| random.key()).collect();
        let read = store.read(store.head().await.unwrap(), &keys).await.unwrap();
        let begin = Instant::now();
        match store.commit(operation(&keys, &read, random.next())).await {
            Ok(_) => latencies.push(begin.elapsed()),
            Err(CommitError::Conflict { .. }) => conflicts += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (latencies, conflicts)
}

/// Five puts: four keys that were read, and a record of its own.
fn operation(keys: &[Key], read: &[Option<Versioned>], id: u64) -> Transaction {
    let record = Key::try_from(format!("operation/{id:016x}")).unwrap();
    let mut transaction = Transaction {
        guards: vec![Guard::Absent(record.clone())],
        writes: vec![],
    };
    for (key, value) in keys.iter().zip(read) {
        transaction.guards.push(match value {
            Some(value) => Guard::At(key.clone(), value.modified),
            None => Guard::Absent(key.clone()),
        });
        if !transaction.writes.iter().any(|write| write.key() == key) {
            transaction
                .writes
                .push(Write::Put(key.clone(), Bytes::from(vec![b'v'; VALUE_BYTES])));
        }
    }
    transaction
        .writes
        .push(Write::Put(record, Bytes::from(vec![b'r'; VALUE_BYTES])));
    transaction
}

async fn point_reads(store: &Store, time: Duration) -> f64 {
    let mut random = Random(7);
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        for _ in 0..100 {
            let at = store.head().await.unwrap();
            store.read(at, &[random.key()]).await.unwrap();
        }
        count += 100;
    }
    rate(count, begin.elapsed())
}

fn open_bare(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -32768;
         CREATE TABLE versions (id INTEGER PRIMARY KEY, key BLOB NOT NULL, created INTEGER NOT NULL,
                                version INTEGER NOT NULL, value BLOB) STRICT;
         CREATE INDEX by_key ON versions (key);",
    )
    .unwrap();
    db
}

fn insert(db: &Connection, batch: &Batch) {
    let mut statement = db
        .prepare_cached("INSERT INTO versions VALUES (NULL, ?1, ?2, ?3, ?4)")
        .unwrap();
    for event in &*batch.events {
        let new = event.value.as_ref().unwrap();
        let (created, version) = (new.created.cast_signed(), new.version.cast_signed());
        statement
            .execute((event.key.as_bytes(), created, version, &*new.value))
            .unwrap();
    }
}

/// A small generator of numbers that are random enough for a load (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn key(&mut self) -> Key {
        Key::try_from(format!("instance/i-{:012x}/entry/name", self.next() % KEYS)).unwrap()
    }
}
