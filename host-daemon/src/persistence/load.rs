//! What an earlier daemon kept, read once at the start.

use moorline_shared::{InstanceId, Revision};

use super::folder::{Folder, FolderError, Name};
use super::frame::Damage;
use super::key::CacheKey;
use super::mark::Mark;
use super::position::Position;
use super::view::{self, Heading};
use crate::cache::Image;
use crate::causes::Causes;
use crate::link::ShardsHandle;

/// How it was with a view when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It showed everything up to the cursor.
    InStep,
    /// It had lost changes, and has to be asked for.
    Behind,
}

/// What an earlier daemon kept, as far as it can be used.
#[derive(Debug, Default)]
pub struct Restored {
    /// The control plane that it is of; `None` if there is nothing.
    pub deployment: Option<String>,
    /// Up to where the views show everything; `None` if nobody knows.
    pub cursor: Option<Revision>,
    /// How long ago it was known to be the present state, in milliseconds.
    pub age_ms: u64,
    /// The instances that were this host's and whose files can be used.
    pub instances: Vec<(InstanceId, Kept)>,
    /// What they may see of themselves, until the shards have it.
    pub(super) images: Vec<Image>,
    /// How many files were set aside.
    pub set_aside: u64,
}

impl Restored {
    /// Has the shards begin with it, and lets go of the images.
    pub(super) fn hand_over(&mut self, shards: &ShardsHandle) {
        shards.feed_clock().restored(crate::link::now(), self.age_ms);
        for image in std::mem::take(&mut self.images) {
            let state = if image.behind_since.is_some() {
                Kept::Behind
            } else {
                Kept::InStep
            };
            self.instances.push((image.instance, state));
            shards.restore(image);
        }
        if let Some(deployment) = &self.deployment {
            shards.deployment(deployment);
        }
    }
}

/// Reads all files. What can't be used is named in the log and moved out of the way; what a newer release wrote stays
/// until it is written anew.
pub(super) fn load(folder: &Folder, key: &CacheKey, now: &Mark) -> Result<Restored, FolderError> {
    let mut loading = Loading {
        folder,
        key,
        now,
        set_aside: 0,
    };
    let position = loading.position();
    let mut views = Vec::new();
    for instance in folder.instances()? {
        views.extend(loading.view(instance));
    }
    let of_position = position.as_ref().map(|position| position.deployment.clone());
    let of_first = || views.first().map(|(heading, _)| heading.deployment.clone());
    let deployment = of_position.or_else(of_first);
    views.retain(|(heading, image)| loading.is_of(deployment.as_deref(), heading, image.instance));
    let oldest = || views.iter().map(|(heading, _)| heading.age_at(now)).max();
    Ok(Restored {
        age_ms: match &position {
            Some(position) => position.age_at(now),
            None => oldest().unwrap_or_default(),
        },
        cursor: position.map(|position| position.cursor),
        deployment,
        set_aside: loading.set_aside,
        instances: Vec::new(),
        images: views.into_iter().map(|(_, image)| image).collect(),
    })
}

struct Loading<'a> {
    folder: &'a Folder,
    key: &'a CacheKey,
    now: &'a Mark,
    set_aside: u64,
}

impl Loading<'_> {
    fn position(&mut self) -> Option<Position> {
        let file = self.read(Name::Position)?;
        let position = Position::decode(&file);
        self.usable(Name::Position, position)
    }

    fn view(&mut self, instance: InstanceId) -> Option<(Heading, Image)> {
        let name = Name::View(instance);
        let file = self.read(name)?;
        let view = view::decode(&file, instance, self.key, self.now);
        self.usable(name, view)
    }

    fn is_of(&mut self, deployment: Option<&str>, heading: &Heading, instance: InstanceId) -> bool {
        let is = deployment == Some(&heading.deployment);
        if !is {
            let foreign = Damage::Foreign {
                found: format!("deployment {}", heading.deployment),
                expected: format!("deployment {}", deployment.unwrap_or_default()),
            };
            self.damaged(Name::View(instance), &foreign);
        }
        is
    }

    fn read(&mut self, name: Name) -> Option<Vec<u8>> {
        let file = self.folder.read(name).transpose()?;
        self.usable(name, file)
    }

    fn usable<T>(&mut self, name: Name, read: Result<T, Damage>) -> Option<T> {
        read.map_err(|damage| self.damaged(name, &damage)).ok()
    }

    fn damaged(&mut self, name: Name, damage: &Damage) {
        let file = self.folder.path(name);
        let (file, why) = (file.display(), Causes(damage));
        if matches!(damage, Damage::Newer { .. }) {
            return tracing::warn!(%file, %why, "a file of the cache can't be used and is fetched anew");
        }
        match self.folder.set_aside(name) {
            Ok(aside) => {
                self.set_aside += 1;
                let aside = aside.display();
                tracing::error!(%file, %why, %aside, "a file of the cache can't be used, was set aside and is fetched anew");
            }
            Err(error) => {
                let error = Causes(&error);
                tracing::error!(%file, %why, %error, "a file of the cache can't be used and is fetched anew");
            }
        }
    }
}
