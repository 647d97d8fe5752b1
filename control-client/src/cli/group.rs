//! `moorline group`.

use clap::Subcommand;
use moorline_shared::Principal;
use moorline_shared::api::identity::GroupPage;
use moorline_shared::id::GroupName;

use super::Session;
use super::failure::Failure;
use super::table::Table;
use super::user::say;

const EXAMPLES: &str = "\
Examples:
  moorline group create operators
  moorline group add operators user:ann
  moorline group add operators instance:i-...
  moorline data access set web config/greeting --grant group:operators=read,update
  moorline group list

Whoever is taken into a group has at once what access clauses give to it, and loses it at once on leaving. The name of a
group that was removed is not given again: clauses may still name it.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum GroupCommand {
    /// Make a group.
    Create {
        /// Its name.
        group: GroupName,
    },
    /// List the groups of the account, with their members.
    #[command(visible_alias = "ls")]
    List,
    /// Take a user or an instance into a group.
    Add {
        /// Which.
        group: GroupName,
        /// Whom, as in user:ann or instance:i-...
        member: Principal,
    },
    /// Take a user or an instance out of a group.
    Remove {
        /// Which.
        group: GroupName,
        /// Whom, as in user:ann or instance:i-...
        member: Principal,
    },
    /// Remove a group, and everybody from it.
    #[command(visible_alias = "rm")]
    Delete {
        /// Which.
        group: GroupName,
    },
}

pub(super) async fn run(command: GroupCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    let (client, key) = (&session.client, &session.key);
    let (done, sentence) = match command {
        GroupCommand::List => {
            let page = client.describe_groups().await?;
            return session.out.show(&page, table);
        }
        GroupCommand::Create { group } => {
            let done = client.create_group(&group, key).await?;
            (done, format!("group {group} was made"))
        }
        GroupCommand::Add { group, member } => {
            let done = client.add_group_member(&group, &member, key).await?;
            (done, format!("{member} is in group {group}"))
        }
        GroupCommand::Remove { group, member } => {
            let done = client.remove_group_member(&group, &member, key).await?;
            (done, format!("{member} is no longer in group {group}"))
        }
        GroupCommand::Delete { group } => {
            let done = client.delete_group(&group, key).await?;
            (done, format!("group {group} is no more"))
        }
    };
    say(&done, &sentence, session)
}

fn table(page: &GroupPage) -> String {
    let mut table = Table::new(["GROUP", "MEMBERS", "CREATED"]);
    for group in &page.groups {
        let members: Vec<_> = group.members.iter().map(ToString::to_string).collect();
        table.row([
            group.group.to_string(),
            members.join(", "),
            group.created_at.to_string(),
        ]);
    }
    table.to_string()
}
