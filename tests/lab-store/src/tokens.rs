//! Tokens on one thread: made, and checked with the look-up of their session among very many.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use moorline_control::identity;
use moorline_control::identity::master::MasterKey;
use moorline_control::identity::records::{SessionPurpose, SessionRecord};
use moorline_control::identity::session::Grants;
use moorline_control::identity::token::{Grant, Kind, SessionId};
use moorline_control::identity::tokens::Tokens;
use moorline_control::model::{Executor, Record as _};
use moorline_control::settings::Settings;
use moorline_control::store::{Store, Transaction, Write};
use moorline_shared::{Digest, Principal, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{open, per_second, resident_mib};

/// How many different tokens are checked in turn: so many that neither they nor their sessions stay in a cache.
const TOKENS: u32 = 50_000;
/// How many sessions a transaction of the preparation has.
const GROUP: u32 = 2_000;
/// How many tokens of one session are made to see what is kept of them.
const EXTRA: u32 = 10_000;
/// How many are made or checked between two looks at the clock.
const BATCH: u32 = 256;

/// What was measured; rates have one number for each turn.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// Tokens checked per second.
    validate: Vec<f64>,
    /// Tokens made per second.
    mint: Vec<f64>,
    /// Signatures of JWTs checked per second.
    es256: Vec<f64>,
    /// What all sessions take in memory, in MiB.
    sessions_mib: f64,
    /// What the store grows by for each further token of a session, in bytes.
    bytes_per_extra_token: f64,
}

/// Fills the store, then measures in turns.
pub(crate) async fn measure(path: &Path, sessions: u32, turns: u32, time: Duration) -> Result<Measured> {
    ensure!(!path.exists(), "{} is there already", path.display());
    let store = open(path)?;
    fill(&store, sessions).await?;
    let master = Arc::new(MasterKey::new(&Zeroizing::new([7; 32])));
    let executor = Executor::new(store.clone(), Settings::default(), master.clone());
    let before = resident_mib()?;
    let tokens = identity::open(&executor, &master)
        .await
        .context("open the sessions")?;
    let mut measured = Measured {
        sessions_mib: resident_mib()? - before,
        ..Measured::default()
    };
    let stood = tokens.sessions().count();
    ensure!(
        stood == sessions as usize,
        "{stood} sessions stand instead of {sessions}"
    );
    let texts = texts(&tokens, sessions)?;
    let es256 = Es256::new()?;
    for _ in 0..turns {
        measured.validate.push(validate(&tokens, &texts, time)?);
        measured.mint.push(mint(&tokens, sessions, time)?);
        measured.es256.push(es256.rate(time)?);
    }
    measured.bytes_per_extra_token = extra(&store, path, &tokens).await?;
    store.close().await;
    Ok(measured)
}

/// The `nth` session, with two grants.
fn session(nth: u32) -> Result<(SessionRecord, Grant)> {
    let digest = Digest::of(&nth.to_be_bytes());
    let id = digest.bytes().first_chunk::<16>().context("a digest is longer")?;
    let (now, expires_at) = (time(0)?, time(86_400)?);
    let mut grants = Grants::default();
    let grant = grants.begin(None, now, expires_at)?;
    grants.begin(None, now, expires_at)?;
    let record = SessionRecord {
        id: SessionId::from_bytes(*id),
        principal: Principal::User(format!("user-{nth}").parse()?),
        directory: "local".parse()?,
        account: "default".parse()?,
        purpose: SessionPurpose::Login,
        created_at: now,
        expires_at,
        grants,
    };
    Ok((record, grant))
}

/// Times are of one day, whenever this runs.
fn time(seconds: i64) -> Result<Timestamp> {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000).context("a time of this century")
}

async fn fill(store: &Store, sessions: u32) -> Result<()> {
    let mut transaction = Transaction::default();
    for nth in 0..sessions {
        let (record, _) = session(nth)?;
        let value = serde_json::to_vec(&record).context("write a session")?;
        transaction
            .writes
            .push(Write::Put(record.own_key(), value.into()));
        if (nth + 1) % GROUP == 0 || nth + 1 == sessions {
            let full = std::mem::take(&mut transaction);
            store.commit(full).await.context("commit sessions")?;
        }
    }
    Ok(())
}

/// Tokens of sessions that are spread over all of them.
fn texts(tokens: &Tokens, sessions: u32) -> Result<Vec<String>> {
    let step = (sessions / TOKENS).max(1);
    (0..sessions.min(TOKENS))
        .map(|nth| {
            let (session, grant) = session(nth * step)?;
            let minted = tokens.mint(Kind::Access, &session, grant, None, 900, time(1)?)?;
            Ok(minted.token.expose().to_owned())
        })
        .collect()
}

fn validate(tokens: &Tokens, texts: &[String], for_time: Duration) -> Result<f64> {
    let (now, mut all) = (time(2)?, texts.iter().cycle());
    rate(for_time, || {
        let text = all.next().context("there are tokens")?;
        black_box(tokens.validate(black_box(text), &[Kind::Access], now)?);
        Ok(())
    })
}

fn mint(tokens: &Tokens, sessions: u32, for_time: Duration) -> Result<f64> {
    let (now, some) = (time(2)?, sessions.min(64));
    let some = (0..some).map(session).collect::<Result<Vec<_>>>()?;
    let mut all = some.iter().cycle();
    rate(for_time, || {
        let (session, grant) = all.next().context("there are sessions")?;
        black_box(tokens.mint(Kind::Access, black_box(session), *grant, None, 900, now)?);
        Ok(())
    })
}

/// What others check: a signature by ES256, as of a JWT.
struct Es256 {
    key: UnparsedPublicKey<Vec<u8>>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Es256 {
    fn new() -> Result<Self> {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let failed = |_| anyhow::anyhow!("make a key and a signature");
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(failed)?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random)
            .map_err(|_| anyhow::anyhow!("read the key that was made"))?;
        let message = vec![b'x'; 300];
        let signature = pair.sign(&random, &message).map_err(failed)?.as_ref().to_vec();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref().to_vec());
        Ok(Self {
            key,
            message,
            signature,
        })
    }

    fn rate(&self, for_time: Duration) -> Result<f64> {
        rate(for_time, || {
            let verified = self.key.verify(black_box(&self.message), &self.signature);
            verified.map_err(|_| anyhow::anyhow!("a good signature is refused"))
        })
    }
}

/// How often `work` is done per second.
fn rate(for_time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < for_time {
        for _ in 0..BATCH {
            work()?;
        }
        count += u64::from(BATCH);
    }
    Ok(per_second(count, begin.elapsed()))
}

/// Makes many tokens of one session, and looks at what the store and its files have grown by.
async fn extra(store: &Store, path: &Path, tokens: &Tokens) -> Result<f64> {
    let (session, grant) = session(0)?;
    let before = (store.head().await?, bytes(path)?);
    for _ in 0..EXTRA {
        tokens.mint(Kind::Access, &session, grant, None, 900, time(1)?)?;
    }
    let after = (store.head().await?, bytes(path)?);
    ensure!(before.0 == after.0, "tokens made transactions");
    Ok(f64::from(u32::try_from(after.1 - before.1)?) / f64::from(EXTRA))
}

/// What the store's file and its log have, in bytes.
fn bytes(path: &Path) -> Result<u64> {
    let log = path.with_extension("db-wal");
    let length = |path: &Path| std::fs::metadata(path).map(|file| file.len());
    Ok(length(path).context("look at the store's file")? + length(&log).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_run_measures_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let measured = measure(&path, 2_500, 1, Duration::from_millis(5)).await.unwrap();
        assert!(measured.validate[0] > 0.0 && measured.mint[0] > 0.0 && measured.es256[0] > 0.0);
        assert!(measured.bytes_per_extra_token == 0.0);
    }
}
