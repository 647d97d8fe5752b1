//! Which instance is meant by what a user writes: a name, an id, or the beginning of an id.

use moorline_shared::InstanceId;
use moorline_shared::api::instances::{Instance, InstancePage, InstanceQuery, InstanceState};

use super::Session;
use super::failure::{Failure, state_word};
use super::table::{one_line, or_dash};
use crate::error::ClientError;
use crate::transport::Client;

/// Why it is not known which instance is meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum NameError {
    #[error("there is no instance '{0}': see 'moorline instance list' for names and ids")]
    Unknown(String),
    #[error("'{text}' is more than one instance: write more of the id of the one that is meant\n{}", .candidates.join("\n"))]
    Ambiguous { text: String, candidates: Vec<String> },
}

impl Session<'_> {
    /// The id of the instance that `text` means. A whole id is taken as it is, without asking.
    pub(super) async fn instance(&self, text: &str) -> Result<InstanceId, Failure> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let candidates = if is_id_prefix(text) {
            all_instances(&self.client, &InstanceQuery::default())
                .await?
                .instances
        } else {
            let named = InstanceQuery {
                name: Some(text.to_owned()),
                ..InstanceQuery::default()
            };
            all_instances(&self.client, &named).await?.instances
        };
        Ok(choose(text, &candidates)?)
    }

    /// The ids of several, in their order.
    pub(super) async fn instances(&self, texts: &[String]) -> Result<Vec<InstanceId>, Failure> {
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            ids.push(self.instance(text).await?);
        }
        Ok(ids)
    }
}

/// All pages of a query as one, which shows the state of the first.
pub(super) async fn all_instances(
    client: &Client,
    query: &InstanceQuery,
) -> Result<InstancePage, ClientError> {
    let mut query = query.clone();
    let mut all = client.describe_instances(&query).await?;
    while let Some(cursor) = all.next.take() {
        query.cursor = Some(cursor);
        let page = client.describe_instances(&query).await?;
        all.instances.extend(page.instances);
        all.next = page.next;
    }
    Ok(all)
}

fn is_id_prefix(text: &str) -> bool {
    let digits = text.strip_prefix("i-").unwrap_or_default();
    (1..32).contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The one instance that `text` names. Names may be used again after a termination, so one that lives is meant
/// before those that don't.
fn choose(text: &str, candidates: &[Instance]) -> Result<InstanceId, NameError> {
    let meant = |instance: &&Instance| {
        let prefix = is_id_prefix(text) && instance.id.to_string().starts_with(text);
        prefix || instance.name.as_deref() == Some(text)
    };
    let meant: Vec<_> = candidates.iter().filter(meant).collect();
    let alive = |instance: &&&Instance| instance.state != InstanceState::Terminated;
    match meant.iter().filter(alive).collect::<Vec<_>>()[..] {
        [one] => return Ok(one.id),
        [] => (),
        [..] => return Err(ambiguous(text, &meant)),
    }
    match meant[..] {
        [one] => Ok(one.id),
        [] => Err(NameError::Unknown(text.to_owned())),
        [..] => Err(ambiguous(text, &meant)),
    }
}

fn ambiguous(text: &str, meant: &[&Instance]) -> NameError {
    const SHOWN: usize = 10;
    let line = |instance: &&Instance| {
        let name = or_dash(instance.name.as_deref().map(one_line));
        format!("  {}  {name}  {}", instance.id, state_word(instance.state))
    };
    let mut candidates: Vec<_> = meant.iter().take(SHOWN).map(line).collect();
    if meant.len() > SHOWN {
        candidates.push(format!("  and {} more", meant.len() - SHOWN));
    }
    NameError::Ambiguous {
        text: text.to_owned(),
        candidates,
    }
}

#[cfg(test)]
mod tests {
    use super::{NameError, choose, is_id_prefix};
    use crate::cli::instance::tests::instance;
    use moorline_shared::api::instances::InstanceState::{self, Running, Stopped, Terminated};

    fn chosen(text: &str, of: &[(u8, &str, InstanceState)]) -> Result<u8, NameError> {
        let of: Vec<_> = of
            .iter()
            .map(|(id, name, state)| instance(*id, name, *state))
            .collect();
        choose(text, &of).map(|id| id.bytes()[0])
    }

    #[test]
    fn a_name_or_the_beginning_of_an_id_chooses_one() {
        let of = [(0x1a, "web", Running), (0x1b, "db", Stopped)];
        assert_eq!(chosen("web", &of).unwrap(), 0x1a);
        assert_eq!(chosen("i-1b", &of).unwrap(), 0x1b);
        assert!(matches!(chosen("i-2", &of), Err(NameError::Unknown(_))));
        assert!(matches!(chosen("we", &of), Err(NameError::Unknown(_))));
    }

    #[test]
    fn a_living_instance_is_meant_before_dead_ones_of_its_name() {
        assert_eq!(
            chosen("web", &[(1, "web", Terminated), (2, "web", Running)]).unwrap(),
            2
        );
        assert_eq!(chosen("web", &[(1, "web", Terminated)]).unwrap(), 1);
    }

    #[test]
    fn several_are_listed() {
        let of = [
            (0x1a, "web", Running),
            (0x1b, "web", Stopped),
            (0x1c, "i-1", Terminated),
        ];
        insta::assert_snapshot!(chosen("web", &of).unwrap_err());
        insta::assert_snapshot!(chosen("i-1", &of).unwrap_err());
        insta::assert_snapshot!(chosen("db", &of).unwrap_err());
        let dead: Vec<_> = (0..12).map(|id| (id, "web", Terminated)).collect();
        assert!(
            chosen("web", &dead)
                .unwrap_err()
                .to_string()
                .ends_with("and 2 more")
        );
    }

    #[test]
    fn whole_ids_and_names_are_no_prefixes() {
        for text in ["i-", "web", "i-xyz", "i-0123456789abcdef0123456789abcdef", "i-A"] {
            assert!(!is_id_prefix(text), "{text}");
        }
    }
}
