//! Entries read: got, listed, described, and their history.

use clap::Args;
use moorline_shared::api::data::{Description, EntryPage, History, ListQuery};
use moorline_shared::entry::{Origin, Value};
use moorline_shared::{EntryPath, PathPrefix, Revision};

use crate::cli::Session;
use crate::cli::failure::Failure;
use crate::cli::operation::{PageArgs, say_more};
use crate::cli::out::{Format, Out, Reader};
use crate::cli::table::{Table, or_dash, preview, printable};

const GET_EXAMPLES: &str = "\
Examples:
  moorline data get web app/config > config.json
  moorline data get web app/config --output json | jq .revision";

const LIST_EXAMPLES: &str = "\
Examples:
  moorline data list web
  moorline data list web net --values";

/// The most characters of a value in a table.
const PREVIEW: usize = 48;

#[derive(Debug, Args)]
#[command(after_help = GET_EXAMPLES)]
pub(in crate::cli) struct GetArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Which entry, as in app/config.
    path: EntryPath,
}

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(in crate::cli) struct ListArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Only this path and what is below it.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: PathPrefix,
    /// The values too.
    #[arg(long)]
    values: bool,
    /// As it was at this revision, if that is still kept.
    #[arg(long, value_name = "REVISION")]
    at: Option<Revision>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HistoryArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Which entry, as in app/config.
    path: EntryPath,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DescribeArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
}

pub(super) async fn get(args: &GetArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let entry = session.client.get_instance_data(instance, &args.path).await?;
    match session.out.format() {
        Format::Json => session.out.show(&entry, |_| String::new()),
        Format::Table => print_value(&entry.value.unwrap_or_default(), session.out),
    }
}

/// A program gets the bytes. A person gets text that can't move the cursor, and a whole last line.
fn print_value(value: &Value, out: &mut Out) -> Result<(), Failure> {
    match (out.reader(), value.text()) {
        (Reader::Program, _) => out.bytes(value.bytes()),
        (Reader::Terminal, Some(text)) => out.text(&printable(text)),
        (Reader::Terminal, None) => {
            let length = value.len();
            out.text(&format!(
                "({length} bytes that are not text: send them to a file or a program)"
            ))
        }
    }
}

pub(super) async fn list(args: ListArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let mut query = ListQuery {
        prefix: args.prefix,
        cursor: None,
        limit: None,
        revision: args.at,
        values: args.values,
    };
    let mut all = session.client.list_instance_data(instance, &query).await?;
    while let Some(cursor) = all.next.take() {
        query.cursor = Some(cursor);
        let page = session.client.list_instance_data(instance, &query).await?;
        all.entries.extend(page.entries);
        all.next = page.next;
    }
    let table = if args.values { table_with_values } else { table };
    session.out.show(&all, table)
}

fn table(page: &EntryPage) -> String {
    let mut table = Table::new([
        "PATH",
        "REVISION",
        "BYTES",
        "TYPE",
        "SECRET",
        "CHANGED BY",
        "CHANGED AT",
    ]);
    for entry in &page.entries {
        table.row([
            entry.path.to_string(),
            entry.revision.to_string(),
            entry.length.to_string(),
            entry.content_type.to_string(),
            yes_or_no(entry.secret).to_owned(),
            entry.changed_by.to_string(),
            entry.changed_at.to_string(),
        ]);
    }
    table.to_string()
}

fn table_with_values(page: &EntryPage) -> String {
    let mut table = Table::new(["PATH", "REVISION", "VALUE"]);
    for entry in &page.entries {
        table.row([
            entry.path.to_string(),
            entry.revision.to_string(),
            cell(entry.value.as_ref()),
        ]);
    }
    table.to_string()
}

pub(super) async fn history(args: HistoryArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let (cursor, limit) = (args.page.cursor.as_deref(), Some(args.page.limit));
    let history = session
        .client
        .get_instance_data_history(instance, &args.path, cursor, limit)
        .await?;
    session.out.show(&history, changes)?;
    say_more(history.next.as_deref(), session);
    Ok(())
}

fn changes(history: &History) -> String {
    let mut table = Table::new(["REVISION", "AT", "PRINCIPAL", "OPERATION", "FROM", "TO"]);
    for change in &history.changes {
        table.row([
            change.revision.to_string(),
            change.at.to_string(),
            change.principal.to_string(),
            change.api.clone(),
            cell(change.from.as_ref()),
            cell(change.to.as_ref()),
        ]);
    }
    table.to_string()
}

pub(super) fn cell(value: Option<&Value>) -> String {
    or_dash(value.map(|value| preview(value, PREVIEW)))
}

pub(super) async fn describe(args: &DescribeArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = session.instance(&args.instance).await?;
    let description = session.client.describe_instance_data(instance).await?;
    session.out.show(&description, described)
}

fn described(description: &Description) -> String {
    let mut table = Table::new(["PATH", "TYPE", "ORIGIN", "SECRET", "READABLE"]);
    for entry in &description.entries {
        table.row([
            entry.path.to_string(),
            entry.content_type.to_string(),
            origin(entry.origin).to_owned(),
            yes_or_no(entry.secret).to_owned(),
            yes_or_no(entry.readable).to_owned(),
        ]);
    }
    table.to_string()
}

const fn yes_or_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Provider => "provider",
        Origin::Customer => "customer",
        Origin::Instance => "instance",
    }
}

#[cfg(test)]
mod tests {
    use super::{changes, described, table, table_with_values};
    use serde_json::json;

    #[test]
    fn entries_are_listed_with_and_without_values() {
        let entry = |path: &str, value: serde_json::Value| {
            json!({
                "path": path, "revision": "1.9", "version": 2, "content_type": "text/plain", "length": 7,
                "value": value, "origin": "customer", "visibility": "private", "changed_by": "user:ann",
                "changed_at": "2026-01-31T12:00:00Z",
            })
        };
        let long = "x".repeat(60);
        let mut entries = [
            entry("app/mode", json!("blue\n")),
            entry("key", json!({"base64": "/w=="})),
            entry("l", json!(long)),
        ];
        entries[1]["secret"] = json!(true);
        let page = serde_json::from_value(json!({"revision": "1.9", "entries": entries})).unwrap();
        insta::assert_snapshot!(table(&page));
        insta::assert_snapshot!(table_with_values(&page));
    }

    #[test]
    fn histories_and_listings_are_tables() {
        let history = json!({"changes": [{
            "revision": "1.9", "operation": format!("op-{}", "0".repeat(64)), "api": "PutInstanceData",
            "principal": "user:ann", "at": "2026-01-31T12:00:00Z", "from": "blue", "to": "green",
        }]});
        insta::assert_snapshot!(changes(&serde_json::from_value(history).unwrap()));
        let description = json!({"revision": "1.9", "entries": [
            {"path": "net/mac", "content_type": "text/plain", "origin": "provider", "readable": false},
        ]});
        insta::assert_snapshot!(described(&serde_json::from_value(description).unwrap()));
    }
}
