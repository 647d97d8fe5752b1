//! `moorline user`.

use clap::{Args, Subcommand, ValueEnum};
use moorline_shared::UserName;
use moorline_shared::api::identity::{
    AccountRole, CreateUser, IdentityChanged, ModifyUser, SetUserPassword, UserPage, UserState,
};

use super::Session;
use super::failure::Failure;
use super::login::{PasswordArgs, password_of_terminal};
use super::table::Table;

const EXAMPLES: &str = "\
Examples:
  moorline user create ann --role administrator
  moorline user create ci --password-stdin < password.txt
  moorline user passwd ann
  moorline user disable ann";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum UserCommand {
    /// Make a user, with a password from the terminal or the standard input.
    Create(CreateArgs),
    /// List the users of the account.
    #[command(visible_alias = "ls")]
    List,
    /// Give a user another password, which ends all of their sessions.
    Passwd(PasswdArgs),
    /// Say what a user is in the account.
    Role {
        /// Who.
        user: UserName,
        /// What.
        #[arg(value_enum)]
        role: KnownRole,
    },
    /// Let a user log in no more, and end all of their sessions.
    Disable {
        /// Who.
        user: UserName,
    },
    /// Let a user log in again.
    Enable {
        /// Who.
        user: UserName,
    },
    /// Remove a user, with their sessions and their places in groups.
    #[command(visible_alias = "rm")]
    Delete {
        /// Who.
        user: UserName,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Their name.
    user: UserName,
    /// What they are in the account.
    #[arg(long, value_enum, default_value_t = KnownRole::Member)]
    role: KnownRole,
    #[command(flatten)]
    password: PasswordArgs,
}

#[derive(Debug, Args)]
pub(super) struct PasswdArgs {
    /// Who.
    user: UserName,
    /// It is your own: say the one until now first. Administrators needn't.
    #[arg(long, conflicts_with = "password_stdin")]
    own: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KnownRole {
    Administrator,
    Member,
}

impl From<KnownRole> for AccountRole {
    fn from(role: KnownRole) -> Self {
        match role {
            KnownRole::Administrator => Self::Administrator,
            KnownRole::Member => Self::Member,
        }
    }
}

pub(super) async fn run(command: UserCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        UserCommand::Create(args) => create(args, session).await,
        UserCommand::List => {
            let page = session.client.describe_users().await?;
            session.out.show(&page, table)
        }
        UserCommand::Passwd(args) => passwd(args, session).await,
        UserCommand::Role { user, role } => {
            let change = ModifyUser {
                role: Some(role.into()),
                state: None,
            };
            modify(&user, change, session).await
        }
        UserCommand::Disable { user } => modify(&user, state(UserState::Disabled), session).await,
        UserCommand::Enable { user } => modify(&user, state(UserState::Enabled), session).await,
        UserCommand::Delete { user } => {
            let done = session.client.delete_user(&user, &session.key).await?;
            say(&done, &format!("user {user} is no more"), session)
        }
    }
}

const fn state(state: UserState) -> ModifyUser {
    ModifyUser {
        role: None,
        state: Some(state),
    }
}

async fn create(args: CreateArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = CreateUser {
        password: Some(args.password.read_new(&format!("Password for {}", args.user))?),
        user: args.user,
        role: args.role.into(),
    };
    let done = session.client.create_user(&body, &session.key).await?;
    say(&done, &format!("user {} was made", body.user), session)
}

async fn passwd(args: PasswdArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let user = args.user;
    let current = if args.own {
        Some(password_of_terminal("Current password")?)
    } else {
        None
    };
    let body = SetUserPassword {
        password: args.password.read_new(&format!("New password of {user}"))?,
        current,
    };
    let done = session
        .client
        .set_user_password(&user, &body, &session.key)
        .await?;
    say(
        &done,
        &format!("user {user} has another password, and has to log in again"),
        session,
    )
}

async fn modify(user: &UserName, change: ModifyUser, session: &mut Session<'_>) -> Result<(), Failure> {
    let done = session.client.modify_user(user, &change, &session.key).await?;
    say(&done, &format!("user {user} was changed"), session)
}

/// Tells people `sentence`, and programs what the API said.
pub(super) fn say(done: &IdentityChanged, sentence: &str, session: &mut Session<'_>) -> Result<(), Failure> {
    session.out.show(done, |_| sentence.to_owned())
}

fn table(page: &UserPage) -> String {
    let mut table = Table::new(["USER", "ROLE", "STATE", "PASSWORD", "CREATED"]);
    for user in &page.users {
        let role = match user.role {
            AccountRole::Administrator => "administrator",
            AccountRole::Member => "member",
        };
        let state = match user.state {
            UserState::Enabled => "enabled",
            UserState::Disabled => "disabled",
        };
        let password = if user.has_password { "set" } else { "-" };
        table.row([
            user.user.to_string(),
            role.to_owned(),
            state.to_owned(),
            password.to_owned(),
            user.created_at.to_string(),
        ]);
    }
    table.to_string()
}
