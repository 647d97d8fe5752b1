use proptest::prelude::*;

use super::{Content, Names, Peer, Rules, User};

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/false\nann:x:1000:1000:,,,:/:/bin/sh\nbroken\n";
const GROUP: &str = "root:x:0:\nweb:x:33:\nann:x:1000:\ndeploy:x:200:ann,gone\nodd:x:y:\n";

fn rules(text: &str) -> Rules {
    Rules::parse(text, &Names::parse(PASSWD, GROUP)).unwrap()
}

fn may(rules: &Rules, peer: &Peer, path: &str) -> bool {
    rules.may_read(peer, path, Content::Ordinary)
}

fn user(id: u32) -> Peer {
    Peer::of(User::Known(id))
}

#[test]
fn without_rules_everyone_reads_what_is_not_secret() {
    let rules = Rules::default();
    for peer in [user(1000), Peer::of(User::Nobody), Peer::process(33, vec![33])] {
        assert!(may(&rules, &peer, "app/port"));
        assert!(!rules.may_read(&peer, "app/key", Content::Secret));
    }
    assert!(rules.may_read(&user(0), "app/key", Content::Secret));
}

#[test]
fn the_longest_prefix_decides() {
    let rules = rules("/ root  # all else\napp all\napp/db web @deploy\n\n  credentials/deployer 1000\n");
    for (peer, path, allowed) in [
        (1000, "app", true),
        (1000, "app/port", true),
        (1000, "app/db", true),
        (33, "app/db/password", true),
        (7, "app/db/password", false),
        (7, "app/dbx", true),
        (7, "meta/region", false),
        (0, "meta/region", true),
        (1000, "credentials/deployer", true),
        (33, "credentials/deployer", false),
        (33, "credentials/other", false),
    ] {
        assert_eq!(may(&rules, &user(peer), path), allowed, "{peer} {path}");
    }
}

#[test]
fn groups_are_the_processs_own_where_it_tells_them() {
    let rules = rules("app @deploy");
    assert!(may(&rules, &Peer::process(7, vec![7, 200]), "app"));
    assert!(
        !may(&rules, &Peer::process(1000, vec![1000]), "app"),
        "it has left the group"
    );
    assert!(may(&rules, &user(1000), "app"), "its user is in the group");
    assert!(!may(&rules, &Peer::of(User::Nobody), "app"));
}

#[test]
fn a_secret_is_for_those_who_are_named() {
    let rules = rules("/ all\napp/key all web\n");
    let secret = |peer, path| rules.may_read(&peer, path, Content::Secret);
    assert!(secret(user(33), "app/key"));
    assert!(!secret(user(1000), "app/key"));
    assert!(!secret(user(33), "other"));
}

#[test]
fn errors_name_the_line_and_what_to_do() {
    let names = Names::parse(PASSWD, GROUP);
    for (text, line, says) in [
        ("\napp wbe\n", 2, "no user 'wbe'"),
        ("app @x", 1, "no group 'x'"),
        ("# a\n\napp", 3, "nobody behind it"),
        ("../x all", 1, "'..'"),
        ("/app all", 1, "write a path such as"),
        ("a all\nb all\na/ web", 3, "has a line already"),
    ] {
        let (at, wrong) = Rules::parse(text, &names).unwrap_err();
        assert_eq!(at, line, "{text}");
        assert!(wrong.to_string().contains(says), "{text}: {wrong}");
    }
}

#[test]
fn a_file_that_is_not_there_rules_nothing_and_a_broken_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.access");
    assert_eq!(Rules::read_if_there(&path).unwrap(), Rules::default());
    assert!(Rules::read(&path).is_err());
    std::fs::write(&path, "app root\napp/db no-such-user\n").unwrap();
    let error = Rules::read_if_there(&path).unwrap_err().to_string();
    assert!(
        error.contains("line 2") && error.contains("agent.access"),
        "{error}"
    );
}

proptest! {
    /// Whatever the other rules are, only those whom the longest covering prefix names may read.
    #[test]
    fn a_decision_is_the_longest_rules(
        lines in proptest::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,2}", 1_u32..5, 0..8),
        path in "[a-c]{1,2}(/[a-c]{1,2}){0,3}",
        peer in 0_u32..5,
    ) {
        let lines_as_text: Vec<String> = lines.iter().map(|(prefix, who)| format!("{prefix} {who}")).collect();
        let text = lines_as_text.join("\n");
        let segments: Vec<&str> = path.split('/').collect();
        let owner = (1..=segments.len()).rev().find_map(|n| lines.get(&segments[..n].join("/")));
        let expected = peer == 0 || owner.is_none_or(|owner| *owner == peer);
        prop_assert_eq!(may(&rules(&text), &user(peer), &path), expected);
    }

    /// Something below a prefix may be read if the prefix itself may, or what some rule below it names.
    #[test]
    fn below_a_prefix_is_what_any_path_there_says(
        lines in proptest::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,2}", 1_u32..5, 0..8),
        prefix in "[a-c]{1,2}(/[a-c]{1,2}){0,1}",
        peer in 0_u32..5,
    ) {
        let text: Vec<String> = lines.iter().map(|(prefix, who)| format!("{prefix} {who}")).collect();
        let rules = rules(&text.join("\n"));
        let below = format!("{prefix}/");
        let mut paths = lines.keys().filter(|path| path.starts_with(&below)).chain([&prefix]);
        let expected = paths.any(|path| may(&rules, &user(peer), path));
        prop_assert_eq!(rules.may_read_below(&user(peer), &prefix), expected);
    }

    #[test]
    fn any_text_is_rules_or_an_error(text in "\\PC{0,80}|([a-c/@#0-9 ]{0,12}\n){0,6}") {
        let _ = Rules::parse(&text, &Names::parse(PASSWD, GROUP));
    }
}
