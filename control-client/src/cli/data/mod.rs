//! `moorline data`.

mod access;
mod batch;
mod read;
mod watch;
mod write;

use clap::Subcommand;
use moorline_shared::api::data::Changed;

use super::Session;
use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Print the value of an entry, byte for byte.
    Get(read::GetArgs),
    /// List the entries that may be read.
    #[command(visible_alias = "ls")]
    List(read::ListArgs),
    /// Give an entry a value, or make it.
    Set(write::SetArgs),
    /// Remove an entry.
    #[command(visible_alias = "rm")]
    Delete(write::DeleteArgs),
    /// Add to the end of an entry's value.
    Append(write::AppendArgs),
    /// Make several changes of one instance's entries, all or none.
    Batch(batch::BatchArgs),
    /// Follow the changes of entries as they are made.
    Watch(watch::WatchArgs),
    /// Show who changed an entry, when, from what and to what.
    History(read::HistoryArgs),
    /// Show or set who may do what with an entry.
    #[command(subcommand)]
    Access(access::AccessCommand),
    /// Show the published listing of an instance's entries.
    Describe(read::DescribeArgs),
}

pub(super) async fn run(command: DataCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        DataCommand::Get(args) => read::get(&args, session).await,
        DataCommand::List(args) => read::list(args, session).await,
        DataCommand::Set(args) => write::set(args, session).await,
        DataCommand::Delete(args) => write::delete(&args, session).await,
        DataCommand::Append(args) => write::append(args, session).await,
        DataCommand::Batch(args) => batch::run(args, session).await,
        DataCommand::Watch(args) => watch::run(args, session).await,
        DataCommand::History(args) => read::history(args, session).await,
        DataCommand::Access(command) => access::run(command, session).await,
        DataCommand::Describe(args) => read::describe(&args, session).await,
    }
}

fn print_changed(changed: &Changed, session: &mut Session<'_>) -> Result<(), Failure> {
    session.out.show(changed, |changed| {
        format!("done at revision {} by {}", changed.revision, changed.operation)
    })
}
