//! Another instance's data, as far as their access lists give them to a guest.

use super::values::Way;
use super::{Guest, Scene};
use crate::alone::{path, readers};
use anyhow::{Context, Result, ensure};
use moorline_client::{Terms, fresh_key};
use moorline_shared::InstanceId;
use moorline_shared::Principal;
use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject, Tag};
use moorline_shared::api::data::{Action, AppendEntry, Batch, Change, PutEntry};
use moorline_shared::api::instances::{InstanceIds, InstanceState, ModifyInstance};
use moorline_shared::api::operations::{OperationQuery, Outcome};
use std::collections::BTreeMap;

/// What a guest can try with an entry, and the right that it takes. The last one ends the entry.
const TRIES: [(Right, &str); 4] = [
    (Right::Read, "GET"),
    (Right::Update, "PUT"),
    (Right::Append, "POST"),
    (Right::Delete, "DELETE"),
];

#[tokio::test]
async fn anothers_entries_are_read_and_changed_as_their_lists_say() -> Result<()> {
    let mut scene = Scene::open(2, BTreeMap::new()).await?;
    let (b, a) = (scene.guests.pop(), scene.guests.pop());
    let (a, b) = (&a.context("one guest")?, &b.context("another")?);
    each_right_gives_itself_alone(&scene, a, b)
        .await
        .context("each right alone")?;
    a_user_has_the_rights_of_the_list_alone(&scene, b)
        .await
        .context("each right alone, of a user")?;
    what_is_hidden_is_answered_as_what_is_not_there(&scene, a, b)
        .await
        .context("hidden entries")?;
    nothing_is_named_that_cannot_be_read(&scene, a, b)
        .await
        .context("lists and watches")?;
    a_right_withdrawn_takes_the_entry_away(&scene, a, b)
        .await
        .context("a right withdrawn")?;
    a_right_withdrawn_while_the_host_is_away_stays_withdrawn(&mut scene, a, b)
        .await
        .context("a right withdrawn while the host daemon was away")?;
    a_tag_gives_and_takes(&scene, a, b)
        .await
        .context("a right by a tag")?;
    let way = Way {
        scene: &scene,
        owner: b.id,
        access: lent_to(a)?,
        view: a.of(b),
    };
    way.is_good().await?;
    data_are_read_while_their_guest_is_off(&scene, a, b)
        .await
        .context("the other guest off")
}

/// An access list that gives this right and no other. Administrators read and administer whatever it says.
fn only(subject: Subject, right: Right) -> Result<AccessList> {
    let rights = Rights::only(right);
    Ok(AccessList::try_from(vec![Clause { subject, rights }])?)
}

/// An access list that lets an instance read, and nobody else but the administrator.
fn lent_to(guest: &Guest) -> Result<AccessList> {
    readers(&[&format!("instance:{}", guest.id)])
}

async fn each_right_gives_itself_alone(scene: &Scene, a: &Guest, b: &Guest) -> Result<()> {
    // All of them in one transaction: when one can be read, the others are there, too.
    let change = |right| -> Result<Change> {
        Ok(Change {
            path: path(&format!("rights/{right}")),
            guard: None,
            action: Action::Put(PutEntry {
                access: Some(only(Subject::Instance(a.id), right)?),
                ..PutEntry::value("value".into())
            }),
        })
    };
    let changes: Vec<_> = TRIES
        .iter()
        .map(|(right, _)| change(*right))
        .collect::<Result<_>>()?;
    let batch = Batch { changes };
    let client = scene.deployment.client();
    client.batch_instance_data(b.id, &batch, &fresh_key()).await?;
    a.of(b).reads("rights/read", "value").await?;
    for (granted, _) in TRIES {
        let at = format!("rights/{granted}");
        for (right, method) in TRIES {
            let before = scene.master(b.id, &at).await?;
            let (status, _) = a.of(b).http(method, &format!("data/{at}")).await?;
            let after = scene.master(b.id, &at).await?;
            match (right == granted, right) {
                (true, Right::Read) => {
                    ensure!(status == 200 && after == before, "{method} of {at}: {status}");
                }
                (true, _) => {
                    let text = after.as_ref().map(|(_, text)| text.as_str());
                    ensure!(
                        status == 200 && text == left(right),
                        "{method} of {at}: {status}, {text:?}"
                    );
                }
                // Whoever may read an entry is told what it may not, everybody else that there is none.
                (false, _) => {
                    let expected = if granted == Right::Read { 403 } else { 404 };
                    ensure!(
                        status == expected && after == before,
                        "{method} of {at} with '{granted}' alone: {status}, {after:?}"
                    );
                }
            }
        }
    }
    refusals_are_on_record(scene, a.id, b.id).await
}

/// The API's one user is the administrator, who keeps what is needed to give itself the rest, and no more.
async fn a_user_has_the_rights_of_the_list_alone(scene: &Scene, b: &Guest) -> Result<()> {
    let at = path("rights/of-a-user");
    let (client, terms) = (scene.deployment.client(), Terms::fresh);
    let more = AppendEntry { value: "+".into() };
    scene.put(b.id, at.as_str(), "value").await?;
    for granted in [Right::Read, Right::Update, Right::Append, Right::Delete] {
        let user = Subject::User("admin".parse()?);
        scene.set_access(b.id, at.as_str(), only(user, granted)?).await?;
        let before = scene.master(b.id, at.as_str()).await?.context("the entry")?;
        let put = client
            .put_instance_data(b.id, &at, &PutEntry::value("value".into()), &terms())
            .await;
        let appended = client.append_instance_data(b.id, &at, &more, &terms()).await;
        let deleted = client.delete_instance_data(b.id, &at, &terms()).await;
        let tried = [
            (Right::Update, put),
            (Right::Append, appended),
            (Right::Delete, deleted),
        ];
        for (right, outcome) in &tried {
            let denied = outcome.as_ref().err().and_then(|error| error.problem());
            ensure!(
                outcome.is_ok() == (*right == granted) && denied.is_none_or(|problem| problem.status == 403),
                "{right} with '{granted}' alone: {outcome:?}"
            );
        }
        let after = scene.master(b.id, at.as_str()).await?;
        ensure!(
            (after.as_ref() == Some(&before)) == (granted == Right::Read),
            "{after:?}"
        );
    }
    Ok(())
}

/// What is left of `value` after a change with `+`.
fn left(right: Right) -> Option<&'static str> {
    match right {
        Right::Update => Some("+"),
        Right::Append => Some("value+"),
        _ => None,
    }
}

/// The changes that were refused to A have left a record each, in A's name and without effects.
async fn refusals_are_on_record(scene: &Scene, a: InstanceId, b: InstanceId) -> Result<()> {
    let query = OperationQuery {
        instance: Some(b),
        ..OperationQuery::default()
    };
    let page = scene.deployment.client().list_operations(&query).await?;
    let of_a: Vec<_> = page
        .operations
        .iter()
        .filter(|operation| operation.principal == Principal::Instance(a))
        .collect();
    let count = |api: &str| {
        let refused = of_a.iter().filter(|operation| {
            operation.api == api
                && operation.effects.is_empty()
                && matches!(operation.outcome, Outcome::Refused { .. })
        });
        refused.count()
    };
    for api in ["PutInstanceData", "AppendInstanceData", "DeleteInstanceData"] {
        ensure!(count(api) == 3, "{} refusals of {api}: {of_a:#?}", count(api));
    }
    Ok(())
}

async fn what_is_hidden_is_answered_as_what_is_not_there(scene: &Scene, a: &Guest, b: &Guest) -> Result<()> {
    scene
        .put_whole(
            b.id,
            "kept/hidden",
            PutEntry {
                access: Some(readers(&[])?),
                ..PutEntry::value("value".into())
            },
        )
        .await?;
    let before = scene.master(b.id, "kept/hidden").await?;
    for (_, method) in TRIES {
        let (hidden, of_hidden) = a.of(b).http(method, "data/kept/hidden").await?;
        let (absent, of_absent) = a.of(b).http(method, "data/kept/absent").await?;
        ensure!(hidden == 404 && absent == 404, "{method}: {hidden} and {absent}");
        let as_absent = told(&of_hidden)?.replace("kept/hidden", "kept/absent");
        ensure!(
            as_absent == told(&of_absent)?,
            "{method}: {of_hidden}\nand\n{of_absent}"
        );
    }
    ensure!(scene.master(b.id, "kept/hidden").await? == before);
    Ok(())
}

/// A problem without the name and the revision of its record, which is another one each time.
fn told(problem: &str) -> Result<String> {
    let mut problem: serde_json::Value = serde_json::from_str(problem)?;
    let fields = problem.as_object_mut().context("a problem has fields")?;
    fields.remove("operation");
    fields.remove("revision");
    Ok(problem.to_string())
}

async fn nothing_is_named_that_cannot_be_read(scene: &Scene, a: &Guest, b: &Guest) -> Result<()> {
    let mut watch = a.of(b).watch("shared").await?;
    for (at, access) in [("shared/kept", readers(&[])?), ("shared/given", lent_to(a)?)] {
        let body = PutEntry {
            access: Some(access),
            ..PutEntry::value("first".into())
        };
        scene.put_whole(b.id, at, body).await?;
    }
    scene.put(b.id, "shared/kept", "second").await?;
    scene.put(b.id, "shared/given", "second").await?;
    // Later than what was not to be shown, so that it would have come by now.
    scene
        .put_whole(
            b.id,
            "shared/last",
            PutEntry {
                access: Some(lent_to(a)?),
                ..PutEntry::value("last".into())
            },
        )
        .await?;
    let seen = watch.to("shared/last").await?;
    ensure!(
        seen.iter().all(|change| change.path.as_str() != "shared/kept"),
        "{seen:?}"
    );
    a.of(b).reads("shared/given", "second").await?;
    ensure!(a.of(b).names("shared").await? == ["shared/given", "shared/last"]);
    a.of(b).hides("shared/kept").await?;
    // The list gives A its right, and takes from B what the default gave it.
    b.own().hides("shared/given").await
}

async fn a_right_withdrawn_takes_the_entry_away(scene: &Scene, a: &Guest, b: &Guest) -> Result<()> {
    let at = "lent/entry";
    let lent = PutEntry {
        access: Some(lent_to(a)?),
        ..PutEntry::value("lent".into())
    };
    let mut watch = a.of(b).watch("lent").await?;
    scene.put_whole(b.id, at, lent).await?;
    watch.shows(at).await?;
    a.of(b).reads(at, "lent").await?;
    for _ in 0..2 {
        scene.set_access(b.id, at, readers(&["owner"])?).await?;
        watch.loses(at).await?;
        a.of(b).hides(at).await?;
        b.own().reads(at, "lent").await?;
        scene.set_access(b.id, at, lent_to(a)?).await?;
        watch.shows(at).await?;
        a.of(b).reads(at, "lent").await?;
    }
    Ok(())
}

/// What the daemon kept of the other's data is no more than where it begins to catch up.
async fn a_right_withdrawn_while_the_host_is_away_stays_withdrawn(
    scene: &mut Scene,
    a: &Guest,
    b: &Guest,
) -> Result<()> {
    a.of(b).reads("lent/entry", "lent").await?;
    scene.deployment.kill_host().await?;
    scene.set_access(b.id, "lent/entry", readers(&["owner"])?).await?;
    scene.put(b.id, "shared/given", "later").await?;
    scene.deployment.start_host().await?;
    a.of(b).reads("shared/given", "later").await?;
    a.of(b).hides("lent/entry").await?;
    b.own().reads("lent/entry", "lent").await
}

async fn a_tag_gives_and_takes(scene: &Scene, a: &Guest, b: &Guest) -> Result<()> {
    let at = "tagged/entry";
    let tag: Tag = "role=reader".parse()?;
    let access = only(Subject::Tag(tag.clone()), Right::Read)?;
    let mut watch = a.of(b).watch("tagged").await?;
    scene
        .put_whole(
            b.id,
            at,
            PutEntry {
                access: Some(access),
                ..PutEntry::value("for readers".into())
            },
        )
        .await?;
    let given = PutEntry {
        access: Some(lent_to(a)?),
        ..PutEntry::value("for A".into())
    };
    scene.put_whole(b.id, "tagged/given", given).await?;
    let seen = watch.to("tagged/given").await?;
    ensure!(seen.len() == 1, "{seen:?}");
    a.of(b).hides(at).await?;
    tag_as(scene, a.id, vec![tag]).await?;
    watch.shows(at).await?;
    a.of(b).reads(at, "for readers").await?;
    tag_as(scene, a.id, Vec::new()).await?;
    watch.loses(at).await?;
    a.of(b).hides(at).await
}

async fn tag_as(scene: &Scene, id: InstanceId, tags: Vec<Tag>) -> Result<()> {
    let body = ModifyInstance {
        tags: Some(tags),
        ..ModifyInstance::default()
    };
    let client = scene.deployment.client();
    client.modify_instance(id, &body, &fresh_key()).await?;
    Ok(())
}

async fn data_are_read_while_their_guest_is_off(scene: &Scene, a: &Guest, b: &Guest) -> Result<()> {
    let both = InstanceIds {
        instances: vec![b.id],
    };
    let client = scene.deployment.client();
    client.stop_instances(&both, &fresh_key()).await?;
    scene.deployment.reaches(b.id, InstanceState::Stopped).await?;
    a.of(b).reads("shared/given", "later").await?;
    let mut watch = a.of(b).watch("shared").await?;
    scene.put(b.id, "shared/given", "latest").await?;
    watch.shows("shared/given").await?;
    a.of(b).reads("shared/given", "latest").await
}
