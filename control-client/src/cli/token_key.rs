//! `moorline token-key`: the keys that tokens are sealed with.

use clap::Subcommand;
use moorline_shared::api::identity::{TokenKeyPage, TokenKeyStage};

use super::Session;
use super::failure::Failure;
use super::table::Table;
use super::user::say;

const EXAMPLES: &str = "\
Examples:
  moorline token-key stage            # a new key, which seals nothing yet
  moorline token-key list
  moorline token-key promote 2        # it seals from now on, and the one before retires
  moorline token-key destroy 1        # once nobody can have a token of it any more";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum TokenKeyCommand {
    /// List the keys, and how far each is in its life.
    #[command(visible_alias = "ls")]
    List,
    /// Make a new key, which opens tokens from now on and seals none yet.
    Stage,
    /// Have a staged key seal all tokens from now on; the one that did so before retires.
    Promote {
        /// Which.
        key: u32,
    },
    /// Have a staged key retire before it sealed anything.
    Retire {
        /// Which.
        key: u32,
    },
    /// Destroy a retiring key: what it sealed opens no more.
    Destroy {
        /// Which.
        key: u32,
        /// Even if there may be tokens of it that are still good; their bearers have to log in again.
        #[arg(long)]
        force: bool,
    },
}

pub(super) async fn run(command: TokenKeyCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    let (client, once) = (&session.client, &session.key);
    let (done, sentence) = match command {
        TokenKeyCommand::List => {
            let page = client.describe_token_keys().await?;
            return session.out.show(&page, table);
        }
        TokenKeyCommand::Stage => (
            client.stage_token_key(once).await?,
            "a key is staged; 'moorline token-key list' shows its number".to_owned(),
        ),
        TokenKeyCommand::Promote { key } => (
            client.promote_token_key(key, once).await?,
            format!("key {key} seals from now on"),
        ),
        TokenKeyCommand::Retire { key } => (
            client.retire_token_key(key, once).await?,
            format!("key {key} retires"),
        ),
        TokenKeyCommand::Destroy { key, force: false } => (
            client.destroy_token_key(key, once).await?,
            format!("key {key} is destroyed"),
        ),
        TokenKeyCommand::Destroy { key, force: true } => (
            client.destroy_token_key_by_force(key, once).await?,
            format!("key {key} is destroyed"),
        ),
    };
    say(&done, &sentence, session)
}

fn table(page: &TokenKeyPage) -> String {
    let mut table = Table::new(["KEY", "STAGE", "SINCE", "CREATED"]);
    for key in &page.keys {
        let stage = match key.stage {
            TokenKeyStage::Staged => "staged",
            TokenKeyStage::Primary => "primary",
            TokenKeyStage::Retiring => "retiring",
            TokenKeyStage::Destroyed => "destroyed",
        };
        table.row([
            key.key.to_string(),
            stage.to_owned(),
            key.since.to_string(),
            key.created_at.to_string(),
        ]);
    }
    table.to_string()
}
