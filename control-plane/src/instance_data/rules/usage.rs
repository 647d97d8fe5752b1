//! The bounds of an instance's data, and where long values live.

use moorline_shared::EntryPath;

use super::{Data, Step};
use crate::instance_data::records::Usage;
use crate::instance_data::refusal::Refusal;
use crate::model::content::LongValue;
use crate::model::{Content, Kept, Load, Stop};

impl Data<'_, '_> {
    /// Counts a value against the bounds and stores it where long values live.
    pub(super) fn keep(
        &mut self,
        path: &EntryPath,
        content: &Content,
        replaces: Option<u64>,
    ) -> Step<Content> {
        let limits = self.env.settings.limits;
        if content.len() > limits.value_bytes {
            return Err(Stop::Refused(Refusal::ValueTooLong {
                found: content.len(),
                most: limits.value_bytes,
            }));
        }
        let mut usage = self.usage()?;
        usage.entries += u64::from(replaces.is_none());
        usage.bytes = usage.bytes + content.len() - replaces.unwrap_or(0);
        if usage.entries > limits.entries {
            return Err(Stop::Refused(Refusal::TooManyEntries { most: limits.entries }));
        }
        if usage.bytes > limits.instance_bytes {
            return Err(Stop::Refused(Refusal::TooManyBytes {
                found: usage.bytes,
                most: limits.instance_bytes,
            }));
        }
        self.set_usage(usage);
        self.store_long(path, content)?;
        Ok(content.named())
    }

    pub(super) fn store_long(&mut self, path: &EntryPath, content: &Content) -> Result<(), Load> {
        let Some(digest) = content.named().digest() else {
            return Ok(());
        };
        // Only when a replay comes here can the bytes be gone; an empty row stands for them until it is removed.
        let value = content.at_hand().cloned().unwrap_or_default();
        let id = (self.id(), path.clone(), digest);
        if self.v.get::<LongValue>(&id)?.is_none() {
            let (instance, path, digest) = id;
            self.v.put(&LongValue {
                instance,
                path,
                digest,
                value,
            });
        }
        Ok(())
    }

    pub(super) fn usage(&mut self) -> Result<Usage, Load> {
        if let Some(usage) = self.usage {
            return Ok(usage);
        }
        let found = self.v.get::<Usage>(&self.id())?;
        let usage = found.map_or(
            Usage {
                instance: self.id(),
                entries: 0,
                bytes: 0,
            },
            Kept::into_inner,
        );
        self.usage = Some(usage);
        Ok(usage)
    }

    /// Only a usage that changes is written, so that changes of equal length don't wait for each other.
    pub(super) fn set_usage(&mut self, usage: Usage) {
        if self.usage != Some(usage) {
            self.v.put(&usage);
            self.usage = Some(usage);
        }
    }
}
