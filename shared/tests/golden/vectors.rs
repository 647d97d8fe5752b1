//! What `golden.json` holds, and the codec of the document's tables.

use std::collections::BTreeMap;

use base64::Engine as _;
use moorline_shared::Revision;
use moorline_shared::link::frame::{Frame, MAX_BODY, decode};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Names and types in the order of the wire.
pub(crate) type Fields = Vec<(String, String)>;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) structs: BTreeMap<String, Fields>,
    pub(crate) kinds: Vec<KindRow>,
    pub(crate) values: Vec<Single>,
    pub(crate) frames: Vec<Vector>,
    pub(crate) contents: Vec<Content>,
    pub(crate) views: Vec<Compared>,
    pub(crate) proof: Proof,
    pub(crate) session: Vec<String>,
    pub(crate) faults: Vec<FaultRow>,
}

#[derive(Deserialize)]
pub(crate) struct KindRow {
    pub(crate) number: u8,
    pub(crate) name: String,
    pub(crate) from: String,
    pub(crate) body: Option<Fields>,
}

#[derive(Deserialize)]
pub(crate) struct Single {
    pub(crate) r#type: String,
    pub(crate) value: Json,
    pub(crate) hex: String,
}

#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) number: u8,
    pub(crate) from: String,
    pub(crate) end: bool,
    pub(crate) stream: u32,
    pub(crate) fields: Option<Json>,
    pub(crate) hex: String,
}

#[derive(Deserialize)]
pub(crate) struct Content {
    pub(crate) name: String,
    pub(crate) items: Vec<Json>,
    pub(crate) sha256: String,
    pub(crate) hex: String,
}

/// What a view or a mirror is compared by.
#[derive(Deserialize)]
pub(crate) struct Compared {
    pub(crate) name: String,
    pub(crate) rows: Vec<Json>,
    pub(crate) sha256: String,
    pub(crate) hex: String,
}

#[derive(Deserialize)]
pub(crate) struct Proof {
    pub(crate) key: String,
    pub(crate) nonce: String,
    pub(crate) hmac: String,
    pub(crate) frame: String,
}

#[derive(Deserialize)]
pub(crate) struct FaultRow {
    pub(crate) name: String,
    pub(crate) to: String,
    pub(crate) before_hello: bool,
    pub(crate) class: String,
    /// What the host is sending on stream 0, without having got any credit for it.
    pub(crate) sending: Option<Sending>,
    pub(crate) frames: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Sending {
    pub(crate) to: (u64, u64),
    pub(crate) length: usize,
}

pub(crate) fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden.json")).expect("golden.json is what this test knows")
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(crate) fn spaced(hex: &str) -> String {
    let pairs: Vec<_> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap())
        .collect();
    pairs.join(" ")
}

impl Vector {
    pub(crate) fn frame<'a>(&self, wire: &'a [u8]) -> Frame<'a> {
        let (frame, taken) = decode(wire, MAX_BODY).unwrap().expect("the frame is whole");
        assert_eq!(taken, wire.len(), "{}: something follows the frame", self.name);
        frame
    }
}

impl Golden {
    pub(crate) fn vector(&self, name: &str) -> &Vector {
        let found = self.frames.iter().find(|vector| vector.name == name);
        found.unwrap_or_else(|| panic!("golden.json has no frame {name}"))
    }

    pub(crate) fn wire(&self, name: &str) -> Vec<u8> {
        bytes(&self.vector(name).hex)
    }

    pub(crate) fn content(&self, name: &str) -> &Content {
        let found = self.contents.iter().find(|content| content.name == name);
        found.unwrap_or_else(|| panic!("golden.json has no content {name}"))
    }

    pub(crate) fn view(&self, name: &str) -> &Compared {
        let found = self.views.iter().find(|view| view.name == name);
        found.unwrap_or_else(|| panic!("golden.json has no view {name}"))
    }

    /// Writes a value of the type as the document says, without the code's own types.
    pub(crate) fn put(&self, out: &mut Vec<u8>, r#type: &str, value: &Json) {
        if let Some(inner) = r#type.strip_suffix('?') {
            out.push(u8::from(!value.is_null()));
            if !value.is_null() {
                self.put(out, inner, value);
            }
            return;
        }
        if let Some(inner) = r#type.strip_prefix("list of ") {
            let list = value.as_array().unwrap();
            put_varint(out, list.len() as u64);
            return list.iter().for_each(|value| self.put(out, inner, value));
        }
        match r#type {
            "u16" | "u32" | "u64" | "freshness" => put_varint(out, value.as_u64().unwrap()),
            "bool" => out.push(u8::from(value.as_bool().unwrap())),
            "text" => put_bytes(out, value.as_str().unwrap().as_bytes()),
            "bytes" => put_bytes(out, &bytes(value.as_str().unwrap())),
            "[16]" | "[32]" => out.extend(bytes(value.as_str().unwrap())),
            "revision" => (0..2).for_each(|i| put_varint(out, value[i].as_u64().unwrap())),
            name => self.put_fields(out, &self.structs[name], value),
        }
    }

    pub(crate) fn put_fields(&self, out: &mut Vec<u8>, fields: &Fields, value: &Json) {
        assert_eq!(value.as_object().unwrap().len(), fields.len(), "{value}");
        for (name, r#type) in fields {
            self.put(out, r#type, &value[name]);
        }
    }

    /// What serde says a value of the code's own types is, in the words of the file.
    pub(crate) fn told(&self, r#type: &str, value: &Json) -> Json {
        if let Some(inner) = r#type.strip_suffix('?') {
            return if value.is_null() {
                Json::Null
            } else {
                self.told(inner, value)
            };
        }
        if let Some(inner) = r#type.strip_prefix("list of ") {
            return value
                .as_array()
                .unwrap()
                .iter()
                .map(|value| self.told(inner, value))
                .collect();
        }
        match (r#type, value) {
            ("bytes", Json::String(text)) => json!(hex(text.as_bytes())),
            // A digest is told as its digits, a key as base64.
            ("[32]", Json::String(text)) if text.len() == 44 => json!(hex(&base64(value))),
            ("bytes", Json::Object(_)) => json!(hex(&base64(&value["base64"]))),
            ("bytes" | "[16]" | "[32]", Json::Array(_)) => json!(hex(&numbers(value))),
            ("[16]", Json::String(id)) => json!(id.strip_prefix("i-").unwrap()),
            ("revision", Json::String(text)) => {
                let revision: Revision = text.parse().unwrap();
                json!([revision.epoch, revision.n])
            }
            ("freshness", Json::String(word)) => {
                json!(["Fresh", "Stale"].iter().position(|known| known == word))
            }
            ("Header", Json::Array(pair)) => json!({"name": pair[0], "value": pair[1]}),
            (name, Json::Object(_)) => self.told_fields(&self.structs[name], value),
            _ => value.clone(),
        }
    }

    pub(crate) fn told_fields(&self, fields: &Fields, value: &Json) -> Json {
        assert_eq!(value.as_object().unwrap().len(), fields.len(), "{value}");
        let told = |(name, r#type): &(String, String)| (name.clone(), self.told(r#type, &value[name]));
        Json::Object(fields.iter().map(told).collect())
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn base64(text: &Json) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(text.as_str().unwrap())
        .unwrap()
}

fn numbers(list: &Json) -> Vec<u8> {
    let byte = |number: &Json| u8::try_from(number.as_u64().unwrap()).unwrap();
    list.as_array().unwrap().iter().map(byte).collect()
}
