//! `moorline token`: tokens for programs, and the sessions that there are.

use clap::{Args, Subcommand};
use moorline_shared::api::identity::{CreateToken, ProgramToken, SessionKind, SessionPage, SessionQuery};
use moorline_shared::{Principal, Ttl};

use super::Session;
use super::failure::Failure;
use super::input::ttl;
use super::table::{Table, or_dash};

const EXAMPLES: &str = "\
Examples:
  moorline token create backup --ttl 30d > backup.token
  moorline token list
  moorline token revoke s-0f...";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum TokenCommand {
    /// Make an access token for a program, which acts as you, and print it this once.
    Create(CreateArgs),
    /// List your sessions: logins, and the tokens of programs.
    #[command(visible_alias = "ls")]
    List {
        /// Somebody else's, as in user:ann; administrators may ask.
        #[arg(long)]
        principal: Option<Principal>,
    },
    /// End a session: every token of it is worth nothing at once.
    Revoke {
        /// Which, as the list shows it.
        session: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What it is called in lists.
    name: String,
    /// For how long it is good: seconds, or a number with m, h or d behind it; thirty days if absent.
    #[arg(long, value_name = "PERIOD", value_parser = ttl)]
    ttl: Option<Ttl>,
}

pub(super) async fn run(command: TokenCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(args, session).await,
        TokenCommand::List { principal } => {
            let page = session
                .client
                .describe_sessions(&SessionQuery { principal })
                .await?;
            session.out.show(&page, table)
        }
        TokenCommand::Revoke { session: id } => {
            let done = session.client.end_session(&id, &session.key).await?;
            session.out.show(&done, |_| format!("session {id} is ended"))
        }
    }
}

async fn create(args: CreateArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = CreateToken {
        name: args.name,
        ttl: args.ttl,
    };
    let made = session.client.create_token(&body, &session.key).await?;
    session
        .out
        .show(&made, |made: &ProgramToken| made.token.expose().to_owned())
}

fn table(page: &SessionPage) -> String {
    let mut table = Table::new(["SESSION", "KIND", "NAME", "PRINCIPAL", "CREATED", "EXPIRES"]);
    for session in &page.sessions {
        let kind = match session.kind {
            SessionKind::Login => "login",
            SessionKind::Program => "program",
            SessionKind::Instance => "instance",
        };
        table.row([
            session.session.clone(),
            kind.to_owned(),
            or_dash(session.name.clone()),
            session.principal.to_string(),
            session.created_at.to_string(),
            session.expires_at.to_string(),
        ]);
    }
    table.to_string()
}
