//! What changes and listings will read, asked for at once.

use moorline_shared::{EntryPath, InstanceId};

use super::Data;
use crate::instance_data::records::{EntryRecord, Usage};
use crate::model::content::LongValue;
use crate::model::{Content, Load, View};

impl Data<'_, '_> {
    /// Has what changes of these entries read at hand: the entries, and the long values that they are given.
    pub fn foresee_changes<'c>(
        &mut self,
        changes: impl IntoIterator<Item = (&'c EntryPath, Option<&'c Content>)>,
    ) -> Result<(), Load> {
        foresee_changes(self.v, self.id(), changes)
    }

    /// Has these values at hand, wherever they live.
    pub fn foresee_values<'c>(
        &mut self,
        contents: impl IntoIterator<Item = (&'c EntryPath, &'c Content)>,
    ) -> Result<(), Load> {
        foresee_values(self.v, self.id(), contents)
    }
}

/// Has what changes of an instance's entries read at hand: the entries, and the long values that they are given.
pub fn foresee_changes<'c>(
    v: &mut View<'_>,
    instance: InstanceId,
    changes: impl IntoIterator<Item = (&'c EntryPath, Option<&'c Content>)>,
) -> Result<(), Load> {
    // All are asked for before any ends the step, so that one more step has all.
    let mut all = v.foresee::<Usage>([instance]);
    for (path, given) in changes {
        let entry = v.foresee::<EntryRecord>([(instance, path.clone())]);
        let value = foresee_values(v, instance, given.map(|given| (path, given)));
        all = all.and(entry).and(value);
    }
    all
}

fn foresee_values<'c>(
    v: &mut View<'_>,
    instance: InstanceId,
    contents: impl IntoIterator<Item = (&'c EntryPath, &'c Content)>,
) -> Result<(), Load> {
    let long = contents
        .into_iter()
        .filter_map(|(path, content)| Some((instance, path.clone(), content.named().digest()?)));
    v.foresee::<LongValue>(long)
}
