//! Tokens under attack: every byte changed, every length, every kind passed for another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorline_shared::Timestamp;
use proptest::prelude::*;

use super::{
    Bundle, Grant, KeyRing, Kind, MAX_AHEAD_MS, MAX_CHARS, OpenError, Opening, RingError, RootKey, SessionId,
    Stage, TokenId, layout,
};

const NOW: i64 = 1_800_000_000_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).unwrap()
}

fn ring(keys: &[(u32, Stage, u8)]) -> Result<KeyRing, RingError> {
    let keys = keys
        .iter()
        .map(|(id, stage, byte)| (*id, *stage, RootKey::new([*byte; 32])));
    KeyRing::new(keys)
}

fn one_key() -> KeyRing {
    ring(&[(7, Stage::Primary, 1)]).unwrap()
}

fn bundle(kind: Kind) -> Bundle {
    Bundle {
        kind,
        token: TokenId::from_bytes([2; 16]),
        session: SessionId::from_bytes([3; 16]),
        grant: Grant {
            slot: 4,
            generation: 1,
            counter: 5,
        },
        issued: at(NOW),
        expires: at(NOW + 900_000),
        subject: "user:ada".parse().unwrap(),
        directory: "main".parse().unwrap(),
        account: "acme".parse().unwrap(),
        client: Some("console".parse().unwrap()),
        incarnation: Some(6),
    }
}

fn open(ring: &KeyRing, text: &str) -> Result<Bundle, OpenError> {
    open_at(ring, text, NOW)
}

fn open_at(ring: &KeyRing, text: &str, millis: i64) -> Result<Bundle, OpenError> {
    ring.unseal(text, at(millis), &mut Opening::new())?.bundle()
}

fn bundles() -> impl Strategy<Value = Bundle> {
    let name = "[a-z0-9][a-z0-9._-]{0,62}";
    let client = prop::option::of(name.prop_map(|name| name.parse().unwrap()));
    let subject = name.prop_map(|name| format!("user:{name}").parse().unwrap());
    let ids = (any::<[u8; 16]>(), any::<[u8; 16]>());
    let grant = (0..32_u8, any::<u32>(), any::<u32>()).prop_map(|(slot, generation, counter)| Grant {
        slot,
        generation,
        counter,
    });
    let kind = prop::sample::select(&Kind::ALL[..]);
    (
        kind,
        ids,
        grant,
        subject,
        name,
        name,
        client,
        any::<Option<u64>>(),
    )
        .prop_map(
            |(kind, (token, session), grant, subject, directory, account, client, incarnation)| Bundle {
                token: TokenId::from_bytes(token),
                session: SessionId::from_bytes(session),
                grant,
                subject,
                directory: directory.parse().unwrap(),
                account: account.parse().unwrap(),
                client,
                incarnation,
                ..bundle(kind)
            },
        )
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(bundle in bundles(), random: [u8; 32]) {
        let token = one_key().seal(&bundle, &random);
        prop_assert!(token.expose().len() <= MAX_CHARS);
        prop_assert_eq!(open(&one_key(), token.expose()), Ok(bundle));
    }

    #[test]
    fn any_text_is_refused(text in "(ml[cabri]_)?[A-Za-z0-9_-]{0,800}") {
        prop_assert!(open(&one_key(), &text).is_err());
    }

    #[test]
    fn any_content_is_read_or_refused(bytes: Vec<u8>) {
        let _ = layout::read(&bytes, Kind::Access);
    }
}

#[test]
fn an_access_token_of_ordinary_names_has_at_most_320_characters() {
    let token = one_key().seal(&bundle(Kind::Access), &[9; 32]);
    assert!(token.expose().len() <= 320, "{} characters", token.expose().len());
}

#[test]
fn tokens_of_earlier_releases_open() {
    // Made before anything of how keys are derived was written anew: who holds a token keeps it over an upgrade.
    let text = "mla_AQECAAAAAAfaquXnudjqCvJT4bnJLBErpDU5fY7i6F8Efr694RRDgk8w4KvnTqSx568XEkpKqT0eLs16GzCBy7\
     4QsvuSh9O5hbGbPxWf-6lUgEaAljQmiXqf1JwJBbwSeIYm50TmgZ9uHlXypFdaHVZEVg-5VH4yDMvKwiOz6V6ow31I\
     ehRC3-0Sj8IDu_wsogSHaZAa7n6yzc2mcfzrQyEy4vIu7PvAGl_-ViiC5MJLqKkTaA";
    let ring = ring(&[(7, Stage::Primary, 9)]).unwrap();
    let said = Bundle {
        grant: Grant::default(),
        issued: at(NOW + 1_000),
        expires: at(NOW + 901_000),
        subject: "user:user-5".parse().unwrap(),
        directory: "local".parse().unwrap(),
        account: "default".parse().unwrap(),
        ..bundle(Kind::Access)
    };
    assert_eq!(ring.seal(&said, &[3; 32]).expose(), text);
    assert_eq!(open_at(&ring, text, NOW + 2_000), Ok(said));
}

#[test]
fn every_changed_byte_every_cut_and_every_addition_is_refused() {
    for kind in Kind::ALL {
        let token = one_key().seal(&bundle(kind), &[9; 32]);
        let text = token.expose().strip_prefix(kind.prefix()).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        let given = |bytes: &[u8]| {
            let text = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(bytes));
            open(&one_key(), &text)
        };
        assert!(given(&bytes).is_ok());
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[place] ^= 1 << bit;
                assert!(given(&changed).is_err(), "{kind:?}: bit {bit} of byte {place}");
            }
            assert!(given(&bytes[..place]).is_err(), "{kind:?}: cut at {place}");
        }
        assert!(
            given(&[&bytes[..], &[0]].concat()).is_err(),
            "{kind:?}: a byte more"
        );
    }
}

#[test]
fn no_kind_passes_for_another_even_with_a_header_to_match() {
    for (from, to) in Kind::ALL.into_iter().flat_map(|a| Kind::ALL.map(|b| (a, b))) {
        if from == to {
            continue;
        }
        let token = one_key().seal(&bundle(from), &[9; 32]);
        let text = token.expose().strip_prefix(from.prefix()).unwrap();
        assert_eq!(
            open(&one_key(), &format!("{}{text}", to.prefix())),
            Err(OpenError::Header)
        );
        let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        bytes[2] = to as u8;
        let forged = format!("{}{}", to.prefix(), URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(
            open(&one_key(), &forged),
            Err(OpenError::Forged),
            "{from:?} as {to:?}"
        );
    }
}

#[test]
fn keys_open_from_staging_until_they_are_destroyed() {
    let old = ring(&[(1, Stage::Primary, 1), (2, Stage::Staged, 2)]).unwrap();
    let new = ring(&[(1, Stage::Retiring, 1), (2, Stage::Primary, 2)]).unwrap();
    let last = ring(&[(2, Stage::Primary, 2)]).unwrap();
    let by_old = old.seal(&bundle(Kind::Access), &[9; 32]);
    let by_new = new.seal(&bundle(Kind::Access), &[9; 32]);
    assert!(open(&new, by_old.expose()).is_ok() && open(&old, by_new.expose()).is_ok());
    assert_eq!(open(&last, by_old.expose()), Err(OpenError::UnknownKey(1)));
    let other = ring(&[(2, Stage::Primary, 3)]).unwrap();
    assert_eq!(
        open(&other, by_new.expose()),
        Err(OpenError::Forged),
        "another deployment's"
    );
}

#[test]
fn a_ring_has_one_primary_and_each_id_once() {
    assert_eq!(ring(&[]).unwrap_err(), RingError::Primaries(0));
    let two = [(1, Stage::Primary, 1), (2, Stage::Primary, 2)];
    assert_eq!(ring(&two).unwrap_err(), RingError::Primaries(2));
    let twice = [(1, Stage::Primary, 1), (1, Stage::Retiring, 2)];
    assert_eq!(ring(&twice).unwrap_err(), RingError::Twice(1));
}

#[test]
fn a_token_ends_to_the_millisecond_and_begins_a_little_early() {
    let ring = one_key();
    let token = ring.seal(&bundle(Kind::Access), &[9; 32]);
    let when = |millis| open_at(&ring, token.expose(), millis);
    assert!(when(NOW + 899_999).is_ok());
    assert_eq!(when(NOW + 900_000), Err(OpenError::Expired(at(NOW + 900_000))));
    assert!(when(NOW - MAX_AHEAD_MS).is_ok());
    assert_eq!(when(NOW - MAX_AHEAD_MS - 1), Err(OpenError::Early(at(NOW))));
}

#[test]
fn the_same_randomness_gives_another_nonce_to_another_content() {
    let nonce = |bundle: &Bundle| one_key().seal(bundle, &[9; 32]).expose()[4 + 11..4 + 42].to_owned();
    let a = bundle(Kind::Access);
    let b = Bundle {
        expires: at(NOW + 900_001),
        ..a.clone()
    };
    assert_eq!(nonce(&a), nonce(&a));
    assert_ne!(nonce(&a), nonce(&b));
}

#[test]
fn fields_must_be_in_order_whole_and_known_if_critical() {
    let mut good = Vec::new();
    layout::write(&bundle(Kind::Access), &mut good);
    let read = |more: &[u8]| layout::read(&[&good[..], more].concat(), Kind::Access)?.bundle();
    assert!(read(&[]).is_ok());
    assert!(
        read(&[0x00, 0x06, 0, 1, 0xff]).is_ok(),
        "unknown and not critical"
    );
    for (more, why) in [
        (&[0x80, 0x06, 0, 0][..], "unknown and critical"),
        (&[0x80, 0x05, 0, 8, 0, 0, 0, 0, 0, 0, 0, 6], "there twice"),
        (&[0x00, 0x01, 0, 0], "out of order"),
        (&[0x00, 0x06, 0, 2, 0], "cut"),
        (&[0], "not a field"),
    ] {
        assert!(read(more).is_err(), "{why}");
    }
    assert!(layout::read(&good, Kind::Refresh).is_err(), "of another kind");
}

#[test]
fn nothing_secret_can_be_printed() {
    let ring = one_key();
    let token = ring.seal(&bundle(Kind::Access), &[9; 32]);
    let shown = format!(
        "{token:?} {ring:?} {:?} {:?}",
        RootKey::new([0xAB; 32]),
        Opening::new()
    );
    assert!(!shown.contains("mla_") && !shown.contains("171"), "{shown}");
}
