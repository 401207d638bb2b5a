//! The days of the index: partitions on PostgreSQL, ranges of keys on SQLite.
//!
//! Several control planes do this at once: each takes a lock that ends with its transaction, and looks again before it acts. A
//! partition is made as a table and attached, which lets reads and writes of the other days go on.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use sea_orm::{ConnectionTrait as _, DatabaseBackend, DatabaseTransaction, DbErr, Statement, TransactionTrait as _};

use super::{Error, Index, Rows, TABLES, first_key, time_of};

/// A day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;
/// Rows that one step takes from SQLite, so that writers of configuration get their turn.
const STEP: i64 = 1_000;
/// Taken by whoever makes or drops partitions. Any number will do that no other program takes.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7231654120394418)";
/// Dropping waits for readers of the table and holds up those that come after it: not for long.
const DROP_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";

/// The day of a time, counted from 1970.
pub fn day(time_ms: i64) -> i64 {
    time_ms.div_euclid(DAY_MS)
}

impl Index {
    /// Makes sure that a time's day and the two after it have partitions.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn make_ahead(&self, now_ms: i64) -> Result<(), Error> {
        let today = day(now_ms);
        self.make(&(today..today + 3).collect()).await
    }

    /// Makes sure that rows have partitions to be in.
    pub(super) async fn make_for(&self, rows: &Rows) -> Result<(), Error> {
        let days: BTreeSet<_> = rows.keys().map(|key| day(time_of(key))).collect();
        self.make(&days).await
    }

    async fn make(&self, days: &BTreeSet<i64>) -> Result<(), Error> {
        if self.backend() != DatabaseBackend::Postgres {
            return Ok(());
        }
        let missing: Vec<_> = days.iter().copied().filter(|day| !self.days().contains(day)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let transaction = self.store.connections.write.begin().await?;
        transaction.execute_unprepared(LOCK).await?;
        for day in &missing {
            for table in TABLES {
                make(&transaction, table, *day).await?;
            }
        }
        transaction.commit().await?;
        self.days().extend(missing);
        Ok(())
    }

    /// Forgets which partitions are there: one was dropped by somebody else.
    pub(super) fn forget_days(&self) {
        self.days().clear();
    }

    /// Takes all rows of days before `first_day`. On SQLite in small steps. Returns how many partitions or rows it took.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: what is left is taken the next time.
    pub async fn drop_before(&self, first_day: i64) -> Result<u64, Error> {
        self.days().retain(|day| *day >= first_day);
        match self.backend() {
            DatabaseBackend::Postgres => self.drop_partitions(first_day).await,
            _ => self.delete_before(first_day).await,
        }
    }

    async fn drop_partitions(&self, first_day: i64) -> Result<u64, Error> {
        let mut dropped = 0;
        for table in TABLES {
            let old = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                       WHERE i.inhparent = $1::regclass AND c.relname < $2 ORDER BY c.relname";
            let values = [table.into(), partition(table, first_day).into()];
            let find = Statement::from_sql_and_values(DatabaseBackend::Postgres, old, values);
            for row in self.store.connections.write.query_all_raw(find).await? {
                let name: String = row.try_get("", "relname")?;
                let transaction = self.store.connections.write.begin().await?;
                transaction.execute_unprepared(DROP_TIMEOUT).await?;
                transaction.execute_unprepared(LOCK).await?;
                transaction.execute_unprepared(&format!("DROP TABLE IF EXISTS {name}")).await?;
                transaction.commit().await?;
                tracing::info!(partition = name, "a day of the index is dropped");
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    async fn delete_before(&self, first_day: i64) -> Result<u64, Error> {
        let mut deleted = 0;
        for table in TABLES {
            let sql = format!(
                "DELETE FROM {table} WHERE \"key\" IN (SELECT \"key\" FROM {table} WHERE \"key\" < $1 ORDER BY \"key\" LIMIT {STEP})"
            );
            loop {
                let values = [first_key(first_day * DAY_MS).into()];
                let step = Statement::from_sql_and_values(DatabaseBackend::Sqlite, &sql, values);
                let taken = self.store.connections.write.execute_raw(step).await?.rows_affected();
                deleted += taken;
                if taken == 0 {
                    break;
                }
            }
        }
        Ok(deleted)
    }

    fn days(&self) -> MutexGuard<'_, std::collections::HashSet<i64>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn make(transaction: &DatabaseTransaction, table: &str, day: i64) -> Result<(), DbErr> {
    let name = partition(table, day);
    let there = Statement::from_sql_and_values(
        DatabaseBackend::Postgres,
        "SELECT to_regclass($1) IS NOT NULL AS there",
        [name.as_str().into()],
    );
    let row = transaction.query_one_raw(there).await?;
    if row.is_some_and(|row| row.try_get("", "there").unwrap_or(false)) {
        return Ok(());
    }
    let [from, to] = [day, day + 1].map(|day| first_key(day * DAY_MS));
    transaction.execute_unprepared(&format!("CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")).await?;
    let attach = format!("ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')");
    transaction.execute_unprepared(&attach).await?;
    Ok(())
}

/// The partition of a table for a day. In the order of the days.
fn partition(table: &str, day: i64) -> String {
    format!("{table}_d{day:08}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_in_the_order_of_their_days() {
        assert_eq!(partition("attempts", day(1_700_000_000_000)), "attempts_d00019675");
        assert!(partition("attempts", 9) < partition("attempts", 10));
    }
}
