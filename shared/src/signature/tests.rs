//! The test vectors of RFC 9421 and RFC 9530, and what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::digest::Digest;

/// The request of RFC 9421, appendix B.2.
const REQUEST: Request<'_> = Request {
    method: "POST",
    authority: "example.com",
    target: "/foo?param=Value&Pet=dog",
    fields: &[
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        (
            "content-digest",
            "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
        ),
        ("content-length", "18"),
    ],
};

fn base(input: &str) -> String {
    let inputs = Input::read_all(input).unwrap();
    REQUEST.base(&inputs[0].1).unwrap()
}

#[test]
fn a_signature_with_a_shared_secret_is_the_rfcs() {
    let input =
        r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#;
    let secret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
    let mut hmac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(secret).unwrap()).unwrap();
    hmac.update(base(input).as_bytes());
    let signature = signatures("sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:").unwrap();
    hmac.verify_slice(&signature[0].1).unwrap();
}

#[test]
fn the_base_of_full_coverage_is_the_rfcs() {
    let input = r#"sig-b23=("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#;
    let expected = r#""date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@query": ?param=Value&Pet=dog
"@authority": example.com
"content-type": application/json
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#;
    assert_eq!(base(input), expected);
}

#[test]
fn a_minimal_base_is_the_rfcs() {
    let input = r#"sig-b21=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#;
    let expected = r#""@signature-params": ();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#;
    assert_eq!(base(input), expected);
}

#[test]
fn the_digest_of_a_body_is_the_rfcs() {
    let field = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    let digest = Digest::of(br#"{"hello": "world"}"#);
    assert_eq!(content_digest::write(&digest), field);
    assert_eq!(content_digest::read(field), Ok(digest));
    for wrong in [
        "sha-512=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        "sha-256=:X48E:",
        "sha-256=X48E",
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:, md5=:X48E:",
        "",
    ] {
        assert!(content_digest::read(wrong).is_err(), "{wrong} was taken");
    }
}

#[test]
fn a_host_signs_its_guests_signature() {
    let signed = Request {
        fields: &[("signature", "guest=:AQID:"), ("signature", "other=:BA==:")],
        ..REQUEST
    };
    let input = host_input(Seconds(7), "0a");
    let expected = r#""signature";key="guest": :AQID:
"@signature-params": ("signature";key="guest");created=7;keyid="0a";alg="ecdsa-p256-sha256";tag="moorline-host""#;
    assert_eq!(signed.base(&input).unwrap(), expected);
    let unsigned = REQUEST.base(&input).unwrap_err();
    assert_eq!(unsigned, BaseError::Missing(r#""signature";key="guest""#.into()));
}

#[test]
fn what_an_instance_signs_grows_with_its_conditions() {
    let conditional = Request {
        fields: &[("if-match", "\"1.2\"")],
        ..REQUEST
    };
    let names = |request| {
        covered(request)
            .iter()
            .map(|c| c.name().to_owned())
            .collect::<Vec<_>>()
    };
    let (plain, more) = (names(&REQUEST), names(&conditional));
    assert_eq!(plain.len(), 7);
    assert_eq!((&more[..7], more[7].as_str()), (&plain[..], "if-match"));
}

#[test]
fn what_is_malformed_or_there_twice_is_refused() {
    for (field, why) in [
        ("", FieldError::Form),
        ("guest", FieldError::Form),
        ("guest=", FieldError::Form),
        ("guest=(", FieldError::Form),
        (r#"guest=("a"#, FieldError::Form),
        (r#"guest=("a")"#, FieldError::Form),
        (r#"guest=("a""b")"#, FieldError::Form),
        (r#"guest=("a");created="x""#, FieldError::Form),
        (r#"guest=("a");created=1.5"#, FieldError::Form),
        (r#"guest=("a");created=1,"#, FieldError::Form),
        (r#"Guest=("a")"#, FieldError::Form),
        (r#"guest=("a\n")"#, FieldError::Form),
        (r#"guest=("a" "a");created=1"#, FieldError::Twice),
        (r#"guest=("a");created=1;created=2"#, FieldError::Twice),
        (
            r#"guest=("a");created=1, guest=("a");created=1"#,
            FieldError::Twice,
        ),
        (r#"guest=("a");created=1;other=2"#, FieldError::Unknown),
        (r#"guest=("a";req);created=1"#, FieldError::Unknown),
        (r#"guest=("a");created=1234567890123456"#, FieldError::TooLong),
    ] {
        let read = Input::read_all(field);
        let well_formed = field == r#"guest=("a")"#;
        assert_eq!(read.is_ok(), well_formed, "{field}");
        if !well_formed {
            assert_eq!(read.unwrap_err(), why, "{field}");
        }
    }
    let many = vec!["\"a\""; 17].join(" ");
    assert!(Input::read_all(&format!("guest=({many})")).is_err());
    let long = "x".repeat(MAX_FIELD_BYTES);
    assert_eq!(
        Input::read_all(&format!("guest=(\"{long}\")")),
        Err(FieldError::TooLong)
    );
    let labels = ["a", "b", "c", "d", "e"].map(|label| format!("{label}=:AA==:"));
    assert_eq!(signatures(&labels.join(", ")), Err(FieldError::TooLong));
    assert!(signatures(&labels[..4].join(",")).is_ok());
    for wrong in ["a=:A:", "a=:AA==", "a=AA==", "a=:AA==: b", "a=:AB==:"] {
        assert_eq!(signatures(wrong), Err(FieldError::Form), "{wrong}");
    }
}

#[test]
fn a_value_can_add_no_line() {
    let evil = Request {
        fields: &[("idempotency-key", "a\n\"@method\": GET")],
        ..REQUEST
    };
    let input = Input::new(vec![Component::new("idempotency-key")], Vec::new());
    assert!(matches!(evil.base(&input), Err(BaseError::Unprintable(_))));
    let derived = Input::new(vec![Component::new("@status")], Vec::new());
    assert!(matches!(evil.base(&derived), Err(BaseError::Unknown(_))));
    let member = Input::new(vec![Component::member("idempotency-key", "a")], Vec::new());
    assert!(matches!(evil.base(&member), Err(BaseError::Unknown(_))));
}

#[test]
fn the_example_of_the_document_is_signed_as_it_says() {
    let digest = content_digest::write(&Digest::of(br#"{"value":"x"}"#));
    let request = Request {
        method: "PUT",
        authority: "moorline",
        target: "/v1/instances/i-0123456789abcdef0123456789abcdef/data/a",
        fields: &[
            ("idempotency-key", "k-1"),
            ("if-match", "\"1.2\""),
            ("content-digest", &digest),
            ("moorline-token", "mli_AAAA"),
        ],
    };
    let created = Seconds(1_800_000_000);
    let input = guest_input(
        &request,
        created,
        "nonce-of-16-chars",
        "t-1",
        Algorithm::HmacSha256,
    );
    let base = request.base(&input).unwrap();
    let document = include_str!("../../PROTOCOL.md");
    assert!(document.contains(&format!("```text\n{base}\n```")), "{base}");
    let key: Vec<u8> = (0..32).collect();
    let mut hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    hmac.update(base.as_bytes());
    let [_, (name, value)] = fields(GUEST, &input, &hmac.finalize().into_bytes());
    assert!(document.contains(&format!("`{name}: {value}`")), "{value}");
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(nonce in "[ -~]{0,64}", created: i32, key_id in "[ -~]{0,40}") {
        let input = guest_input(&REQUEST, Seconds(created.into()), &nonce, &key_id, Algorithm::Ed25519);
        let [(_, written), (_, signature)] = fields(GUEST, &input, b"signature");
        prop_assert_eq!(Input::read_all(&written).unwrap(), vec![(GUEST.to_owned(), input)]);
        let read = signatures(&signature).unwrap();
        prop_assert_eq!(&read[0].1[..], b"signature");
    }

    #[test]
    fn anything_may_come(field in "[ -~]{0,200}") {
        if let Ok(inputs) = Input::read_all(&field) {
            for (label, input) in inputs {
                let again = Input::read_all(&format!("{label}={input}")).unwrap();
                prop_assert_eq!(&again[0].1, &input);
            }
        }
        let _ = (signatures(&field), content_digest::read(&field));
    }
}
