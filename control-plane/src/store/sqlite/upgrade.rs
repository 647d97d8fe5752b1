//! Files that earlier releases made, brought to the present schema when they are opened.

use rusqlite::Connection;

use super::schema::SCHEMA;

/// What makes a file of schema 1 one of schema 2, and so on. A step never changes once it was released.
const STEPS: [&str; 1] = [
    // 2: a restored backup begins an epoch, and those before it are remembered.
    "CREATE TABLE epochs (first INTEGER PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
     INSERT INTO epochs SELECT 1, value FROM meta WHERE name = 'epoch';
     DELETE FROM meta WHERE name = 'epoch';",
];

const _: () = assert!(
    STEPS.len() as u64 + 1 == SCHEMA,
    "each schema has a step to the next"
);

/// Brings a file of schema `found`, which must be at least 1, to the present one. Each step is done as a whole or not
/// at all, so that one that was cut off is begun again.
pub(super) fn to_present(db: &mut Connection, found: u64) -> rusqlite::Result<()> {
    for (schema, step) in (2_u64..).zip(STEPS).filter(|(schema, _)| *schema > found) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        transaction.execute(
            "UPDATE meta SET value = ?1 WHERE name = 'schema'",
            [schema.cast_signed()],
        )?;
        transaction.commit()?;
        tracing::info!(schema, "the store was brought to a newer schema");
    }
    Ok(())
}
