//! Cuts what a host is told into lines of a bounded length.

use std::future::Future;

use moorline_shared::api::feed::{FeedItem, FeedMessage, View, ViewEntry};
use moorline_shared::entry::MAX_VALUE_BYTES;

/// Where a feed's messages go.
pub trait Sink: Send {
    /// Sends a message, waiting while the host doesn't read. `Err` if it is gone.
    fn send(&mut self, message: &FeedMessage) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The host is gone.
#[derive(Debug, Clone, Copy)]
pub struct Gone;

/// The most bytes of values and names in a line, unless one entry alone has more: a line of it is shorter than
/// [`moorline_shared::api::feed::MAX_LINE_BYTES`] even where JSON writes six bytes for one.
const PART_BYTES: usize = MAX_VALUE_BYTES;
/// About what an item takes in JSON beside its names and values, in bytes.
const ITEM_BYTES: usize = 512;

/// The items of a snapshot or of a batch on their way. It holds as many as a line does.
#[derive(Debug)]
pub struct Parts<'a, S> {
    sink: &'a mut S,
    items: Vec<FeedItem>,
    bytes: usize,
}

impl<'a, S: Sink> Parts<'a, S> {
    /// Nothing yet.
    pub fn new(sink: &'a mut S) -> Self {
        Self {
            sink,
            items: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds an item that isn't a view; those before it are sent if the line would be too long with it.
    pub async fn item(&mut self, item: FeedItem) -> Result<(), Gone> {
        let bytes = weight(&item);
        if self.bytes + bytes > PART_BYTES {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.items.push(item);
        Ok(())
    }

    /// Adds a view, in as many lines as it takes.
    pub async fn view(&mut self, view: View) -> Result<(), Gone> {
        let id = view.view;
        let mut pieces = pieces(view.entries).into_iter();
        let entries = pieces.next().unwrap_or_default();
        self.item(FeedItem::View(View { entries, ..view })).await?;
        for entries in pieces {
            self.flush().await?;
            self.sink.send(&FeedMessage::More { view: id, entries }).await?;
        }
        Ok(())
    }

    /// Sends a message that is no part of these, before those that are held.
    pub async fn aside(&mut self, message: &FeedMessage) -> Result<(), Gone> {
        self.sink.send(message).await
    }

    /// Sends what is left as a part.
    pub async fn flush(&mut self) -> Result<(), Gone> {
        if self.items.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let items = std::mem::take(&mut self.items);
        self.sink.send(&FeedMessage::Part { items }).await
    }

    /// What is left, for the line that closes a batch.
    pub fn rest(self) -> Vec<FeedItem> {
        self.items
    }
}

fn weight(item: &FeedItem) -> usize {
    let content = match item {
        FeedItem::Instance(_) | FeedItem::InstanceGone { .. } => 0,
        FeedItem::View(view) => view.entries.iter().map(entry_weight).sum(),
        FeedItem::Entry { path, entry, .. } => {
            path.len() + entry.as_ref().map_or(0, |entry| entry.value.len())
        }
    };
    ITEM_BYTES + content
}

fn entry_weight(entry: &ViewEntry) -> usize {
    ITEM_BYTES + entry.path.len() + entry.entry.value.len()
}

/// The entries in order, as many together as a line holds.
fn pieces(entries: Vec<ViewEntry>) -> Vec<Vec<ViewEntry>> {
    let (mut pieces, mut bytes) = (Vec::<Vec<_>>::new(), 0);
    for entry in entries {
        let weight = entry_weight(&entry);
        match pieces.last_mut() {
            Some(piece) if bytes + weight <= PART_BYTES => piece.push(entry),
            _ => {
                bytes = 0;
                pieces.push(vec![entry]);
            }
        }
        bytes += weight;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::{Gone, Parts, Sink};
    use moorline_shared::api::feed::{
        FeedEntry, FeedItem, FeedMessage, MAX_LINE_BYTES, View, ViewEntry, ViewId,
    };
    use moorline_shared::entry::{MAX_ENTRIES, MAX_INSTANCE_BYTES, MAX_VALUE_BYTES, Value};
    use moorline_shared::{InstanceId, Revision};

    /// The lines that were sent.
    #[derive(Default)]
    struct Sent(Vec<FeedMessage>);

    impl Sink for Sent {
        async fn send(&mut self, message: &FeedMessage) -> Result<(), Gone> {
            let length = serde_json::to_vec(message).unwrap().len();
            assert!(length < MAX_LINE_BYTES, "a line of {length} bytes");
            self.0.push(message.clone());
            Ok(())
        }
    }

    fn view(count: usize, value: &[u8]) -> View {
        let value = Value::from(bytes::Bytes::copy_from_slice(value));
        let entry = |n: usize| ViewEntry {
            path: format!("{}/{n:04}", ["p".repeat(100), "q".repeat(100)].join("/"))
                .parse()
                .unwrap(),
            entry: FeedEntry {
                revision: Revision::new(1, 1),
                content_type: Default::default(),
                value: value.clone(),
                secret: false,
                expires_at: None,
            },
        };
        View {
            view: ViewId::own(InstanceId::from_bytes([1; 16])),
            revision: Revision::new(1, 1),
            entries: (0..count).map(entry).collect(),
        }
    }

    /// The view that the lines are put together to.
    fn joined(lines: Vec<FeedMessage>) -> View {
        let mut lines = lines.into_iter();
        let Some(FeedMessage::Part { mut items }) = lines.next() else {
            panic!("no part comes first")
        };
        let Some(FeedItem::View(mut view)) = items.pop() else {
            panic!("the part doesn't end with the view")
        };
        for line in lines {
            match line {
                FeedMessage::More { entries, .. } => view.entries.extend(entries),
                other => panic!("{other:?} is in the middle of a view"),
            }
        }
        view
    }

    #[tokio::test]
    async fn a_view_of_any_content_comes_in_bounded_lines_and_is_whole_again() {
        let most = MAX_INSTANCE_BYTES / MAX_VALUE_BYTES;
        let control = vec![1; MAX_VALUE_BYTES];
        let binary = vec![255; MAX_VALUE_BYTES];
        for (count, value) in [
            (0, &b""[..]),
            (1, b"a"),
            (most, &control),
            (most, &binary),
            (MAX_ENTRIES, &[1; 1024]),
        ] {
            let (mut sent, view) = (Sent::default(), view(count, value));
            let mut parts = Parts::new(&mut sent);
            parts.view(view.clone()).await.unwrap();
            parts.flush().await.unwrap();
            assert_eq!(joined(sent.0), view, "{count} entries");
        }
    }
}
