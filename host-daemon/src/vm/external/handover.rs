//! What the guests of registered VMs prove themselves by.

use moorline_shared::host::Channel;

use super::peer::expected;
use super::place::Place;
use super::record::Active;
use super::registrar::{Entry, Registrar};
use super::{RegisterError, link_key};
use crate::causes::Causes;
use crate::channel::ChannelSpec;
use crate::link::{Admission, Handover, LifeId};

impl Registrar {
    /// The channel of a life, and how the guest's root is told from others there.
    pub(super) fn channel(
        &self,
        life: LifeId,
        active: &Active,
        place: Option<&Place>,
    ) -> Result<ChannelSpec, RegisterError> {
        Ok(match &active.channel {
            Channel::Vsock { cid } => ChannelSpec::Vsock { cid: *cid },
            Channel::Hybrid { path, .. } => ChannelSpec::HybridVsock {
                uds_path: place.map_or_else(|| path.clone(), Place::path),
                peer: expected(active.peer)?,
                admission: self.admission(life)?,
            },
        })
    }

    /// A key that is on disk was given to the guest, or was about to be. Any other is nobody's, so that a new one does as
    /// well.
    fn admission(&self, life: LifeId) -> Result<Admission, RegisterError> {
        if let Some(key) = self.registrations.link_key(life.instance, life.incarnation)? {
            return Ok(Admission::Proof(key));
        }
        Ok(Admission::FirstHello {
            key: link_key::fresh().map_err(RegisterError::Random)?,
            handovers: self.handovers.0.clone(),
        })
    }

    /// A guest is to be given its key: that is kept, and then it is given.
    pub(super) async fn on_handover(&self, handover: Handover) {
        let Handover { life, key } = handover;
        let LifeId {
            instance,
            incarnation,
        } = life;
        // The life may have ended meanwhile, and another begun.
        let now = self.entries.get(&instance).and_then(Entry::life);
        if now != Some(incarnation) {
            return;
        }
        match self.registrations.keep_link_key(instance, incarnation, key).await {
            Ok(()) => self.shards.hand_over(life),
            // The guest comes again.
            Err(error) => {
                tracing::error!(%instance, error = %Causes(&error), "can't keep a guest's link key, so that it is not given");
            }
        }
    }
}
