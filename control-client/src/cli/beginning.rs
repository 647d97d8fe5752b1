//! What new instances begin with: tags and entries.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use moorline_shared::EntryPath;
use moorline_shared::access::Tag;
use moorline_shared::api::data::PutEntry;
use moorline_shared::id::RoleName;

use super::failure::Failure;
use super::input::{pair, value_of_file, value_of_source, value_of_text};

#[derive(Debug, Args)]
pub(super) struct BeginningArgs {
    /// A tag; may be given several times, 50 at most.
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(super) tags: Vec<Tag>,
    /// A role whose credentials it is given, as the host's configuration knows it; may be given several times, 16 at most.
    #[arg(long = "role", value_name = "ROLE")]
    pub(super) roles: Vec<RoleName>,
    /// An entry it begins with, its value of 256 KiB at most; may be given several times.
    #[arg(long, value_name = "PATH=VALUE", value_parser = pair::<EntryPath>)]
    data: Vec<(EntryPath, String)>,
    /// An entry it begins with, from a file; may be given several times.
    #[arg(long, value_name = "PATH=FILE", value_parser = pair::<EntryPath>)]
    data_file: Vec<(EntryPath, String)>,
    /// A secret entry it begins with, from a file, or from the standard input if that is "-"; may be given several times.
    #[arg(long, value_name = "PATH=FILE", value_parser = pair::<EntryPath>)]
    secret_data: Vec<(EntryPath, String)>,
}

impl BeginningArgs {
    /// The entries, with the files read.
    pub(super) fn entries(&self) -> Result<BTreeMap<EntryPath, PutEntry>, Failure> {
        let mut entries = BTreeMap::new();
        for (path, text) in &self.data {
            add(&mut entries, path, PutEntry::value(value_of_text(text.clone())?))?;
        }
        for (path, file) in &self.data_file {
            add(
                &mut entries,
                path,
                PutEntry::value(value_of_file(Path::new(file))?),
            )?;
        }
        for (path, file) in &self.secret_data {
            add(&mut entries, path, PutEntry::secret(value_of_source(file)?))?;
        }
        Ok(entries)
    }
}

fn add(
    entries: &mut BTreeMap<EntryPath, PutEntry>,
    path: &EntryPath,
    entry: PutEntry,
) -> Result<(), Failure> {
    match entries.insert(path.clone(), entry) {
        None => Ok(()),
        Some(_) => Err(Failure::argument("an entry", path.as_str(), "it is given twice")),
    }
}
