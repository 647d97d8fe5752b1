//! `moorline operation`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use moorline_shared::OperationId;
use moorline_shared::api::operations::{Operation, OperationPage, OperationQuery, Outcome};

use super::Session;
use super::failure::Failure;
use super::out::{Format, note};
use super::table::{Table, one_line, or_dash, pairs, printable};

const EXAMPLES: &str = "\
Examples:
  moorline operation list --instance web
  moorline operation list --output json | jq '.operations[] | select(.outcome != \"done\")'";

#[derive(Debug, Subcommand)]
pub(super) enum OperationCommand {
    /// List operations, the newest first: changes, refusals and failures.
    #[command(visible_alias = "ls", after_help = EXAMPLES)]
    List(ListArgs),
    /// Show one operation: with what parameters, how it ended, what it changed.
    Show {
        /// Its id.
        operation: OperationId,
    },
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those that concern this instance.
    #[arg(long)]
    instance: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

/// Which part of a long list.
#[derive(Debug, Args)]
pub(super) struct PageArgs {
    /// How many at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: u32,
    /// Go on where another list ended: its "next".
    #[arg(long)]
    pub(super) cursor: Option<String>,
}

pub(super) async fn run(command: OperationCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        OperationCommand::List(args) => list(args, session).await,
        OperationCommand::Show { operation } => {
            let operation = session.client.describe_operation(operation).await?;
            session.out.show(&operation, details)
        }
    }
}

async fn list(args: ListArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = match &args.instance {
        Some(text) => Some(session.instance(text).await?),
        None => None,
    };
    let query = OperationQuery {
        instance,
        cursor: args.page.cursor,
        limit: Some(args.page.limit),
    };
    let page = session.client.list_operations(&query).await?;
    session.out.show(&page, table)?;
    say_more(page.next.as_deref(), session);
    Ok(())
}

/// Says on the side how a list goes on; in JSON it says so itself.
pub(super) fn say_more(next: Option<&str>, session: &Session<'_>) {
    if let (Some(next), Format::Table) = (next, session.out.format()) {
        note(&format!("there are more: --cursor {next}"));
    }
}

fn table(page: &OperationPage) -> String {
    let mut table = Table::new(["AT", "PRINCIPAL", "OPERATION", "OUTCOME", "REVISION", "ID"]);
    for operation in &page.operations {
        table.row([
            operation.at.to_string(),
            operation.principal.to_string(),
            operation.api.clone(),
            outcome(&operation.outcome),
            operation.revision.to_string(),
            operation.id.to_string(),
        ]);
    }
    table.to_string()
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Refused { problem } => format!("refused: {}", problem.kind),
        Outcome::Failed { problem } => format!("failed: {}", problem.kind),
    }
}

fn details(operation: &Operation) -> String {
    let mut text = pairs(&[
        ("id", operation.id.to_string()),
        ("operation", operation.api.clone()),
        ("principal", operation.principal.to_string()),
        ("at", operation.at.to_string()),
        ("revision", operation.revision.to_string()),
        ("outcome", outcome(&operation.outcome)),
    ]);
    if let Outcome::Refused { problem } | Outcome::Failed { problem } = &operation.outcome {
        let _ = writeln!(text, "because    {}", one_line(&problem.detail));
    }
    for effect in &operation.effects {
        let (before, after) = (or_dash(effect.before), or_dash(effect.after));
        let _ = writeln!(text, "effect     {} {before} -> {after}", one_line(&effect.key));
    }
    let parameters = serde_json::to_string_pretty(&operation.parameters).unwrap_or_default();
    let _ = writeln!(text, "parameters {}", printable(&parameters));
    text
}

#[cfg(test)]
mod tests {
    use super::{details, table};
    use moorline_shared::api::operations::{Operation, OperationPage};
    use serde_json::json;

    fn operation(outcome: &serde_json::Value) -> Operation {
        let mut operation = json!({
            "id": format!("op-{}", "ab".repeat(32)), "api": "PutInstanceData", "principal": "user:ann",
            "at": "2026-01-31T12:00:00Z", "revision": "1.9", "parameters": {"path": "net/mac", "value": "\u{1b}[2J"},
            "effects": [{"key": "entry/x", "before": "1.3", "after": "1.9"}, {"key": "fence/x", "after": "1.9"}],
        });
        operation
            .as_object_mut()
            .unwrap()
            .extend(outcome.as_object().unwrap().clone());
        serde_json::from_value(operation).unwrap()
    }

    #[test]
    fn operations_are_shown_with_their_outcome() {
        let refused = operation(&json!({"outcome": "refused", "problem": {
            "type": "access-denied", "title": "Denied", "status": 403, "detail": "user:ann may not update net/mac",
        }}));
        let done = operation(&json!({"outcome": "done"}));
        insta::assert_snapshot!(details(&refused));
        let page = OperationPage {
            operations: vec![done, refused],
            next: None,
        };
        insta::assert_snapshot!(table(&page));
    }
}
