//! Several changes at once.

use std::path::{Path, PathBuf};

use clap::Args;
use moorline_shared::EntryPath;
use moorline_shared::api::data::{Action, Batch, Change, PutEntry};

use super::print_changed;
use crate::cli::Session;
use crate::cli::failure::{Failure, InputName};
use crate::cli::input::{pair, read_file, read_stdin, value_of_text};

const USAGE: &str =
    "moorline data batch [OPTIONS] <INSTANCE> <--set <PATH=VALUE>|--delete <PATH>|--file <FILE>>...";

const EXAMPLES: &str = "\
Examples:
  moorline data batch web --set app/mode=green --set app/version=2 --delete app/draft
  moorline data batch web --file changes.json

The file is the API's own body:
  {\"changes\": [{\"path\": \"app/mode\", \"action\": {\"put\": {\"value\": \"green\"}}},
               {\"path\": \"app/lock\", \"guard\": \"absent\", \"action\": {\"put\": {\"value\": \"me\"}}},
               {\"path\": \"app/log\", \"guard\": {\"revision\": \"1.42\"}, \"action\": {\"append\": {\"value\": \"x\"}}},
               {\"path\": \"app/draft\", \"action\": {\"delete\": {}}}]}";

/// The most bytes of a file: more than a whole instance's data take in the longest spelling JSON has.
const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE, group = clap::ArgGroup::new("changes").required(true).multiple(true))]
pub(in crate::cli) struct BatchArgs {
    /// A name, an id, or the beginning of an id.
    instance: String,
    /// Give an entry a value; may be given several times.
    #[arg(long, value_name = "PATH=VALUE", value_parser = pair::<EntryPath>, group = "changes")]
    set: Vec<(EntryPath, String)>,
    /// Remove an entry; may be given several times.
    #[arg(long, value_name = "PATH", group = "changes")]
    delete: Vec<EntryPath>,
    /// Read further changes from a file, or from the standard input if it is "-".
    #[arg(long, value_name = "FILE", group = "changes")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: BatchArgs, session: &mut Session<'_>) -> Result<(), Failure> {
    let body = body(args.set, args.delete, args.file.as_deref())?;
    let instance = session.instance(&args.instance).await?;
    let changed = session
        .client
        .batch_instance_data(instance, &body, &session.key)
        .await?;
    print_changed(&changed, session)
}

fn body(
    set: Vec<(EntryPath, String)>,
    delete: Vec<EntryPath>,
    file: Option<&Path>,
) -> Result<Batch, Failure> {
    let mut batch = match file {
        Some(path) => of_file(path)?,
        None => Batch { changes: Vec::new() },
    };
    for (path, text) in set {
        let put = PutEntry::value(value_of_text(text)?);
        batch.changes.push(change(path, Action::Put(put)));
    }
    let deleted = delete.into_iter().map(|path| change(path, Action::Delete {}));
    batch.changes.extend(deleted);
    Ok(batch)
}

const fn change(path: EntryPath, action: Action) -> Change {
    Change {
        path,
        guard: None,
        action,
    }
}

fn of_file(path: &Path) -> Result<Batch, Failure> {
    let (name, bytes) = if path == Path::new("-") {
        (InputName::Stdin, read_stdin(MAX_FILE_BYTES)?)
    } else {
        (InputName::File(path.to_owned()), read_file(path, MAX_FILE_BYTES)?)
    };
    serde_json::from_slice(&bytes).map_err(|source| Failure::Json {
        name,
        what: "a batch of changes, {\"changes\": [...]}: see 'moorline data batch --help'",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{EXAMPLES, body};
    use moorline_shared::api::data::Action;

    #[test]
    fn the_file_of_the_help_is_a_batch_and_flags_add_to_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (_, example) = EXAMPLES.split_once("own body:\n").unwrap();
        std::fs::write(file.path(), example).unwrap();
        let set = vec![("a/b".parse().unwrap(), "1".to_owned())];
        let batch = body(set, vec!["c".parse().unwrap()], Some(file.path())).unwrap();
        assert_eq!(batch.changes.len(), 6);
        assert!(matches!(batch.changes[5].action, Action::Delete {}));
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"changes": [{"path": "a", "actoin": {}}]}"#).unwrap();
        let error = body(Vec::new(), Vec::new(), Some(file.path())).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("actoin"), "{cause}");
    }
}
