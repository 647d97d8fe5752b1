//! Command lines that are taken, and what the others are told.

use super::{Change, Command, Form, Format, NewValue, Query, UsageError, What, parse};
use moorline_shared::PathPrefix;

fn line(line: &str) -> Result<Command, UsageError> {
    parse(line.split_whitespace().map(Into::into))
}

#[test]
fn commands_are_read() {
    let Ok(Command::Ask { query, socket }) = line("moorline-agent get a/b --json --socket /x") else {
        panic!("not taken")
    };
    let what = What::Get {
        path: "a/b".parse().unwrap(),
        max_age_ms: None,
    };
    assert_eq!(
        query,
        Query {
            what,
            instance: None,
            format: Format::Json
        }
    );
    assert_eq!(socket.to_str(), Some("/x"));
    let Ok(Command::Run { config, .. }) = line("moorline-agent run --link unix:/h --ready-after 3") else {
        panic!("not taken")
    };
    assert_eq!(
        (config.endpoint.to_string().as_str(), config.ready_after.as_secs()),
        ("unix:/h", 3)
    );
    let Ok(Command::Run { config, .. }) = line("moorline-agent run --keep config --keep=") else {
        panic!("not taken")
    };
    assert_eq!(config.keep, ["config".parse().unwrap(), PathPrefix::ALL]);
    assert!(matches!(line("moorline-agent list"), Ok(Command::Ask { .. })));
    for (text, change) in [
        (
            "moorline-agent append a more",
            Change::Append {
                value: NewValue::Said("more".into()),
            },
        ),
        (
            "moorline-agent append a",
            Change::Append {
                value: NewValue::StandardInput,
            },
        ),
        ("moorline-agent delete a", Change::Delete),
    ] {
        let Ok(Command::Ask { query, .. }) = line(text) else {
            panic!("{text} was not taken")
        };
        let path = "a".parse().unwrap();
        let (key, guard) = (None, None);
        let what = What::Change {
            path,
            change,
            key,
            guard,
        };
        assert_eq!(query.what, what, "{text}");
    }
    let Ok(Command::Ask { query, .. }) = line("moorline-agent set a b --ttl 90") else {
        panic!("not taken")
    };
    assert!(
        matches!(&query.what, What::Change { change: Change::Set { ttl: Some(ttl), .. }, .. } if ttl.seconds() == 90),
        "{query:?}"
    );
    let Ok(Command::Ask { query, .. }) = line("moorline-agent delete a --idempotency-key k/1") else {
        panic!("not taken")
    };
    assert!(
        matches!(&query.what, What::Change { key: Some(key), guard: None, .. } if key.to_string() == "k/1"),
        "{query:?}"
    );
    assert!(matches!(
        line("moorline-agent watch a --after 1.2"),
        Ok(Command::Ask { .. })
    ));
    let Ok(Command::Ask { query, .. }) = line("moorline-agent credentials backup --format process") else {
        panic!("not taken")
    };
    let role = "backup".parse().unwrap();
    assert_eq!(
        query.what,
        What::Role {
            role,
            form: Form::Process
        }
    );
    for help in [
        "moorline-agent --help",
        "moorline-agent get -h",
        "moorline-agent help get",
    ] {
        assert!(matches!(line(help), Ok(Command::Help(_))), "{help}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, says) in [
        ("moorline-agent", "say what to do"),
        ("moorline-agent fetch", "'fetch' is no command"),
        ("moorline-agent get", "path of an entry"),
        ("moorline-agent set", "set needs the path of an entry"),
        ("moorline-agent set a b c", "unexpected argument"),
        ("moorline-agent delete a b", "unexpected argument"),
        (
            "moorline-agent append a --content-type x/y",
            "append knows no option",
        ),
        ("moorline-agent append a --ttl 90", "append knows no option"),
        ("moorline-agent set a b --ttl 0", "--ttl '0' can't be"),
        ("moorline-agent set a b --ttl 1d", "--ttl '1d' can't be"),
        ("moorline-agent identity-token", "needs --audience"),
        ("moorline-agent get a b", "unexpected argument"),
        ("moorline-agent get ../a", "segment"),
        ("moorline-agent get a --after 1.2", "get knows no option --after"),
        (
            "moorline-agent status --instance i-00000000000000000000000000000001",
            "status knows no option",
        ),
        ("moorline-agent list --values", "--values is for --json"),
        ("moorline-agent get a --max-age x", "--max-age 'x' can't be"),
        (
            "moorline-agent run --ready-after -1",
            "--ready-after '-1' can't be",
        ),
        ("moorline-agent credentials A", "is not a role"),
        (
            "moorline-agent credentials r --format xml",
            "env, json or process",
        ),
        ("moorline-agent credentials r --json", "knows no option --json"),
        (
            "moorline-agent credentials --format env",
            "knows no option --format",
        ),
        ("moorline-agent run --link tcp:1", "unix:/PATH"),
        ("moorline-agent run --log loud", "error, warn, info"),
        (
            "moorline-agent run --imds v3",
            "--imds 'v3' can't be: there is v1 and v2",
        ),
        (
            "moorline-agent run --imds-listen 127.0.0.1:80",
            "say --imds v2, too",
        ),
        (
            "moorline-agent run --imds v2 --imds-listen here",
            "--imds-listen 'here' can't be",
        ),
    ] {
        let error = line(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}
