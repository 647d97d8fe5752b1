//! What a configuration says, and what is refused.

use std::path::Path;

use super::{Config, ConfigError, VsockUse};

const LEAST: &str = "host = 'h1'\nzone = 'z1'\n[control]\nurl = 'https://127.0.0.1:8471'\n\
    [capacity]\nvcpus = 4\nmemory_mib = 1024\n";

fn read(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::read(file.path())
}

fn refused(more: &str) -> String {
    read(&format!("{LEAST}{more}")).unwrap_err().to_string()
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = read(LEAST).unwrap();
    assert_eq!(config.link.vsock, VsockUse::Auto);
    assert_eq!(config.cache.foreign_views, 16);
    assert!(config.link.shard_count() >= 1);
}

#[test]
fn the_sample_shows_the_defaults() {
    let sample = read(include_str!("../../../packaging/config/host.toml")).unwrap();
    let least = read(LEAST).unwrap();
    assert_eq!(sample.state_dir, least.state_dir);
    assert_eq!(sample.sockets, least.sockets);
    assert_eq!(sample.link, least.link);
    let asks = |config: &Config| {
        let control = &config.control;
        (control.sync_seconds, control.sync, control.poll_seconds)
    };
    assert_eq!(asks(&sample), asks(&least));
    assert_eq!(sample.cache, least.cache);
    let (sample, least) = (sample.machines(), least.machines());
    assert_eq!((&sample.vm, &sample.external), (&least.vm, &least.external));
    // Without it VMs are root's, which no host should be delivered with.
    let user_base = sample.qemu.user_base;
    assert_eq!(user_base, Some(2_000_000));
    let qemu = crate::vm::config::QemuConfig {
        user_base,
        ..least.qemu
    };
    assert_eq!(sample.qemu, qemu);
}

/// The roles of the sample, with what is commented out, and without the keys that show their defaults.
#[test]
fn the_sample_shows_roles_and_their_defaults() {
    let sample = include_str!("../../../packaging/config/host.toml");
    let (_, commented) = sample.split_once("# [roles.backup]").unwrap();
    let lines = commented.lines().map(|line| line.trim_start_matches(['#', ' ']));
    let keys = |line: &&str| line.starts_with('[') || line.contains(" = ");
    let shown: Vec<_> = std::iter::once("[roles.backup]")
        .chain(lines.filter(keys))
        .collect();
    let defaults = [
        "timeout",
        "environment",
        "fetches",
        "audience",
        "duration",
        "ca_file",
    ];
    let is_default = |line: &str| defaults.iter().any(|key| line.starts_with(key));
    let least: Vec<_> = shown.iter().copied().filter(|line| !is_default(line)).collect();
    assert_eq!(shown.len(), least.len() + defaults.len());
    let [shown, least] = [shown, least].map(|lines| read(&format!("{LEAST}{}\n", lines.join("\n"))).unwrap());
    assert_eq!(shown.roles, least.roles);
    assert_eq!(shown.roles.len(), 3);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for (more, named) in [
        ("[link]\nshard = 2", "`shard`"),
        ("[link]\nshards = 0", "line 9, column 10"),
        ("[link]\nvsock = 'yes'", "`auto`"),
        ("[chache]\n", "`chache`"),
        (
            "[link]\nvsock = 'off'\n[qemu]\nvsock = 'vhost'",
            "link.vsock is \"off\"",
        ),
    ] {
        let said = refused(more);
        assert!(said.contains(named), "{more}: {said}");
    }
    let said = read(&LEAST.replace("https://", "ftp://")).unwrap_err();
    assert!(said.to_string().contains("ftp"), "{said}");
}

#[test]
fn a_mistake_is_named_by_its_place_and_shows_no_secret() {
    let role = "[roles.vault]\nsource = 'exec'\ncommand = ['/x']\n[roles.vault.environment]\n";
    let lines = LEAST.lines().count() + role.lines().count();
    for wrong in [
        "VAULT_TOKEN = hvs.hunter2",
        "VAULT_TOKEN = 'hvs.hunter2",
        "VAULT_TOKEN = { token = 'hunter2' }",
        "VAULT_PIN = 4077",
        "A = 'hunter2'\nA = 'hunter2'",
    ] {
        let error = read(&format!("{LEAST}{role}{wrong}\n")).unwrap_err();
        let said = format!("{} {error:?}", crate::causes::Causes(&error));
        assert!(!said.contains("hunter2") && !said.contains("4077"), "{said}");
        let ConfigError::Parse { line, .. } = error else {
            panic!("{error}")
        };
        // What the parser takes well and the role doesn't is placed where the role begins.
        let begins = LEAST.lines().count() + 1;
        assert!((begins..=lines + 2).contains(&line), "{wrong}: {line}");
    }
    let whole = format!("{LEAST}{role}VAULT_TOKEN = 'hunter2'\n");
    let config = read(&whole).unwrap();
    assert!(config.has_secrets() && !format!("{config:?}").contains("hunter2"));
    assert!(!read(LEAST).unwrap().has_secrets());
    let misplaced = whole.replace("[roles.vault.environment]\n", "environment = 'hunter2'\n");
    let said = read(&misplaced.replace("VAULT_TOKEN = 'hunter2'\n", "")).unwrap_err();
    assert!(!said.to_string().contains("hunter2"), "{said}");
}

#[test]
fn a_file_that_everybody_reads_is_known() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    for (mode, read) in [(0o600, false), (0o640, false), (0o644, true)] {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(super::others_read(file.path()), read);
    }
}

#[test]
fn paths_that_depend_on_where_the_daemon_is_started_are_refused() {
    let relative = LEAST.replace("host =", "state_dir = 'state'\nhost =");
    let said = read(&relative).unwrap_err().to_string();
    assert!(said.contains("state_dir is 'state'"), "{said}");
    for (more, named) in [
        ("admin = 'a.sock'", "sockets.admin is 'a.sock'"),
        ("admin = '/s'\nregister = '/s'", "both /s"),
    ] {
        let said = refused(&format!("[sockets]\n{more}"));
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn folders_of_others_that_hold_the_daemons_own_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("state");
    std::fs::create_dir_all(real.join("vms")).unwrap();
    let alias = folder.path().join("alias");
    std::os::unix::fs::symlink(&real, &alias).unwrap();
    let with = |directory: &Path| {
        let state = format!("state_dir = '{}'\nhost =", real.display());
        let external = format!("[external]\ndirectories = ['{}']\n", directory.display());
        read(&format!("{}{external}", LEAST.replace("host =", &state)))
    };
    for held in [folder.path(), &real, &alias, &real.join("vms")] {
        let error = with(held).unwrap_err();
        assert!(matches!(error, ConfigError::NotApart { .. }), "{error}");
    }
    with(&folder.path().join("state-of-others")).unwrap();
}

#[test]
fn a_capacity_that_no_host_has_is_refused_with_the_bounds() {
    for (before, after, expected) in [
        (
            "vcpus = 4",
            "vcpus = 65537",
            "capacity.vcpus is 65537; allowed is 0 to 65536",
        ),
        (
            "mib = 1024",
            "mib = 67108865",
            "capacity.memory_mib is 67108865; allowed is 0 to 67108864",
        ),
    ] {
        let said = read(&LEAST.replace(before, after)).unwrap_err().to_string();
        assert_eq!(said, expected);
    }
}

#[test]
fn numbers_out_of_bounds_are_refused_with_the_bounds() {
    for (more, expected) in [
        ("[link]\nstreams = 0", "link.streams is 0; allowed is 1 to 256"),
        ("[link]\nshards = 65", "link.shards is 65; allowed is 1 to 64"),
        (
            "[cache]\nentries = 1025",
            "cache.entries is 1025; allowed is 1 to 1024",
        ),
        (
            "[cache]\nrefusal_ms = 60001",
            "cache.refusal_ms is 60001; allowed is 0 to 60000",
        ),
        (
            "[cache]\nstale_after_seconds = 2",
            "cache.stale_after_seconds is 2; allowed is 3 to 86400",
        ),
        (
            "[cache]\nnever_serve_after_seconds = 2592001",
            "cache.never_serve_after_seconds is 2592001; allowed is 0 to 2592000",
        ),
    ] {
        let said = refused(more);
        assert!(said.contains(expected), "{said}");
    }
}
