//! Whether an instance is heard: through the host that it is on, and not once somebody has ended its session.
//!
//! An instance that signs has shown that its session stands. One that is named by its host alone, as for what it reads,
//! has shown nothing: whoever ends its session ends that, too, until the next life of its VM begins.

use moorline_shared::InstanceId;
use moorline_shared::api::session::SESSION_ENDED;
use moorline_shared::api::{ON_BEHALF_OF, ProblemDetails};

use super::records::InstanceRecord;
use crate::model::{Caller, Kept, Problem};

/// Why an instance is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// The host that speaks for it doesn't have it.
    #[error("the instance {0} is not on the host that speaks for it, or is terminated")]
    NotOnHost(InstanceId),
    /// Somebody ended its session in this life of its VM.
    #[error(
        "the session of instance {0} was ended, and nothing is read in its name: stop the instance and start it again, and \
         it has another"
    )]
    SessionEnded(InstanceId),
}

impl Unheard {
    /// What it is in a word that stays the same, in a few words, and as an HTTP status.
    pub(crate) const fn terms(&self) -> (&'static str, &'static str, u16) {
        match self {
            Self::NotOnHost(_) => ("not-on-host", "The host doesn't have the instance", 403),
            Self::SessionEnded(_) => (SESSION_ENDED, "Its session was ended", 403),
        }
    }
}

impl Problem for Unheard {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status) = self.terms();
        ProblemDetails::new(kind, title, status, self.to_string()).at(Some(ON_BEHALF_OF))
    }
}

/// The record of instance `id`, which `caller` is, as it was found; if the instance is heard.
///
/// # Errors
/// [`Unheard`], and why.
pub fn heard(
    found: Option<Kept<InstanceRecord>>,
    id: InstanceId,
    caller: &Caller,
) -> Result<Kept<InstanceRecord>, Unheard> {
    let is_here =
        |found: &Kept<InstanceRecord>| !found.is_terminated() && caller.via.as_ref() == Some(&found.host);
    let instance = found.filter(is_here).ok_or(Unheard::NotOnHost(id))?;
    if caller.session.is_none() && instance.is_out_of_session() {
        return Err(Unheard::SessionEnded(id));
    }
    Ok(instance)
}
