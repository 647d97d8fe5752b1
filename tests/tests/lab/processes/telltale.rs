//! What tells a secret, and the search for it in everything that daemons leave.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of what the search must find, beneath the one that is searched.
const PLANTED: &str = "planted";

/// Something that tells a secret, and the names of the files that it belongs in.
pub(super) struct Telltale {
    what: String,
    forms: Vec<Vec<u8>>,
    belongs: &'static [&'static str],
}

impl Telltale {
    /// Bytes, and the texts that they may be written as.
    pub(super) fn of(what: impl Into<String>, secret: impl AsRef<[u8]>) -> Self {
        let secret = secret.as_ref();
        let mut hex = String::new();
        for byte in secret {
            let _ = write!(hex, "{byte:02x}");
        }
        let texts = [hex, STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret)];
        let texts = texts.map(|text| text.trim_end_matches('=').as_bytes().to_vec());
        Self {
            what: what.into(),
            forms: texts.into_iter().chain([secret.to_vec()]).collect(),
            belongs: &[],
        }
    }

    /// A token, which may be kept without its prefix, and as the bytes that its text stands for.
    pub(super) fn token(what: &str, token: &str) -> Result<Self> {
        let (_, text) = token.split_once('_').context("a token has a prefix")?;
        let bytes = URL_SAFE_NO_PAD.decode(text);
        Ok(Self::of(
            what,
            bytes.with_context(|| format!("{what} is no token"))?,
        ))
    }

    /// It may be in files whose names end so, and is in one of them.
    pub(super) fn in_file(self, belongs: &'static [&'static str]) -> Self {
        Self { belongs, ..self }
    }

    /// Which of its forms these bytes have in them.
    fn forms_in<'t>(&'t self, bytes: &'t [u8]) -> impl Iterator<Item = usize> + 't {
        let within = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form);
        (0..self.forms.len()).filter(move |form| within(&self.forms[*form]))
    }

    fn belongs_in(&self, file: &Path) -> bool {
        let name = file.to_string_lossy();
        self.belongs.iter().any(|ending| name.ends_with(ending))
    }
}

/// Fails if these bytes tell any of them.
pub(super) fn tells_nothing(name: &str, bytes: &[u8], telltales: &[Telltale]) -> Result<()> {
    for telltale in telltales {
        if telltale.forms_in(bytes).next().is_some() {
            bail!("{name} tells {}", telltale.what);
        }
    }
    Ok(())
}

/// Looks into every file beneath a folder, and fails if one tells what doesn't belong there.
///
/// It fails as well if it overlooks anything: each form of each telltale is put into a file beneath the folder, and must
/// be found in it, and what belongs into files of the daemons must be found in one of those.
pub(super) fn search(folder: &Path, telltales: &[Telltale]) -> Result<()> {
    let planted = folder.join(PLANTED);
    fs::create_dir(&planted).context("create a folder for what must be found")?;
    let place = |n: usize, form: usize| planted.join(format!("{n}-{form}"));
    for (n, telltale) in telltales.iter().enumerate() {
        for (form, bytes) in telltale.forms.iter().enumerate() {
            fs::write(place(n, form), bytes).context("write what must be found")?;
        }
    }
    let files = files_below(folder)?;
    for (n, telltale) in telltales.iter().enumerate() {
        let mut found = Vec::new();
        for (file, bytes) in &files {
            found.extend(telltale.forms_in(bytes).map(|form| (form, file)));
        }
        for form in 0..telltale.forms.len() {
            let there = found.contains(&(form, &place(n, form)));
            ensure!(there, "form {form} of {} is overlooked", telltale.what);
        }
        found.retain(|(_, file)| !file.starts_with(&planted));
        let strange = found.iter().find(|(_, file)| !telltale.belongs_in(file));
        if let Some((_, file)) = strange {
            bail!("{} tells {}", file.display(), telltale.what);
        }
        let there = telltale.belongs.is_empty() || !found.is_empty();
        ensure!(there, "{} is not even where it belongs", telltale.what);
    }
    Ok(())
}

/// All files beneath a folder, with what is in them.
fn files_below(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            files.extend(files_below(&path)?);
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            files.push((path, bytes));
        }
    }
    Ok(files)
}
