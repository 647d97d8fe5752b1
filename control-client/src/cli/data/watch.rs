//! Changes followed as they are made.

use clap::Args;
use moorline_shared::api::data::{EntryChange, ListQuery, WatchEvent};
use moorline_shared::{InstanceId, PathPrefix, Revision};

use super::read::cell;
use crate::cli::Session;
use crate::cli::failure::Failure;
use crate::cli::out::note;
use crate::error::ClientError;
use crate::follow::Followed;

const EXAMPLES: &str = "\
Examples:
  moorline data watch web
  moorline data watch web app --after 1.42
  moorline data watch web app --output json | while read -r event; do ./react \"$event\"; done

A watch that is lost is taken up again after the last change that was seen. Where changes
were dropped in between, it says so: list the entries then.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct WatchArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Only this path and what is below it.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: PathPrefix,
    /// Begin with the changes after this revision, instead of those from now on.
    #[arg(long, value_name = "REVISION")]
    after: Option<Revision>,
    /// End after so many transactions.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

pub(super) async fn run(args: WatchArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let after = match args.after {
        Some(revision) => revision,
        None => present(instance, &args.prefix, session).await?,
    };
    let mut follow = session.client.follow(instance, args.prefix, Some(after));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        match follow.next().await? {
            Followed::Event(event) => {
                session.out.event(&event, told)?;
                left -= u64::from(matches!(event, WatchEvent::Changes { .. }));
            }
            Followed::Lost { error, wait } => {
                note(&lost(error.as_ref(), wait));
                refresh(session).await?;
            }
        }
    }
    Ok(())
}

/// Where the entries stand now. A watch that begins there misses nothing, even if it is lost before anything comes.
async fn present(
    instance: InstanceId,
    prefix: &PathPrefix,
    session: &Session<'_>,
) -> Result<Revision, Failure> {
    let query = ListQuery {
        prefix: prefix.clone(),
        limit: Some(1),
        ..ListQuery::default()
    };
    let page = session.client.list_instance_data(instance, &query).await?;
    Ok(page.revision)
}

/// By the time that a watch is lost, the token that it was begun with may have run out.
async fn refresh(session: &Session<'_>) -> Result<(), Failure> {
    match session.keep_fresh().await {
        // The watch isn't there either then, and this is asked again when it is lost the next time.
        Err(failure) if failure.is_silence() => Ok(()),
        result => result,
    }
}

fn lost(error: Option<&ClientError>, wait: std::time::Duration) -> String {
    let why = error.map_or_else(|| "the control plane ended it".to_owned(), ToString::to_string);
    format!(
        "the watch was lost: {why}; trying again in {} ms",
        wait.as_millis()
    )
}

/// A line for each entry that changed. Bookmarks are for programs.
fn told(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Changes { revision, changes } => {
            let lines = changes.iter().map(|change| line(*revision, change));
            lines.collect::<Vec<_>>().join("\n")
        }
        WatchEvent::Bookmark { .. } => String::new(),
        WatchEvent::Resync { revision } => {
            format!(
                "resync: changes before {revision} were dropped; list the entries to see where they stand"
            )
        }
    }
}

fn line(revision: Revision, change: &EntryChange) -> String {
    match &change.entry {
        Some(entry) => format!("{revision}  {}  {}", change.path, cell(entry.value.as_ref())),
        None => format!("{revision}  {}  (gone)", change.path),
    }
}

#[cfg(test)]
mod tests {
    use super::told;
    use serde_json::json;

    #[test]
    fn events_are_lines() {
        let events = json!([
            {"event": "changes", "revision": "1.9", "changes": [
                {"path": "app/mode", "entry": {
                    "path": "app/mode", "revision": "1.9", "version": 2, "content_type": "text/plain", "length": 5,
                    "value": "\u{1b}[2J", "origin": "customer", "visibility": "private", "changed_by": "user:ann",
                    "changed_at": "2026-01-31T12:00:00Z",
                }},
                {"path": "app/draft"},
            ]},
            {"event": "bookmark", "revision": "1.10"},
            {"event": "resync", "revision": "1.11"},
        ]);
        let events: Vec<_> = serde_json::from_value(events).unwrap();
        insta::assert_snapshot!(events.iter().map(told).collect::<Vec<_>>().join("\n"));
    }
}
