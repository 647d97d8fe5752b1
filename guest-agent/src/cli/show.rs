//! Answers for people.

use std::fmt::Write as _;

use moorline_shared::agent::{
    CredentialsHeld, Freshness, LinkState, Listing, OpenWrites, Status, WatchEvent, WriteStatus,
};

/// A path per line.
pub(super) fn listing(listing: &Listing) -> Vec<u8> {
    listing
        .entries
        .iter()
        .flat_map(|entry| [entry.path.as_str(), "\n"])
        .collect::<String>()
        .into_bytes()
}

/// A line per change: the revision, what happened, the path.
pub(super) fn event(event: &WatchEvent) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = match event {
        WatchEvent::Bookmark { revision } => writeln!(text, "{revision} -"),
        WatchEvent::Resync { revision } => writeln!(text, "{revision} resync"),
        WatchEvent::Changes { revision, changes } => {
            changes.iter().try_for_each(|change| match &change.entry {
                Some(entry) => writeln!(text, "{revision} set {} {} bytes", change.path, entry.length),
                None => writeln!(text, "{revision} gone {}", change.path),
            })
        }
    };
    text.into_bytes()
}

/// A credential per line: the role, its kind, when it runs out.
pub(super) fn credentials(held: &CredentialsHeld) -> Vec<u8> {
    let mut text = String::new();
    for held in &held.roles {
        let seconds = held.expires_in_ms / 1_000;
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "{} {} until {}, for {seconds} s",
            held.role, held.kind, held.expires_at
        );
    }
    text.into_bytes()
}

/// A change per line: its key, what became of it, what it was.
pub(super) fn writes(open: &OpenWrites) -> Vec<u8> {
    open.writes.iter().flat_map(write).collect()
}

/// What became of a change, on a line.
pub(super) fn write(status: &WriteStatus) -> Vec<u8> {
    let mut text = format!("{} {}", status.key, status.state.as_str());
    // Writing to a string can't fail.
    let _ = write_line(&mut text, status);
    text.into_bytes()
}

fn write_line(text: &mut String, status: &WriteStatus) -> std::fmt::Result {
    if let Some(revision) = status.revision {
        write!(text, " at {revision}")?;
    }
    if let (Some(method), Some(target)) = (&status.method, &status.target) {
        write!(text, " {method} {target}")?;
    }
    if let Some(problem) = &status.problem {
        write!(text, ": {}", problem.detail)?;
    }
    writeln!(text)
}

/// The status, a fact per line.
pub(super) fn status(status: &Status) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = status_lines(&mut text, status);
    text.into_bytes()
}

fn status_lines(text: &mut String, status: &Status) -> std::fmt::Result {
    let link = &status.link;
    let state = match link.state {
        LinkState::Connected => "connected to",
        LinkState::Connecting => "dialling",
    };
    writeln!(text, "agent     {}", status.build)?;
    writeln!(
        text,
        "link      {state} {} for {} s",
        link.endpoint,
        link.for_ms / 1_000
    )?;
    if let (Some(error), LinkState::Connecting) = (&link.last_error, link.state) {
        writeln!(text, "          {error}")?;
    }
    if let Some(own) = &status.identity {
        writeln!(
            text,
            "instance  {}, incarnation {}, of {}",
            own.instance, own.incarnation, own.authority
        )?;
    }
    if let (Some(mirror), LinkState::Connected) = (&status.mirror, link.state)
        && mirror.freshness == Freshness::Stale
    {
        writeln!(
            text,
            "          the host is not in step with the control plane; these are its last known data"
        )?;
    }
    match &status.mirror {
        None => writeln!(text, "mirror    empty: no data from the host yet"),
        Some(mirror) => writeln!(
            text,
            "mirror    revision {}, {} entries, {} bytes, {}, {} ms old",
            mirror.revision,
            mirror.entries,
            mirror.bytes,
            mirror.freshness.as_str(),
            mirror.age_ms
        ),
    }
}

#[cfg(test)]
mod tests {
    use moorline_shared::Revision;
    use moorline_shared::agent::{
        EntryChange, Freshness, LinkState, LinkStatus, MirrorStatus, Status, WatchEvent,
    };

    #[test]
    fn events_are_a_line_for_each_change() {
        let revision = Revision::new(1, 5);
        let gone = |path: &str| EntryChange {
            path: path.parse().unwrap(),
            entry: None,
        };
        let changes = vec![gone("a"), gone("b/c")];
        assert_eq!(
            super::event(&WatchEvent::Changes { revision, changes }),
            b"1.5 gone a\n1.5 gone b/c\n"
        );
        assert_eq!(super::event(&WatchEvent::Bookmark { revision }), b"1.5 -\n");
    }

    #[test]
    fn a_host_that_lost_the_control_plane_is_named() {
        let link = LinkStatus {
            state: LinkState::Connected,
            endpoint: "vsock:2:8470".into(),
            for_ms: 3_900,
            last_error: None,
        };
        let mirror = |freshness| MirrorStatus {
            revision: Revision::new(1, 5),
            entries: 1,
            bytes: 1,
            age_ms: 7,
            freshness,
        };
        let status = |freshness| Status {
            build: "moorline-agent 0".into(),
            link: link.clone(),
            identity: None,
            mirror: Some(mirror(freshness)),
        };
        for (freshness, named) in [(Freshness::Fresh, false), (Freshness::Stale, true)] {
            let text = String::from_utf8(super::status(&status(freshness))).unwrap();
            assert_eq!(
                text.contains("not in step with the control plane"),
                named,
                "{text}"
            );
        }
    }

    #[test]
    fn an_agent_without_a_host_says_why() {
        let link = LinkStatus {
            state: LinkState::Connecting,
            endpoint: "vsock:2:8470".into(),
            for_ms: 3_900,
            last_error: Some("the host can't be reached: no such device".into()),
        };
        let status = Status {
            build: "moorline-agent 0".into(),
            link,
            identity: None,
            mirror: None,
        };
        let text = String::from_utf8(super::status(&status)).unwrap();
        assert!(
            text.contains("dialling vsock:2:8470 for 3 s") && text.contains("no such device"),
            "{text}"
        );
        assert!(text.contains("no data from the host yet"), "{text}");
    }
}
