//! The file of a view: what an instance may see of itself, with its secrets sealed.
//!
//! The body is postcard, as on the guest link, and as there it never changes: another body is another version.

use bytes::Bytes;
use moorline_shared::entry::{ContentType, Value};
use moorline_shared::link::Moment;
use moorline_shared::{EntryPath, InstanceId, Revision};
use serde::{Deserialize, Serialize};

use super::frame::{self, Damage, Kind};
use super::key::{CacheKey, FileKey, Salt};
use super::mark::Mark;
use crate::cache::{CachedEntry, Image};

const VERSION: u32 = 1;

/// What is known of a view beside what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heading {
    /// The control plane that its revisions belong to.
    pub(super) deployment: String,
    /// When it was taken.
    pub(super) taken: Mark,
    /// How long before that it was known to be the present state, in milliseconds.
    pub(super) age_ms: u64,
}

impl Heading {
    /// How old the view is at `now`, in milliseconds.
    pub(super) fn age_at(&self, now: &Mark) -> u64 {
        self.taken.until(now).saturating_add(self.age_ms)
    }
}

/// Version 1.
#[derive(Serialize, Deserialize)]
struct Body {
    deployment: String,
    instance: InstanceId,
    revision: Revision,
    known: Revision,
    taken: Mark,
    age_ms: u64,
    /// For how long it had been behind when it was taken, in milliseconds, if changes were lost.
    behind_ms: Option<u64>,
    salt: Salt,
    entries: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    path: EntryPath,
    revision: Revision,
    content_type: ContentType,
    /// How long it was still valid when it was taken, in milliseconds.
    valid_for_ms: Option<u64>,
    value: Stored,
}

#[derive(Serialize, Deserialize)]
enum Stored {
    Open(Value),
    Sealed(Bytes),
}

/// The file of what was taken.
pub(super) fn encode(image: Image, heading: &Heading, key: &CacheKey, salt: Salt) -> Vec<u8> {
    let (taken, file_key) = (heading.taken.moment(), key.of_file(&salt));
    let entries = (0..)
        .zip(image.entries)
        .map(|(place, (path, entry))| Kept::new(place, path, entry, taken, &file_key));
    let body = Body {
        deployment: heading.deployment.clone(),
        instance: image.instance,
        revision: image.revision,
        known: image.known,
        taken: heading.taken.clone(),
        age_ms: heading.age_ms,
        behind_ms: image.behind_since.map(|since| taken.since(since)),
        salt,
        entries: entries.collect(),
    };
    // Postcard fails only for types that it can't express, and none of these is one.
    let body = postcard::to_stdvec(&body).unwrap_or_default();
    frame::wrap(Kind::View, VERSION, &body)
}

/// What an instance's file says, for a daemon that reads it at `now`.
pub(super) fn decode(
    file: &[u8],
    instance: InstanceId,
    key: &CacheKey,
    now: &Mark,
) -> Result<(Heading, Image), Damage> {
    let body = frame::unwrap(Kind::View, VERSION, file)?;
    let body: Body = postcard::from_bytes(body).map_err(Damage::Content)?;
    if body.instance != instance {
        return Err(Damage::Foreign {
            found: body.instance.to_string(),
            expected: instance.to_string(),
        });
    }
    let (passed, file_key) = (body.taken.passed(now), key.of_file(&body.salt));
    let (mut entries, mut behind_ms) = (Vec::new(), body.behind_ms);
    for (place, kept) in (0..).zip(body.entries) {
        let left_of = |ms: u64| passed.map_or(0, |passed| ms.saturating_sub(passed));
        let left = kept.valid_for_ms.map(left_of);
        if left.is_some() && passed.is_none() {
            // It may have ended or not: the view has to be asked for.
            behind_ms.get_or_insert(0);
        }
        let deadline = left.map(|ms| Moment(now.moment().0.saturating_add(ms)));
        let (path, entry) = kept.opened(place, deadline, &file_key)?;
        if left != Some(0) {
            entries.push((path, entry));
        }
    }
    let since_taken = body.taken.until(now);
    let before = |ms: u64| Moment(now.moment().0.saturating_sub(ms.saturating_add(since_taken)));
    let image = Image {
        instance,
        revision: body.revision,
        known: body.known,
        behind_since: behind_ms.map(before),
        entries,
    };
    let heading = Heading {
        deployment: body.deployment,
        taken: body.taken,
        age_ms: body.age_ms,
    };
    Ok((heading, image))
}

impl Kept {
    fn new(place: u32, path: EntryPath, entry: CachedEntry, taken: Moment, key: &FileKey) -> Self {
        let value = if entry.secret {
            Stored::Sealed(key.seal(place, &path, entry.value.bytes()).into())
        } else {
            Stored::Open(entry.value.clone())
        };
        Self {
            path,
            revision: entry.revision,
            valid_for_ms: entry.valid_for(taken),
            content_type: entry.content_type,
            value,
        }
    }

    fn opened(
        self,
        place: u32,
        deadline: Option<Moment>,
        key: &FileKey,
    ) -> Result<(EntryPath, CachedEntry), Damage> {
        let (secret, value) = match self.value {
            Stored::Open(value) => (false, value),
            Stored::Sealed(sealed) => {
                let value = key.open(place, &self.path, &sealed).ok_or(Damage::Sealed)?;
                (true, Value::from(value))
            }
        };
        let entry = CachedEntry {
            revision: self.revision,
            content_type: self.content_type,
            value,
            secret,
            deadline,
        };
        Ok((self.path, entry))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::link::tests::{id, path, revision};
    use crate::persistence::mark::tests::mark;

    fn heading() -> Heading {
        Heading {
            deployment: "lab".to_owned(),
            taken: mark("a", 50_000, 1_000_000),
            age_ms: 7,
        }
    }

    fn key() -> CacheKey {
        CacheKey::new(&[1; 32])
    }

    fn entry(value: &[u8]) -> CachedEntry {
        CachedEntry {
            revision: revision(3),
            content_type: "text/plain".parse().unwrap(),
            value: Value::from(Bytes::copy_from_slice(value)),
            secret: false,
            deadline: None,
        }
    }

    fn image(entries: Vec<(EntryPath, CachedEntry)>) -> Image {
        Image {
            instance: id(1),
            revision: revision(4),
            known: revision(5),
            behind_since: None,
            entries,
        }
    }

    fn secret(value: &[u8]) -> CachedEntry {
        CachedEntry {
            secret: true,
            ..entry(value)
        }
    }

    /// What a daemon reads a second later.
    fn read(file: &[u8], key: &CacheKey) -> Result<(Heading, Image), Damage> {
        decode(file, id(1), key, &mark("a", 51_000, 0))
    }

    fn images() -> impl Strategy<Value = Image> {
        let value = proptest::collection::vec(any::<u8>(), 0..64);
        let deadline = proptest::option::of(60_000..u64::MAX / 2);
        let entry_of = (value, any::<bool>(), deadline);
        let entries = proptest::collection::btree_map("[a-z]{1,6}(/[a-z]{1,6}){0,2}", entry_of, 0..8);
        let since = proptest::option::of(0..50_000u64);
        (entries, since).prop_map(|(entries, since)| {
            let entries = entries.into_iter().map(|(at, (value, secret, deadline))| {
                let deadline = deadline.map(Moment);
                let entry = CachedEntry {
                    secret,
                    deadline,
                    ..entry(&value)
                };
                (path(&at), entry)
            });
            Image {
                behind_since: since.map(Moment),
                ..image(entries.collect())
            }
        })
    }

    /// Milliseconds by both clocks.
    type Clocks = (u64, i64);

    fn clocks() -> impl Strategy<Value = Clocks> {
        (0..200_000u64, 0..3_000_000i64)
    }

    proptest! {
        /// By whatever clocks it is read: never younger than this boot or than it was, and no entry for longer than it had.
        #[test]
        fn no_step_of_a_clock_makes_it_young(
            then in clocks(), now in clocks(), same_boot: bool, valid_for_ms in 1..300_000u64, age_ms in 0..9_000u64,
        ) {
            let deadline = Some(Moment(then.0 + valid_for_ms));
            let entries = vec![(path("a"), CachedEntry { deadline, ..entry(b"x") }), (path("b"), entry(b"y"))];
            let taken = mark("a", then.0, then.1);
            let file = encode(image(entries), &Heading { taken, age_ms, ..heading() }, &key(), [9; 32]);
            let read_at = mark(if same_boot { "a" } else { "b" }, now.0, now.1);
            let (read, image) = decode(&file, id(1), &key(), &read_at).unwrap();
            let least = if same_boot { now.0.saturating_sub(then.0) } else { now.0 };
            prop_assert!(read.age_at(&read_at) >= least + age_ms);
            let left = image.entries.iter().filter_map(|(_, entry)| entry.valid_for(Moment(now.0))).max();
            prop_assert!(left.unwrap_or(0) <= valid_for_ms.saturating_sub(least));
            let nobody_knows = !same_boot && now.1 < then.1;
            prop_assert!(image.behind_since.is_some() == nobody_knows && !(nobody_knows && left.is_some()));
            prop_assert!(image.entries.iter().any(|(at, _)| *at == path("b")));
        }

        #[test]
        fn what_was_written_is_read(image in images(), salt: [u8; 32]) {
            let file = encode(image.clone(), &heading(), &key(), salt);
            prop_assert_eq!(read(&file, &key()).unwrap(), (heading(), image));
        }

        #[test]
        fn every_cut_and_every_changed_byte_is_found(
            image in images(), at: prop::sample::Index, change in 1..=255u8,
        ) {
            let file = encode(image, &heading(), &key(), [9; 32]);
            let at = at.index(file.len());
            prop_assert!(read(&file[..at], &key()).is_err());
            let mut changed = file.clone();
            changed[at] ^= change;
            prop_assert!(read(&changed, &key()).is_err());
            changed[at] ^= change;
            changed.push(change);
            prop_assert!(read(&changed, &key()).is_err());
        }

        #[test]
        fn what_anybody_could_write_is_no_panic(body: Vec<u8>, version in 0..3u32) {
            let file = frame::wrap(Kind::View, version, &body);
            prop_assert!(read(&file, &key()).is_err());
            prop_assert!(read(&body, &key()).is_err());
        }
    }

    #[test]
    fn a_secret_is_nowhere_in_the_file_and_opens_under_its_key_alone() {
        let entries = vec![
            (path("a"), entry(b"no secret at all")),
            (path("b"), secret(b"hunter2-of-the-file")),
        ];
        let file = encode(image(entries), &heading(), &key(), [9; 32]);
        let has = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
        assert!(has(b"no secret at all") && !has(b"hunter2"));
        let error = read(&file, &CacheKey::new(&[2; 32])).unwrap_err();
        assert!(matches!(error, Damage::Sealed), "{error}");
    }

    #[test]
    fn what_ran_out_meanwhile_is_not_read_however_the_calendar_was_stepped() {
        let short = CachedEntry {
            deadline: Some(Moment(60_000)),
            ..entry(b"x")
        };
        let file = encode(image(vec![(path("a"), short)]), &heading(), &key(), [9; 32]);
        let image = |now: Mark| decode(&file, id(1), &key(), &now).unwrap().1;
        let left = |now: Mark| {
            let image = image(now);
            assert_eq!(image.behind_since, None);
            image.entries.first().map(|(_, entry)| entry.deadline.unwrap())
        };
        assert_eq!(left(mark("a", 59_999, 0)), Some(Moment(60_000)));
        assert_eq!(left(mark("a", 60_000, 0)), None);
        assert_eq!(left(mark("b", 2_000, 1_004_000)), Some(Moment(8_000)));
        assert_eq!(left(mark("b", 2_000, 1_010_000)), None);
        // The calendar was stepped back: it may have run out long ago, or not.
        let image = image(mark("b", 3_000, 999_999));
        assert_eq!((image.entries, image.behind_since), (Vec::new(), Some(Moment(0))));
    }

    #[test]
    fn a_file_of_another_instance_or_another_release_is_named() {
        let file = encode(image(Vec::new()), &heading(), &key(), [9; 32]);
        let error = decode(&file, id(2), &key(), &heading().taken).unwrap_err();
        assert!(error.to_string().contains(&id(1).to_string()), "{error}");
        let newer = frame::wrap(Kind::View, VERSION + 1, b"what nobody knows yet");
        let error = read(&newer, &key()).unwrap_err();
        assert!(matches!(error, Damage::Newer { found: 2, known: 1 }), "{error}");
        let older = frame::wrap(Kind::View, VERSION - 1, b"what nobody knows any more");
        let error = read(&older, &key()).unwrap_err();
        assert!(matches!(error, Damage::Older { found: 0 }), "{error}");
    }

    #[test]
    fn the_form_of_version_1_stays() {
        let entries = vec![(path("a"), entry(b"open")), (path("b"), secret(b"sealed"))];
        let file = encode(image(entries), &heading(), &key(), [9; 32]);
        insta::assert_snapshot!(STANDARD.encode(file));
    }
}
