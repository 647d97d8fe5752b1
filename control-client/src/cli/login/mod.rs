//! `moorline login`, `moorline logout` and `moorline whoami`.

mod saved;
mod typed;

use clap::Args;
use moorline_shared::UserName;
use moorline_shared::api::identity::{LogIn, Tokens, WhoAmI};

pub(super) use saved::{LoginError, LoginFile};
pub(super) use typed::{From, password};

use self::saved::Login;
use super::args::ConnectionArgs;
use super::connection::{self, Environment};
use super::failure::Failure;
use super::out::{Out, note};
use super::table::pairs;
use crate::terms::fresh_key;
use crate::transport::Client;

const EXAMPLES: &str = "\
Examples:
  moorline login --user ann
  moorline login --user ann --password-stdin < password.txt
  moorline whoami
  moorline logout";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LoginArgs {
    /// Who you are; the name you have on this machine if absent.
    #[arg(long)]
    user: Option<UserName>,
    /// Read the password from the standard input instead of the terminal.
    #[arg(long)]
    password_stdin: bool,
}

pub(super) async fn login(
    args: LoginArgs,
    connection: &ConnectionArgs,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let (endpoint, file) = connection::without_token(connection, environment)?;
    let user = match args.user {
        Some(user) => user,
        None => own_name()?,
    };
    let password = password(
        &format!("Password of {user}"),
        From::stdin_if(args.password_stdin),
    )?;
    let url = endpoint.url.to_string();
    let body = LogIn {
        user,
        password,
        directory: None,
        client: None,
        form: Default::default(),
    };
    let tokens = Client::new(endpoint)?.log_in(&body).await?;
    let _lock = file.lock()?;
    let shown = shown(&tokens);
    file.save(&Login::of(url, tokens)?)?;
    out.show(&shown, |shown| {
        format!(
            "logged in as {} in account {}",
            shown["principal"], shown["account"]
        )
        .replace('"', "")
    })
}

/// What is said of a login; its tokens are not.
fn shown(tokens: &Tokens) -> serde_json::Value {
    serde_json::json!({
        "session": tokens.session,
        "principal": tokens.principal,
        "account": tokens.account,
        "session_expires_at": tokens.session_expires_at,
    })
}

fn own_name() -> Result<UserName, Failure> {
    let name = std::env::var("USER").unwrap_or_default();
    name.parse()
        .map_err(|error| Failure::argument("the name of a user; give one with --user", name, error))
}

/// Ends the session, and forgets it here even if the control plane can't be told.
pub(super) async fn logout(
    connection: &ConnectionArgs,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let (mut endpoint, file) = connection::without_token(connection, environment)?;
    let Some(login) = file.load()? else {
        return out.text("nobody is logged in");
    };
    let token = file.token(&endpoint).await;
    file.remove()?;
    endpoint.token = match token {
        Ok(token) => token,
        // Its session is over, or nobody can be asked: it is forgotten here in either case.
        Err(failure) => {
            note(&format!("the session could not be ended: {failure}"));
            return out.text("logged out here");
        }
    };
    let ended = Client::new(endpoint)?
        .end_session(&login.session, &fresh_key())
        .await;
    match ended {
        Err(error)
            if error
                .problem()
                .is_none_or(|problem| !matches!(problem.status, 401 | 404)) =>
        {
            Err(error.into())
        }
        _ => out.text("logged out"),
    }
}

pub(super) async fn whoami(session: &mut super::Session<'_>) -> Result<(), Failure> {
    let who = session.client.who_am_i().await?;
    session.out.show(&who, |who: &WhoAmI| {
        let role = if who.administrator {
            "administrator"
        } else {
            "member"
        };
        pairs(&[
            ("principal", who.principal.to_string()),
            ("account", who.account.to_string()),
            ("role", role.to_owned()),
        ])
    })
}
