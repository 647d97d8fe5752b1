//! What programs in real guests may see and do: their own data and another instance's, through the agent, the host
//! daemon and the control plane, and through the lives of the guest itself.

mod credentials;
mod foreign;
mod lives;
mod own;
mod revoked;
mod roles;
mod two_phase;
mod values;

use crate::alone::path;
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Programs};
use moorline_lab::guest::{Control, Ending, Lines, Seats, seats};
use moorline_lab::image::Busybox;
use moorline_lab::setup::{self, tools};
use moorline_shared::access::AccessList;
use moorline_shared::agent::{EntryChange, Status, WatchEvent};
use moorline_shared::api::data::{Changed, PutEntry, SetAccess};
use moorline_shared::api::instances::RunInstances;
use moorline_shared::{EntryPath, InstanceId, Revision};
use std::collections::BTreeMap;

/// A deployment with guests that are up.
struct Scene {
    deployment: Deployment,
    guests: Vec<Guest>,
    _seats: Seats,
}

impl Scene {
    /// Boots `count` guests whose instances begin with these entries.
    async fn open(count: u32, data: BTreeMap<EntryPath, PutEntry>) -> Result<Self> {
        let tools = setup::ready().await?;
        let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
        let image = Busybox::new().agent(agent).build(tools).await?;
        let seats = seats(count).await;
        let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
        let request = RunInstances {
            count,
            data,
            ..RunInstances::of(IMAGE.parse()?, "micro".parse()?)
        };
        let mut guests = Vec::new();
        for id in deployment.run(&seats, &request).await? {
            guests.push(Guest::up(&deployment, id).await?);
        }
        Ok(Self {
            deployment,
            guests,
            _seats: seats,
        })
    }

    /// Gives an entry a value, and leaves the rest of it as it is.
    async fn put(&self, of: InstanceId, at: &str, value: &str) -> Result<Changed> {
        self.put_whole(of, at, PutEntry::value(value.into())).await
    }

    async fn put_whole(&self, of: InstanceId, at: &str, body: PutEntry) -> Result<Changed> {
        let (client, terms) = (self.deployment.client(), Terms::fresh());
        let changed = client.put_instance_data(of, &path(at), &body, &terms).await;
        changed.with_context(|| format!("put {at}"))
    }

    /// Gives an entry another access list.
    async fn set_access(&self, of: InstanceId, at: &str, access: AccessList) -> Result<Changed> {
        let (client, terms) = (self.deployment.client(), Terms::fresh());
        let body = SetAccess { access };
        let changed = client.set_entry_access(of, &path(at), &body, &terms).await;
        changed.with_context(|| format!("set the access of {at}"))
    }

    /// An entry as the master copy has it: when it last changed, and its text. `None` where there is none.
    async fn master(&self, of: InstanceId, at: &str) -> Result<Option<(Revision, String)>> {
        let client = self.deployment.client();
        match client.get_instance_data(of, &path(at)).await {
            Ok(entry) => {
                let value = entry.value.context("an entry that is got has a value")?;
                let text = value.text().context("the tests' values are text")?.to_owned();
                Ok(Some((entry.revision, text)))
            }
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("get {at}")),
        }
    }
}

/// An instance whose guest is up.
struct Guest {
    id: InstanceId,
    control: Control,
}

impl Guest {
    /// Waits until the guest takes commands and its agent has its data.
    async fn up(deployment: &Deployment, id: InstanceId) -> Result<Self> {
        let up = async {
            let control = deployment.guest(id).await?;
            control
                .wait_for("moorline-agent get meta/instance-id", PATIENCE)
                .await?;
            Ok::<_, anyhow::Error>(Self { id, control })
        };
        up.await.with_context(|| deployment.last_words())
    }

    async fn shell(&self, command: impl Into<String>) -> Result<String> {
        self.control.run(command.into()).await?.text()
    }

    async fn status(&self) -> Result<Status> {
        Ok(serde_json::from_str(
            &self.shell("moorline-agent status --json").await?,
        )?)
    }

    /// Its own data, as its programs see them.
    fn own(&self) -> View<'_> {
        View {
            guest: self,
            options: String::new(),
            target: "/v1".to_owned(),
        }
    }

    /// Another instance's data, as its programs see them.
    fn of(&self, other: &Guest) -> View<'_> {
        View {
            guest: self,
            options: format!("--instance {}", other.id),
            target: format!("/v1/instances/{}", other.id),
        }
    }
}

/// An instance's data as a guest's programs see them.
struct View<'g> {
    guest: &'g Guest,
    options: String,
    target: String,
}

impl View<'_> {
    fn command(&self, words: &str) -> String {
        format!("moorline-agent {words} {}", self.options)
    }

    /// Waits until an entry has this text: what was committed is on its way for a moment.
    async fn reads(&self, at: &str, value: &str) -> Result<()> {
        let command = format!("[ \"$({})\" = '{value}' ]", self.command(&format!("get {at}")));
        let read = self.guest.control.wait_for(command, PATIENCE).await;
        read.map(drop)
            .with_context(|| format!("'{value}' was to be read at {at}"))
    }

    /// Fails unless there is no such entry for the guest: it is neither got nor listed, whatever way it is asked for.
    async fn hides(&self, at: &str) -> Result<()> {
        let output = self.guest.control.run(self.command(&format!("get {at}"))).await?;
        ensure!(
            output.ending == Ending::Code(3) && output.stdout.is_empty(),
            "{at} was to be hidden: {output:?}"
        );
        let names = self.names("").await?;
        ensure!(!names.iter().any(|name| name == at), "{at} is in the listing");
        let (status, _) = self.http("GET", &format!("data/{at}?max_age_ms=0")).await?;
        ensure!(status == 404, "{at}, asked of the host, is answered by {status}");
        Ok(())
    }

    /// The paths at and below a prefix.
    async fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let listing = self.guest.shell(self.command(&format!("list {prefix}"))).await?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    /// A request as `curl` makes it, with the body `+` where there is one: the status of the answer, and its body.
    async fn http(&self, method: &str, what: &str) -> Result<(u16, String)> {
        let body = if matches!(method, "PUT" | "POST") {
            "--data-binary +"
        } else {
            ""
        };
        let url = format!("http://agent{}/{what}", self.target);
        let socket = moorline_shared::agent::DEFAULT_SOCKET;
        let curl =
            format!("curl -sS -X {method} {body} -w '\\n%{{http_code}}' --unix-socket {socket} '{url}'");
        let answer = self.guest.shell(curl).await?;
        let (body, status) = answer.rsplit_once('\n').context("curl's last line")?;
        Ok((status.parse()?, body.to_owned()))
    }

    /// A watch that has begun.
    async fn watch(&self, prefix: &str) -> Result<Watch> {
        let command = self.command(&format!("watch --json {prefix}"));
        let mut lines = self.guest.control.lines(command)?;
        lines
            .wait_for("its begin", PATIENCE, |line| line.contains("bookmark"))
            .await?;
        Ok(Watch { lines })
    }
}

/// A watch under way in a guest.
struct Watch {
    lines: Lines,
}

impl Watch {
    /// Reads on to the first change of this entry, and answers with what was seen, that change last.
    async fn to(&mut self, at: &str) -> Result<Vec<EntryChange>> {
        let mut seen: Vec<EntryChange> = Vec::new();
        let wanted = |line: &str| {
            if let Ok(WatchEvent::Changes { changes, .. }) = serde_json::from_str(line) {
                seen.extend(changes);
            }
            seen.iter().any(|change| change.path.as_str() == at)
        };
        self.lines
            .wait_for(&format!("a change of {at}"), PATIENCE, wanted)
            .await?;
        Ok(seen)
    }

    /// Reads on to the first change of this entry, which must be that it is there, or has another value.
    async fn shows(&mut self, at: &str) -> Result<()> {
        let seen = self.to(at).await?;
        let last = seen.iter().rfind(|change| change.path.as_str() == at);
        ensure!(
            last.is_some_and(|change| change.entry.is_some()),
            "{at} was to be shown: {seen:?}"
        );
        Ok(())
    }

    /// Reads on to the first change of this entry, which must be that it is gone.
    async fn loses(&mut self, at: &str) -> Result<()> {
        let seen = self.to(at).await?;
        let last = seen.iter().rfind(|change| change.path.as_str() == at);
        ensure!(
            last.is_some_and(|change| change.entry.is_none()),
            "{at} was to be gone: {seen:?}"
        );
        Ok(())
    }
}
