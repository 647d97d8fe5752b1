//! The tables of attacks name tests by hand. What they name has to be there, or they promise what nobody shows.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TABLES: [(&str, &str); 2] = [
    ("attacks", include_str!("mod.rs")),
    ("hostile_link", include_str!("../hostile_link/mod.rs")),
];

/// What the sources of the workspace have that a table can name.
#[derive(Default)]
struct Sources {
    tests: BTreeSet<String>,
    /// Files and folders, as paths without an extension.
    modules: BTreeSet<PathBuf>,
    /// Which of what a hostile guest does tests are named by.
    rows: BTreeSet<u32>,
}

impl Sources {
    fn read() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let mut sources = Self::default();
        sources.add_folder(workspace.context("the workspace's folder")?)?;
        Ok(sources)
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let is_built = name == "target" || name.as_encoded_bytes().starts_with(b".");
            if entry.file_type()?.is_dir() && !is_built {
                self.modules.insert(path.clone());
                self.add_folder(&path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                self.add_file(&path)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        self.modules.insert(path.with_extension(""));
        let text = fs::read_to_string(path)?;
        self.tests.extend(tests_in(&text).map(str::to_owned));
        self.rows.extend(rows_in(&text));
        Ok(())
    }

    fn have(&self, name: &str) -> bool {
        self.tests.contains(name) || self.modules.iter().any(|module| module.ends_with(name))
    }
}

/// The functions in a source that stand behind `#[test]` or `#[tokio::test]`.
fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let marked = source.split("#[").filter_map(|attribute| {
        let (of, after) = attribute.split_once(']')?;
        (of == "test" || of.starts_with("tokio::test")).then_some(after)
    });
    marked.filter_map(|after| {
        let (_, function) = after.split_once("fn ")?;
        function.split(|c: char| !is_of_a_name(c)).next()
    })
}

/// The rows that functions of a source are named by, those that a macro makes among them; comments promise nothing.
fn rows_in(source: &str) -> impl Iterator<Item = u32> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let words = code.flat_map(|line| line.split(|c: char| !is_of_a_name(c)));
    words.filter_map(|word| word.strip_prefix("row_")?.split('_').next()?.parse().ok())
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What the rows of a table at the top of a module have between backticks.
fn named(module: &str) -> Vec<&str> {
    let rows = module.lines().filter(|line| line.starts_with("//! |"));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn what_the_tables_name_is_there() -> Result<()> {
    let sources = Sources::read()?;
    for (table, module) in TABLES {
        let names = named(module);
        ensure!(!names.is_empty(), "the table of {table} names nothing");
        let lost: Vec<_> = names.into_iter().filter(|name| !sources.have(name)).collect();
        ensure!(
            lost.is_empty(),
            "the table of {table} names what isn't there: {lost:?}"
        );
    }
    Ok(())
}

/// Row 21 is about triggers, which there are none of yet.
#[test]
fn each_row_of_what_a_hostile_guest_does_has_a_test_of_its_name() -> Result<()> {
    let rows = Sources::read()?.rows;
    let lost: Vec<_> = (1..=22).filter(|row| *row != 21 && !rows.contains(row)).collect();
    ensure!(lost.is_empty(), "no test is named by rows {lost:?}");
    Ok(())
}

#[test]
fn a_test_is_known_by_its_attribute() {
    let source = "
        fn no_test() {}
        #[test]
        fn plain() {}
        #[tokio::test(start_paused = true)]
        async fn of_tokio() {}
        #[cfg(test)]
        fn beside() {}
    ";
    assert_eq!(tests_in(source).collect::<Vec<_>>(), ["plain", "of_tokio"]);
}
