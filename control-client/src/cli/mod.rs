//! The `moorline` command: a line of arguments becomes calls of the client, and answers become tables or JSON.
//!
//! [`args`] is the top of the command line; each noun has its own module with its arguments and what they do:
//! `instance`, `data`, `operation`, `host`, `doctor`, `login`, `token`, `user`, `group`, `token_key`, `profile`,
//! `completion`, `up`.
//! `connection` finds out which control plane is meant and with which token, `name` which instance. `out` writes what a
//! command found, `failure` what went wrong, and with which exit status: 0 done, 1 refused or failed, 2 misused, 3 no
//! answer, 4 no such thing.

pub mod args;
mod beginning;
mod completion;
mod connection;
mod data;
mod doctor;
mod failure;
mod group;
mod host;
mod input;
mod instance;
mod login;
mod name;
mod operation;
mod out;
mod private_file;
mod profile;
mod table;
mod token;
mod token_key;
mod up;
mod user;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use moorline_shared::id::IdempotencyKey;

use crate::terms::fresh_key;
use crate::transport::Client;
use args::{Cli, Command, ConnectionArgs};
use connection::{Environment, TokenSource};
use failure::{Failure, USAGE, With};
use out::{Format, Out};

/// What a command works with: the control plane, the key of its changes, and where its answers go.
struct Session<'a> {
    client: Client,
    token: TokenSource,
    key: IdempotencyKey,
    out: &'a mut Out,
}

impl<'a> Session<'a> {
    async fn open(
        connection: &ConnectionArgs,
        environment: &Environment,
        key: IdempotencyKey,
        out: &'a mut Out,
    ) -> Result<Self, Failure> {
        let (endpoint, token) = connection::endpoint(connection, environment).await?;
        Ok(Self {
            client: Client::new(endpoint)?,
            token,
            key,
            out,
        })
    }

    /// Has the client show a token that is good for a while, where it shows that of a login. Whoever asks for longer than
    /// such a token lives calls it between two requests.
    async fn keep_fresh(&self) -> Result<(), Failure> {
        if let TokenSource::Login(login) = &self.token {
            // Whoever logged out meanwhile is told so by the control plane.
            if let Some(token) = login.token().await? {
                self.client.authorize(token)?;
            }
        }
        Ok(())
    }

    /// The failure, with what this session's requests are made with.
    fn failed(&self, failure: impl Into<Failure>) -> Failure {
        failure.into().with(With {
            key: Some(self.key.clone()),
            token: Some(self.token.clone()),
        })
    }
}

/// Runs the command that this process was started with, and gives its exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; where they can't be written, there is nowhere to say so.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    let key = cli.connection.idempotency_key.clone().unwrap_or_else(fresh_key);
    let format = cli.output;
    match run(cli, key) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let told = match format {
                Format::Table => failure.told(),
                Format::Json => failure.told_in_json(),
            };
            let _ = write!(std::io::stderr(), "{told}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli, key: IdempotencyKey) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::Runtime)?;
    let mut out = Out::stdout(cli.output);
    match runtime.block_on(dispatch(cli, key, &mut out)) {
        // Whoever reads has had enough, as `head` does: that is no failure of ours.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

async fn dispatch(cli: Cli, key: IdempotencyKey, out: &mut Out) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let command = match cli.command {
        Command::Completion(command) => return completion::run(&command, out),
        Command::Up(args) => return Err(up::run(&args)),
        Command::Profile(command) => {
            return profile::command::run(command, &cli.connection, &environment, out);
        }
        Command::Login(args) => return login::login(args, &cli.connection, &environment, out).await,
        Command::Logout => return login::logout(&cli.connection, &environment, &key, out).await,
        Command::Doctor(args) => return doctor::run(args, out).await,
        Command::Host(command) => return host::run(command, &cli.connection, &environment, key, out).await,
        command => command,
    };
    let mut session = Session::open(&cli.connection, &environment, key, out).await?;
    let done = command_of_session(command, &mut session).await;
    done.map_err(|failure| session.failed(failure))
}

async fn command_of_session(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Instance(command) => instance::run(command, session).await,
        Command::Data(command) => data::run(command, session).await,
        Command::Operation(command) => operation::run(command, session).await,
        Command::Whoami => login::whoami(session).await,
        Command::Token(command) => token::run(command, session).await,
        Command::TokenKey(command) => token_key::run(command, session).await,
        Command::User(command) => user::run(command, session).await,
        Command::Group(command) => group::run(command, session).await,
        Command::Host(_)
        | Command::Doctor(_)
        | Command::Completion(_)
        | Command::Up(_)
        | Command::Profile(_)
        | Command::Login(_)
        | Command::Logout => {
            unreachable!("they were run above")
        }
    }
}
