//! The top of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use moorline_shared::id::IdempotencyKey;

use super::out::Format;
use super::profile::ProfileName;
use super::{
    completion, data, doctor, group, host, instance, login, operation, profile, token, token_key, up, user,
};
use crate::endpoint::BaseUrl;
use crate::tls::AuthorityDigest;

const EXAMPLES: &str = "\
Examples:
  moorline profile set lab --url https://control:8471 --ca-file ca.pem --token-file admin.token
  moorline instance run --image debian-13 --type small --name web --wait
  moorline data set web app/config --file config.json
  moorline data watch web app

An INSTANCE is a name, an id, or the beginning of an id that no other instance has.

Exit status:
  0  it was done
  1  it was refused, or it failed
  2  the command line is wrong
  3  the control plane can't be reached, or its answer was lost
  4  there is no such instance, entry, record or profile";

/// Runs virtual machines and gives them their data, by the control plane of Moorline.
#[derive(Debug, Parser)]
#[command(name = "moorline", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// How answers are written: tables for people, or the API's own JSON (a line per event where it is a stream), with
    /// what goes wrong as a problem in JSON on the standard error.
    #[arg(
        long,
        short = 'o',
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the control plane and the host daemon of this machine in one process, with nothing to set up.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Up(up::UpArgs),
    /// Run, list, start, stop and end instances.
    #[command(subcommand, visible_alias = "instances")]
    Instance(instance::InstanceCommand),
    /// Read, change and watch the entries of an instance.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Look up who did what, and how it ended.
    #[command(subcommand, visible_alias = "operations")]
    Operation(operation::OperationCommand),
    /// List the hosts, and attach VMs to the daemon of this one.
    #[command(subcommand, visible_alias = "hosts")]
    Host(host::HostCommand),
    /// Check this machine as a host, and say what is wrong and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Log in as a user; later commands act as that user, until the session ends.
    Login(login::LoginArgs),
    /// End the session that `login` began.
    Logout,
    /// Show who the control plane takes you for.
    Whoami,
    /// Make, list and revoke access tokens, for programs.
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::TokenCommand),
    /// Make, list, change and remove users.
    #[command(subcommand, visible_alias = "users")]
    User(user::UserCommand),
    /// Make, list, fill and remove groups of users and instances.
    #[command(subcommand, visible_alias = "groups")]
    Group(group::GroupCommand),
    /// Rotate the keys that tokens are sealed with.
    #[command(subcommand, visible_alias = "key")]
    TokenKey(token_key::TokenKeyCommand),
    /// Keep the addresses and tokens of control planes under names.
    #[command(subcommand, visible_alias = "profiles")]
    Profile(profile::command::ProfileCommand),
    /// Print a script that lets a shell complete this command.
    Completion(completion::CompletionCommand),
}

/// Which control plane is asked, with which token.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Control plane")]
#[expect(
    clippy::doc_markdown,
    reason = "these comments are the help, where names of variables stand as they are"
)]
pub(super) struct ConnectionArgs {
    /// The profile to use instead of the chosen one [env: MOORLINE_PROFILE].
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) profile: Option<ProfileName>,
    /// The control plane's address, instead of the profile's [env: MOORLINE_URL].
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<BaseUrl>,
    /// A file with the token, instead of the profile's [env: MOORLINE_TOKEN_FILE]; MOORLINE_TOKEN may hold the token
    /// itself.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// A file with the certificate that the control plane is known by, its ca.pem, instead of the profile's
    /// [env: MOORLINE_CA_FILE]; by default the ca.pem beside the token's file.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// The digest of that certificate instead of the certificate itself [env: MOORLINE_CA_DIGEST].
    #[arg(
        long,
        global = true,
        value_name = "sha256:DIGEST",
        conflicts_with = "ca_file",
        hide_short_help = true
    )]
    pub(super) ca_digest: Option<AuthorityDigest>,
    /// The key of the change, to ask again for one whose answer was lost; a fresh one if absent.
    #[arg(long, global = true, value_name = "KEY", hide_short_help = true)]
    pub(super) idempotency_key: Option<IdempotencyKey>,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    fn refusal(line: &str) -> String {
        Cli::try_parse_from(line.split(' ')).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_says_what_there_is() {
        let mut command = Cli::command();
        command.build();
        insta::assert_snapshot!(command.render_help());
        let data = command.find_subcommand_mut("data").unwrap();
        insta::assert_snapshot!(data.render_help());
        insta::assert_snapshot!(data.find_subcommand_mut("set").unwrap().render_help());
    }

    #[test]
    fn what_is_wrong_is_named_with_what_may_be_meant() {
        let refusals = [
            "moorline instnce list",
            "moorline instance run --image x --typ small",
            "moorline data set web app/mode",
            "moorline data set web /app/mode blue",
            "moorline data set web app/mode blue --file x",
            "moorline data set web app/mode blue --ttl 1w",
            "moorline data set web app/mode blue --if-absent --if-revision 1.2",
            "moorline data access set web app/mode",
            "moorline data access set web app/mode --grant web=read",
            "moorline instance run --image x --type small --count 101",
            "moorline instance modify web",
            "moorline --url http://control instance list",
        ];
        insta::assert_snapshot!(refusals.map(refusal).join("\n----\n"));
    }
}
