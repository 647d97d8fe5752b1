//! `PROTOCOL.md`, the code and the golden vectors say the same.
//!
//! `golden.json` has each vector once. Every frame in it is taken through the code's own types and through a codec that
//! knows nothing but the document's tables ([`vectors`]); what the document shows is compared with the file; the session
//! of the document is played by the two session cores, and what the document calls a fault is one ([`play`]).

#[path = "golden/play.rs"]
mod play;
#[path = "golden/vectors.rs"]
mod vectors;

use bytes::BytesMut;
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::entry::MAX_VALUE_BYTES;
use moorline_shared::link::body::{
    Applied, AsOf, Beat, Begin, Busy, Challenge, Code, Commit, Credential, Credit, Differs, Ended, Found,
    Get, GoAway, Hello, HelloAck, Item, LinkKey, List, Listing, MirrorDigest, Poll, Pull, Refused, Relay,
    Relayed, Secrets, Session, SessionOver, Standing, Watch,
};
use moorline_shared::link::frame::{HEADER_BYTES, Last, MAX_BODY, MAX_BODY_BEFORE_HELLO, put_header};
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{DEAD_MS, DEFAULT_LIMITS, HEARTBEAT_MS, PATIENCE_MS};
use moorline_shared::link::{Kind, PORT};
use moorline_shared::secret::SecretKey;
use moorline_shared::{Digest, EntryPath};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use vectors::{Fields, KindRow, Single, Vector, bytes, golden, hex, spaced};

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

/// The body of a whole frame in the code's own type.
fn body<'a, T: Deserialize<'a>>(wire: &'a [u8]) -> T {
    postcard::from_bytes(&wire[HEADER_BYTES..]).unwrap()
}

/// Decodes a body into the code's own type, and gives it encoded again and as serde tells it.
fn through<'a, T: Serialize + Deserialize<'a>>(body: &'a [u8]) -> (Vec<u8>, Json) {
    let (decoded, rest): (T, _) = postcard::take_from_bytes(body).unwrap();
    assert_eq!(rest, b"");
    (
        postcard::to_stdvec(&decoded).unwrap(),
        serde_json::to_value(&decoded).unwrap(),
    )
}

fn through_its_type(kind: Kind, body: &[u8]) -> Option<(Vec<u8>, Json)> {
    let through = match kind {
        Kind::Hello => through::<Hello>(body),
        Kind::HelloAck => through::<HelloAck>(body),
        Kind::Ping | Kind::Pong => through::<Beat>(body),
        Kind::GoAway => through::<GoAway>(body),
        Kind::Busy => through::<Busy>(body),
        Kind::Credit => through::<Credit>(body),
        Kind::Cancel | Kind::Reset => through::<Ended>(body),
        Kind::Challenge => through::<Challenge>(body),
        Kind::Begin => through::<Begin>(body),
        Kind::Commit => through::<Commit>(body),
        Kind::Applied => through::<Applied>(body),
        Kind::Standing => through::<Standing>(body),
        Kind::Session => through::<Session>(body),
        Kind::Credential => through::<Credential>(body),
        Kind::LinkKey => through::<LinkKey>(body),
        Kind::Secrets => through::<Secrets>(body),
        Kind::SessionOver => through::<SessionOver>(body),
        Kind::Digest => through::<MirrorDigest>(body),
        Kind::Differs => through::<Differs>(body),
        Kind::Pull => through::<Pull>(body),
        Kind::Poll => through::<Poll>(body),
        Kind::AsOf => through::<AsOf>(body),
        Kind::Get => through::<Get<'_>>(body),
        Kind::List => through::<List>(body),
        Kind::Watch => through::<Watch>(body),
        Kind::Found => through::<Found<'_>>(body),
        Kind::Listing => through::<Listing>(body),
        Kind::Refused => through::<Refused>(body),
        Kind::Relay => through::<Relay>(body),
        Kind::Relayed => through::<Relayed>(body),
        Kind::Part | Kind::Data => return None,
    };
    Some(through)
}

#[test]
fn every_kind_has_a_vector_and_its_place_in_the_document() {
    let golden = golden();
    let numbers: Vec<_> = golden.kinds.iter().map(|row| row.number).collect();
    assert_eq!(
        numbers,
        Kind::ALL.iter().map(|kind| *kind as u8).collect::<Vec<_>>()
    );
    for (row, kind) in golden.kinds.iter().zip(Kind::ALL) {
        assert_eq!(row.name.replace('_', ""), format!("{kind:?}").to_uppercase());
        let KindRow {
            number,
            name,
            from,
            body,
        } = row;
        let of_kind = |vector: &&Vector| vector.number == *number;
        assert!(
            golden.frames.iter().any(|vector| of_kind(&vector)),
            "{name} has no vector"
        );
        let shown = |vector: &Vector| DOCUMENT.contains(&format!("```frame {}\n", vector.name));
        assert!(
            golden.frames.iter().filter(of_kind).any(shown),
            "the document shows no {name}"
        );
        in_document(&format!("| `0x{number:02x}` | {name} | {from} |"));
        let heading = format!("### {name} (`0x{number:02x}`)");
        assert_eq!(table(&heading), body.clone().unwrap_or_default(), "{name}");
    }
    for (name, fields) in &golden.structs {
        assert_eq!(&table(&format!("### {name}")), fields, "{name}");
    }
}

#[test]
fn every_frame_is_what_the_code_and_the_document_make_of_it() {
    let golden = golden();
    for vector in &golden.frames {
        let (name, wire) = (&vector.name, bytes(&vector.hex));
        let frame = vector.frame(&wire);
        let row = golden.kinds.iter().find(|row| row.name == vector.kind).unwrap();
        assert_eq!(
            (frame.kind as u8, row.number),
            (vector.number, vector.number),
            "{name}"
        );
        assert_eq!(
            (frame.last == Last::Yes, frame.stream.0),
            (vector.end, vector.stream),
            "{name}"
        );
        assert!(row.from == "either" || row.from == vector.from, "{name}");
        let mut header = BytesMut::new();
        put_header(
            &mut header,
            frame.kind,
            frame.last,
            frame.stream,
            frame.body.len(),
        );
        assert_eq!(&header[..], &wire[..HEADER_BYTES], "{name}");

        let decoded = through_its_type(frame.kind, frame.body);
        assert_eq!(decoded.is_some(), vector.fields.is_some(), "{name}");
        if let (Some((again, serde)), Some(fields), Some(body)) = (decoded, &vector.fields, &row.body) {
            assert_eq!(hex(&again), hex(frame.body), "{name}: encoded by the code");
            assert_eq!(
                &golden.told_fields(body, &serde),
                fields,
                "{name}: decoded by the code"
            );
            let mut out = Vec::new();
            golden.put_fields(&mut out, body, fields);
            assert_eq!(
                hex(&out),
                hex(frame.body),
                "{name}: encoded by the document's tables"
            );
        }
    }
}

#[test]
fn every_content_is_a_row_of_items() {
    let golden = golden();
    for content in &golden.contents {
        let all = bytes(&content.hex);
        assert_eq!(Digest::of(&all).to_string(), content.sha256, "{}", content.name);
        let (mut rest, mut told, mut out) = (&all[..], Vec::new(), Vec::new());
        while !rest.is_empty() {
            let (item, after): (Item, _) = postcard::take_from_bytes(rest).unwrap();
            assert_eq!(
                postcard::to_stdvec(&item).unwrap(),
                rest[..rest.len() - after.len()]
            );
            told.push(golden.told("Item", &serde_json::to_value(&item).unwrap()));
            rest = after;
        }
        assert_eq!(told, content.items, "{}", content.name);
        content
            .items
            .iter()
            .for_each(|item| golden.put(&mut out, "Item", item));
        assert_eq!(hex(&out), content.hex, "{}", content.name);
    }
}

#[test]
fn every_view_is_a_row_of_rows() {
    let golden = golden();
    for view in &golden.views {
        let mut out = Vec::new();
        view.rows.iter().for_each(|row| golden.put(&mut out, "Row", row));
        assert_eq!(hex(&out), view.hex, "{}", view.name);
        let text = |row: &Json, field: &str| row[field].as_str().unwrap().to_owned();
        let texts = |row: &Json| ["path", "content_type", "value"].map(|field| text(row, field));
        let rows: Vec<_> = view.rows.iter().map(|row| (row, texts(row))).collect();
        let rows = rows.iter().map(|(row, [path, content_type, value])| Row {
            path,
            revision: serde_json::from_value(text_of_revision(&row["revision"])).unwrap(),
            content_type,
            secret: row["secret"].as_bool().unwrap(),
            value: value.parse().unwrap(),
        });
        assert_eq!(ViewDigest::of(rows).to_string(), view.sha256, "{}", view.name);
    }
}

/// A revision of the vectors as the code reads it.
fn text_of_revision(pair: &Json) -> Json {
    format!("{}.{}", pair[0], pair[1]).into()
}

#[test]
fn every_single_value_is_in_the_document() {
    let golden = golden();
    for Single {
        r#type,
        value,
        hex: expected,
    } in &golden.values
    {
        let mut out = Vec::new();
        golden.put(&mut out, r#type, value);
        assert_eq!(&hex(&out), expected, "{type} {value}");
        let row = DOCUMENT.lines().find_map(|line| {
            let [_, t, v, bytes, _] = line
                .split('|')
                .map(str::trim)
                .collect::<Vec<_>>()
                .try_into()
                .ok()?;
            let same = t == r#type && serde_json::from_str::<Json>(v.trim_matches('`')).ok()? == *value;
            same.then_some(bytes.trim_matches('`'))
        });
        assert_eq!(row, Some(&*spaced(expected)), "{type} {value}");
    }
}

#[test]
fn every_frame_of_the_document_is_a_vector() {
    let golden = golden();
    let mut lines = DOCUMENT.lines();
    let mut shown = 0;
    while let Some(line) = lines.next() {
        let expected = match line.split_once(' ') {
            Some(("```frame", name)) => &golden.vector(name).hex,
            Some(("```content", name)) => &golden.content(name).hex,
            Some(("```view", name)) => &golden.view(name).hex,
            _ => continue,
        };
        let block = lines.by_ref().take_while(|line| *line != "```");
        let digits: String = block
            .map(|line| line.split('#').next().unwrap_or_default())
            .collect();
        assert_eq!(spaced(&hex(&bytes(&digits))), spaced(expected), "{line}");
        shown += 1;
    }
    assert!(shown >= Kind::ALL.len());
}

#[test]
fn the_documents_numbers_are_the_codes() {
    let limits = DEFAULT_LIMITS;
    for (what, number) in [
        ("vsock port", u64::from(PORT)),
        ("header", HEADER_BYTES as u64),
        ("body before HELLO is done", MAX_BODY_BEFORE_HELLO as u64),
        ("body", MAX_BODY as u64),
        ("`limits.body`", limits.body.into()),
        ("`limits.streams`", limits.streams.into()),
        ("`limits.requests`", limits.requests.into()),
        ("`limits.credit`", limits.credit.into()),
        ("`limits.batch`", limits.batch.into()),
        ("`heartbeat_ms`", HEARTBEAT_MS.into()),
        ("dead after", DEAD_MS),
        ("patience", PATIENCE_MS),
        ("value of an entry", MAX_VALUE_BYTES as u64),
        ("body of a RELAY", 2 * MAX_VALUE_BYTES as u64),
        ("path", EntryPath::MAX_BYTES as u64),
        ("segments of a path", EntryPath::MAX_SEGMENTS as u64),
        ("segment of a path", EntryPath::MAX_SEGMENT_BYTES as u64),
    ] {
        in_document(&format!("| {what} | {number} |"));
    }
    for number in 1..=8 {
        in_document(&format!("| {number} | {:?} |", Code::from_number(number)));
    }
    assert_eq!(
        Code::from_number(9),
        Code::Internal,
        "a code that the document lacks"
    );
}

/// Whether a line of the document begins with `start`.
fn in_document(start: &str) {
    assert!(
        DOCUMENT.lines().any(|line| line.starts_with(start)),
        "PROTOCOL.md lacks: {start}"
    );
}

/// The first two columns of the table of fields behind a heading.
fn table(heading: &str) -> Fields {
    let mut lines = DOCUMENT.lines();
    assert!(lines.any(|line| line == heading), "PROTOCOL.md lacks: {heading}");
    let section = lines.take_while(|line| !line.starts_with('#'));
    let fields = section.filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (r#type, _) = rest.split_once(" | ")?;
        Some((name.to_owned(), r#type.to_owned()))
    });
    fields.collect()
}

#[test]
fn the_proof_is_an_hmac_of_the_nonce() {
    let golden = golden();
    let key = SecretKey::from(<[u8; 32]>::try_from(bytes(&golden.proof.key)).unwrap());
    let nonce = bytes(&golden.proof.nonce).try_into().unwrap();
    let made = proof(&key, &nonce);
    assert_eq!(hex(&made), golden.proof.hmac);
    let wire = golden.wire(&golden.proof.frame);
    let hello: Hello = body(&wire);
    assert_eq!(hello.proof, Some(made));
}
