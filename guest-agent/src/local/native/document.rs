//! JSON documents that show entries with their values, written while they are sent.
//!
//! A value is up to six times as long in JSON, and a client may take its time to read. So what a connection holds is
//! where it is in the document, and entries that the mirror holds too.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use moorline_shared::agent::{Entry, EntryChange, Listing, WatchEvent};
use moorline_shared::entry::Value;
use serde::Serialize;

/// How many bytes of a value are written at once; a multiple of three, so that base64 has no padding in between.
const VALUE_PIECE: usize = 3 * 1024;
/// A piece of a document is sent once it is this long, in bytes.
const PIECE: usize = 8 * 1024;

/// A document on its way: an iterator over its pieces, none of which is much longer than [`PIECE`].
pub(super) struct Document {
    items: Box<dyn Iterator<Item = Item>>,
    /// What of the present item is to be written yet.
    parts: VecDeque<Part>,
    end: Option<&'static str>,
    is_first: bool,
}

/// An element of the document's list.
struct Item {
    json: Vec<u8>,
    value: Option<Value>,
    /// What closes the objects around the value.
    end: &'static str,
}

enum Part {
    Fixed(&'static str),
    Json(Vec<u8>),
    /// What is left of a value that is text.
    Text(Bytes),
    /// What is left of one that isn't.
    Binary(Bytes),
}

impl Document {
    /// A listing, whose entries are in `entries` instead of in itself.
    pub(super) fn listing(head: &Listing, entries: impl Iterator<Item = Entry> + 'static) -> Self {
        Self::new(opened(head, "]}"), "]}", entries.map(Item::entry))
    }

    /// A line of a watch.
    pub(super) fn line(event: WatchEvent) -> Self {
        match event {
            WatchEvent::Changes { revision, changes } => {
                let head = WatchEvent::Changes {
                    revision,
                    changes: Vec::new(),
                };
                Self::new(opened(&head, "]}"), "]}\n", changes.into_iter().map(Item::change))
            }
            other => Self::new(json(&other), "\n", std::iter::empty()),
        }
    }

    fn new(head: Vec<u8>, end: &'static str, items: impl Iterator<Item = Item> + 'static) -> Self {
        Self {
            items: Box::new(items),
            parts: VecDeque::from([Part::Json(head)]),
            end: Some(end),
            is_first: true,
        }
    }

    fn next_part(&mut self) -> Option<Part> {
        if let Some(part) = self.parts.pop_front() {
            return Some(part);
        }
        let Some(item) = self.items.next() else {
            return self.end.take().map(Part::Fixed);
        };
        let is_first = std::mem::replace(&mut self.is_first, false);
        self.parts.push_back(Part::Json(item.json));
        if let Some(value) = item.value {
            self.parts.extend(Part::of_value(&value));
        }
        self.parts.push_back(Part::Fixed(item.end));
        if is_first {
            self.next_part()
        } else {
            Some(Part::Fixed(","))
        }
    }
}

impl Iterator for Document {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = Vec::new();
        while piece.len() < PIECE
            && let Some(part) = self.next_part()
        {
            if let Some(rest) = part.write(&mut piece) {
                self.parts.push_front(rest);
            }
        }
        (!piece.is_empty()).then(|| piece.into())
    }
}

impl Item {
    fn entry(mut entry: Entry) -> Self {
        match entry.value.take() {
            None => Self {
                json: json(&entry),
                value: None,
                end: "",
            },
            value => Self {
                json: [&opened(&entry, "}")[..], br#","value":"#].concat(),
                value,
                end: "}",
            },
        }
    }

    fn change(mut change: EntryChange) -> Self {
        let Some(entry) = change.entry.take() else {
            return Self {
                json: json(&change),
                value: None,
                end: "",
            };
        };
        let entry = Self::entry(entry);
        Self {
            json: [&opened(&change, "}")[..], br#","entry":"#, &entry.json].concat(),
            value: entry.value,
            end: if entry.end.is_empty() { "}" } else { "}}" },
        }
    }
}

impl Part {
    /// The parts of a value, as it is in JSON: text, or base64 in an object.
    fn of_value(value: &Value) -> [Self; 3] {
        let bytes = value.bytes().clone();
        if value.text().is_some() {
            [Self::Fixed("\""), Self::Text(bytes), Self::Fixed("\"")]
        } else {
            [
                Self::Fixed(r#"{"base64":""#),
                Self::Binary(bytes),
                Self::Fixed("\"}"),
            ]
        }
    }

    /// Writes the part, or a piece of it. Returns what is left.
    fn write(self, out: &mut Vec<u8>) -> Option<Self> {
        match self {
            Self::Fixed(text) => out.extend(text.as_bytes()),
            Self::Json(bytes) => out.extend(bytes),
            Self::Text(mut rest) => {
                let piece = rest.split_to(whole_characters(&rest));
                let text = json(&str::from_utf8(&piece).unwrap_or_default());
                // The quotes stand around the whole value.
                out.extend(&text[1..text.len() - 1]);
                return (!rest.is_empty()).then_some(Self::Text(rest));
            }
            Self::Binary(mut rest) => {
                let piece = rest.split_to(rest.len().min(VALUE_PIECE));
                out.extend(STANDARD.encode(piece).as_bytes());
                return (!rest.is_empty()).then_some(Self::Binary(rest));
            }
        }
        None
    }
}

/// How many bytes of text are a piece: as many as go without cutting a character.
fn whole_characters(text: &[u8]) -> usize {
    let mut end = text.len().min(VALUE_PIECE);
    // The second and later bytes of a character begin so.
    while text
        .get(end)
        .is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000)
    {
        end -= 1;
    }
    end
}

fn json(document: &impl Serialize) -> Vec<u8> {
    // Our documents are structs of texts, numbers and lists, which are always JSON.
    serde_json::to_vec(document).unwrap_or_default()
}

/// The document without what closes it.
fn opened(document: &impl Serialize, end: &'static str) -> Vec<u8> {
    let mut json = json(document);
    json.truncate(json.len().saturating_sub(end.len()));
    json
}

#[cfg(test)]
mod tests {
    use moorline_shared::Revision;
    use moorline_shared::agent::Freshness;
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let text = "\\PC{0,20}".prop_map(String::into_bytes);
        let long = (0usize..9_000).prop_map(|length| "a\u{1}\u{e9}\u{1f600}\"".repeat(length).into_bytes());
        let value = prop_oneof![text, long, prop::collection::vec(any::<u8>(), 0..9_000)];
        let value = prop::option::of(value.prop_map(|bytes| Value::from(Bytes::from(bytes))));
        ("[a-z]{1,8}", value).prop_map(|(path, value)| Entry {
            path: path.parse().unwrap(),
            revision: Revision::new(1, 2),
            content_type: "text/plain".to_owned(),
            length: 3,
            value,
        })
    }

    /// The document, and the length of its longest piece.
    fn whole(document: Document) -> (String, usize) {
        let pieces: Vec<Bytes> = document.collect();
        let longest = pieces.iter().map(Bytes::len).max().unwrap_or_default();
        (String::from_utf8(pieces.concat()).unwrap(), longest)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_listing_in_pieces_is_the_listing(entries in prop::collection::vec(entry(), 0..6)) {
            let mut listing = Listing {
                revision: Revision::new(1, 2),
                age_ms: 3,
                freshness: Freshness::Fresh,
                entries: Vec::new(),
            };
            let (json, longest) = whole(Document::listing(&listing, entries.clone().into_iter()));
            listing.entries = entries;
            prop_assert_eq!(json, serde_json::to_string(&listing).unwrap());
            prop_assert!(longest <= PIECE + 6 * VALUE_PIECE, "{}", longest);
        }

        #[test]
        fn a_line_in_pieces_is_the_event(
            entries in prop::collection::vec(prop::option::of(entry()), 0..6), revision in 0u64..9,
        ) {
            let revision = Revision::new(1, revision);
            let path: moorline_shared::EntryPath = "gone".parse().unwrap();
            let change = |entry: Option<Entry>| EntryChange {
                path: entry.as_ref().map_or(&path, |entry| &entry.path).clone(),
                entry,
            };
            let changes = entries.into_iter().map(change).collect();
            for event in [WatchEvent::Changes { revision, changes }, WatchEvent::Bookmark { revision }] {
                let expected = serde_json::to_string(&event).unwrap() + "\n";
                prop_assert_eq!(whole(Document::line(event)).0, expected);
            }
        }
    }
}
