//! The index in the store: rows written in bulk, read in pages.
//!
//! * [`Rows`]: what is written; `write`: PostgreSQL in one statement a table, SQLite in one transaction
//! * `partitions`: the days: made ahead and when they are needed, dropped when they are old
//! * `read`: one row, or a page of a list
//! * `convert`: rows as the API has them
//!
//! Every row has a key that begins with its time ([`key`]): lists are in its order, newest first, and a day is a range of it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use sea_orm::{DatabaseBackend, DbErr, RuntimeErr, sqlx};
use uuid::Uuid;

use super::{Error, Store};

mod convert;
mod partitions;
mod postgres;
mod read;
mod sqlite;

pub use super::entity::index::attempt::Model as AttemptRow;
pub use super::entity::index::dead_letter::Model as DeadLetterRow;
pub use super::entity::index::delivery::Model as DeliveryRow;
pub use super::entity::index::message::Model as MessageRow;
pub use partitions::{DAY_MS, day};
pub use read::{Column, Condition, Listed, Op, Query, Value};

/// The tables, in the order in which every transaction goes through them.
const TABLES: [&str; 4] = ["messages", "deliveries", "attempts", "dead_letters"];

/// A handle on the index; clones share it.
#[derive(Debug, Clone)]
pub struct Index {
    store: Store,
    /// Days whose partitions are known to be there.
    days: Arc<Mutex<HashSet<i64>>>,
}

/// Rows to be written together. No two of a table have the same key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Added, or completed by how many subscriptions they matched.
    pub messages: Vec<MessageRow>,
    /// Added, or replaced where they are further.
    pub deliveries: Vec<DeliveryRow>,
    /// Added.
    pub attempts: Vec<AttemptRow>,
    /// Added.
    pub dead_letters: Vec<DeadLetterRow>,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.messages.len() + self.deliveries.len() + self.attempts.len() + self.dead_letters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn keys(&self) -> impl Iterator<Item = Uuid> {
        (self.messages.iter().map(|row| row.key))
            .chain(self.deliveries.iter().map(|row| row.key))
            .chain(self.attempts.iter().map(|row| row.key))
            .chain(self.dead_letters.iter().map(|row| row.key))
    }

    /// In the order of their keys, so that two writers of the same rows never wait for each other.
    fn sort(&mut self) {
        self.messages.sort_unstable_by_key(|row| row.key);
        self.deliveries.sort_unstable_by_key(|row| row.key);
        self.attempts.sort_unstable_by_key(|row| row.key);
        self.dead_letters.sort_unstable_by_key(|row| row.key);
    }
}

/// The key of a row: its time, 48 bits of milliseconds since 1970, and the first 80 bits of what tells it from the others.
pub fn key(time_ms: i64, id: [u8; 16]) -> Uuid {
    let (time, id) = (first_key(time_ms).as_u128(), u128::from_be_bytes(id));
    Uuid::from_u128(time | id >> 48)
}

/// The time that a key begins with.
pub fn time_of(key: Uuid) -> i64 {
    i64::try_from(key.as_u128() >> 80).expect("48 bits")
}

/// The smallest key of a time. What was before 1970 counts as 1970, what is beyond 48 bits as the end.
fn first_key(time_ms: i64) -> Uuid {
    const LAST_MS: u64 = (1 << 48) - 1;
    let time = u64::try_from(time_ms).unwrap_or_default().min(LAST_MS);
    Uuid::from_u128(u128::from(time) << 80)
}

impl Index {
    /// The index of a store.
    pub fn new(store: Store) -> Self {
        Self { store, days: Arc::default() }
    }

    /// Writes rows, all or none. Those that are there already stay as they are, but for a delivery that is further than before
    /// and for what was not known of a message.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: try again. Another: some row can't be stored.
    pub async fn write(&self, mut rows: Rows) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort();
        match self.backend() {
            DatabaseBackend::Postgres => self.write_postgres(&rows).await,
            _ => self.write_sqlite(rows).await,
        }
    }

    fn backend(&self) -> DatabaseBackend {
        self.store.connections.write.get_database_backend()
    }
}

/// As the rest of the store says it.
fn failed(error: sqlx::Error) -> Error {
    DbErr::Exec(RuntimeErr::SqlxError(Arc::new(error))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_times() {
        let id = [0xff; 16];
        assert!(key(1, id) < key(2, [0; 16]));
        assert_eq!(time_of(key(1_700_000_000_000, id)), 1_700_000_000_000);
        assert_eq!(key(-5, [0; 16]), Uuid::nil());
        assert_eq!(key(i64::MAX, id), Uuid::max());
        assert_eq!(
            key(0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]).as_bytes()[6..],
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        );
    }
}
