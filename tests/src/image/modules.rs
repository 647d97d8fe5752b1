//! The guest's kernel, and which of its modules have to be loaded in which order.
//!
//! A package that was only unpacked has no `modules.dep` (its installation makes that), so the dependencies are
//! read from where they come from: the `depends=` field that every module carries.

use super::cpio::Archive;
use crate::setup::unpack::Unpacked;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel package that was unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The compressed kernel.
    pub(super) image: PathBuf,
    /// All of its modules, in a folder that has its version for a name.
    pub(super) folder: PathBuf,
    /// Every module by its name.
    modules: HashMap<String, PathBuf>,
    /// What would be modules, had they not been built in; one path to a line.
    built_in: String,
}

/// A module to load.
#[derive(Debug)]
struct Module {
    name: String,
    bytes: Vec<u8>,
}

impl Kernel {
    /// Fails when the package holds no kernel, which means that the cache is damaged.
    pub(super) fn open(package: &Unpacked) -> Result<Self> {
        let image = only_entry(&package.root.join("boot"), "vmlinuz-")?;
        let folder = only_entry(&package.find(&["usr/lib/modules", "lib/modules"])?, "")?;
        let built_in = folder.join("modules.builtin");
        let built_in =
            fs::read_to_string(&built_in).with_context(|| format!("read {}", built_in.display()))?;
        let mut modules = HashMap::new();
        collect(&folder, &mut modules).with_context(|| format!("list {}", folder.display()))?;
        Ok(Self {
            image,
            folder,
            modules,
            built_in,
        })
    }

    /// Puts the wanted modules and all that they depend on into an initramfs, numbered in the order in which its first
    /// process has to load them.
    ///
    /// What is built into the kernel is left out. Fails for a name that the kernel does not know.
    pub(super) fn add<'a>(
        &self,
        archive: &mut Archive,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        for (place, module) in self.load_order(wanted)?.iter().enumerate() {
            let path = format!("lib/modules/{place:02}-{}.ko", module.name);
            archive.file(&path, 0o644, &module.bytes);
        }
        Ok(())
    }

    /// The wanted modules and all that they depend on, each after those that it depends on.
    fn load_order<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in wanted {
            self.append(name, &mut order)?;
        }
        Ok(order)
    }

    fn append(&self, name: &str, order: &mut Vec<Module>) -> Result<()> {
        let name = canonical(name);
        if self.is_built_in(&name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = self.modules.get(&name) else {
            bail!("the guest's kernel has no module {name}");
        };
        let bytes = read_module(path)?;
        for dependency in dependencies(&bytes) {
            self.append(&dependency, order)?;
        }
        order.push(Module { name, bytes });
        Ok(())
    }

    fn is_built_in(&self, name: &str) -> bool {
        self.built_in
            .lines()
            .filter_map(|path| module_name(Path::new(path)))
            .any(|built_in| built_in == name)
    }
}

/// The one entry of a folder whose name begins so.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let begins_so = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let entries = folder
        .read_dir()
        .with_context(|| format!("list {}", folder.display()))?;
    let mut found = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(begins_so);
    found.next().with_context(|| {
        format!(
            "no {prefix}* in {}; remove it, to have it fetched",
            folder.display()
        )
    })
}

fn collect(folder: &Path, modules: &mut HashMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, modules)?;
        } else if let Some(name) = module_name(&path) {
            modules.insert(name, path);
        }
    }
    Ok(())
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    Some(canonical(
        name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?,
    ))
}

/// Debian 13 compresses modules; busybox loads only plain ones.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|ending| ending != "xz") {
        return fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let unpacked = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output();
    let unpacked = unpacked.context("run xz")?;
    ensure!(
        unpacked.status.success(),
        "xz could not decompress {}",
        path.display()
    );
    Ok(unpacked.stdout)
}

/// The kernel takes `-` and `_` in names of modules for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The `depends=` field of a module's information section: a zero before it, commas in it, a zero after it.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(start) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let value = module[start + FIELD.len()..]
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn dependencies_are_read_from_the_information_section() {
        let module = b"ELF..\0license=GPL\0depends=virtio-ring,virtio\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["virtio_ring", "virtio"]);
        assert!(dependencies(b"..\0depends=\0name=virtio\0").is_empty());
        assert!(dependencies(b"no such field").is_empty());
    }
}
