//! `moorline login`, `moorline logout` and `moorline whoami`.

mod saved;
mod typed;

use clap::Args;
use moorline_shared::UserName;
use moorline_shared::api::identity::{LogIn, Tokens, WhoAmI};
use moorline_shared::id::IdempotencyKey;
use serde::Serialize;

pub(super) use saved::{Login, LoginError};
pub(super) use typed::{PasswordArgs, password_of_terminal};

use self::saved::{Kept, Lock};
use super::args::ConnectionArgs;
use super::connection::{self, Environment};
use super::failure::{Failure, With};
use super::out::{Out, note};
use super::table::pairs;
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
    #[command(flatten)]
    password: PasswordArgs,
}

pub(super) async fn login(
    args: LoginArgs,
    connection: &ConnectionArgs,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let (login, before) = connection::login(connection, environment)?;
    let user = match args.user {
        Some(user) => user,
        None => own_name()?,
    };
    let password = args.password.read(&format!("Password of {user}"))?;
    let body = LogIn {
        user,
        password,
        directory: None,
        client: None,
        form: Default::default(),
    };
    let tokens = Client::new(login.endpoint.clone())?.log_in(&body).await?;
    let shown = shown(&tokens);
    let kept = Kept::of(login.endpoint.url.to_string(), tokens)?;
    login.save(&kept, &login.lock()?)?;
    if let Some(source) = before {
        note(&format!(
            "commands like this one go on sending another token, which goes before a login: {source}"
        ));
    }
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

/// What became of a session.
#[derive(Serialize)]
struct LoggedOut {
    /// Which it was; absent if nobody was logged in.
    session: Option<String>,
}

/// Ends the session, and forgets it here once it is ended: while the control plane can't be told, it can be told later.
pub(super) async fn logout(
    connection: &ConnectionArgs,
    environment: &Environment,
    key: &IdempotencyKey,
    out: &mut Out,
) -> Result<(), Failure> {
    let (login, _) = connection::login(connection, environment)?;
    // A shell that refreshes meanwhile would log in again whom this one logs out.
    let lock = login.lock()?;
    let session = login.load()?.map(|kept| kept.session);
    if let Err(failure) = end(&login, &lock, key).await {
        note("you are still logged in");
        return Err(failure);
    }
    login.remove(&lock)?;
    out.show(&LoggedOut { session }, |out| match out.session {
        Some(_) => "logged out".to_owned(),
        None => "nobody is logged in".to_owned(),
    })
}

async fn end(login: &Login, lock: &Lock, key: &IdempotencyKey) -> Result<(), Failure> {
    let ended = match login.refreshed(lock).await {
        Ok(None) => return Ok(()),
        Ok(Some(kept)) => {
            let client = Client::new(login.endpoint.clone())?;
            client.authorize(kept.token()?)?;
            let ended = client.end_session(&kept.session, key).await;
            ended.map(drop).map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    match ended {
        // It was over before.
        Err(failure)
            if failure
                .problem()
                .is_some_and(|problem| matches!(problem.status, 401 | 404)) =>
        {
            Ok(())
        }
        ended => ended.map_err(|failure| {
            failure.with(With {
                key: Some(key.clone()),
                token: None,
            })
        }),
    }
}

pub(super) async fn whoami(session: &mut super::Session<'_>) -> Result<(), Failure> {
    let who = session.client.who_am_i().await?;
    let token = session.token.to_string();
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
            ("token", token),
        ])
    })
}
