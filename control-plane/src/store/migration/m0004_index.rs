//! The tables of the index. On PostgreSQL they are partitioned by day; the partitions are made when they are needed.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

use super::columns::Columns;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

/// What rows are looked up and listed by, each with the key behind it, so that a list is read in its order.
const INDEXES: [(&str, &[&str]); 10] = [
    ("messages", &["tenant"]),
    ("messages", &["tenant", "message"]),
    ("deliveries", &["tenant"]),
    ("deliveries", &["tenant", "message"]),
    ("deliveries", &["tenant", "subscription"]),
    ("attempts", &["tenant"]),
    ("attempts", &["tenant", "message"]),
    ("attempts", &["tenant", "subscription"]),
    ("dead_letters", &["tenant"]),
    ("dead_letters", &["tenant", "subscription"]),
];

/// What failed is asked for most, and is a small part of all: indexes of its own. 1 is `AttemptOutcome::Delivered`, 2 is
/// `Delivery.State.STATE_DELIVERED`.
const FAILED: [&str; 2] = [
    "CREATE INDEX attempts_failed ON attempts (tenant, subscription, key) WHERE outcome <> 1",
    "CREATE INDEX deliveries_failed ON deliveries (tenant, subscription, key) WHERE state <> 2",
];

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let columns = Columns(backend);
        for table in [
            table(backend, "messages")
                .col(columns.id("tenant"))
                .col(columns.id("message"))
                .col(columns.id("event_type"))
                .col(number("publish_time_ms"))
                .col(small("generation"))
                .col(small("partition"))
                .col(number("offset"))
                .col(ColumnDef::new("matched").integer()),
            table(backend, "deliveries")
                .col(columns.id("tenant"))
                .col(columns.id("message"))
                .col(key(backend, "delivery").not_null())
                .col(columns.id("subscription"))
                .col(columns.id("event_type"))
                .col(columns.id("replay"))
                .col(number("publish_time_ms"))
                .col(number("step"))
                .col(small("state"))
                .col(small("dead_reason"))
                .col(small("attempts"))
                .col(key(backend, "last_attempt"))
                .col(number("last_attempt_time_ms"))
                .col(small("status_code"))
                .col(small("error"))
                .col(number("next_time_ms")),
            table(backend, "attempts")
                .col(columns.id("tenant"))
                .col(columns.id("message"))
                .col(key(backend, "delivery").not_null())
                .col(columns.id("subscription"))
                .col(columns.id("event_type"))
                .col(columns.id("replay"))
                .col(small("number"))
                .col(number("time_ms"))
                .col(number("duration_us"))
                .col(small("outcome"))
                .col(small("status_code"))
                .col(small("error"))
                .col(ColumnDef::new("result").blob())
                .col(number("next_time_ms"))
                .col(columns.id("node")),
            table(backend, "dead_letters")
                .col(columns.id("tenant"))
                .col(columns.id("message"))
                .col(key(backend, "delivery").not_null())
                .col(columns.id("subscription"))
                .col(columns.id("event_type"))
                .col(columns.id("replay"))
                .col(number("publish_time_ms"))
                .col(number("dead_time_ms"))
                .col(small("reason"))
                .col(key(backend, "last_attempt"))
                .col(number("last_attempt_time_ms"))
                .col(small("status_code"))
                .col(small("error")),
        ] {
            manager.create_table(table.take()).await?;
        }
        for (table, columns) in INDEXES {
            let mut index = Index::create();
            index.name(format!("{table}_{}", columns.join("_"))).table(table);
            for column in columns.iter().copied().chain(["key"]) {
                index.col(column);
            }
            manager.create_index(index).await?;
        }
        for index in FAILED {
            manager.get_connection().execute_unprepared(index).await?;
        }
        Ok(())
    }
}

/// A table whose rows are in the order of their keys.
fn table(backend: DbBackend, name: &'static str) -> TableCreateStatement {
    let mut table = super::columns::table(name);
    table.col(key(backend, "key").not_null().primary_key());
    if backend == DbBackend::Postgres {
        table.extra("PARTITION BY RANGE (key)");
    }
    table
}

/// 16 bytes in the order of bytes.
fn key(backend: DbBackend, name: &'static str) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        DbBackend::Postgres => column.uuid(),
        _ => column.blob(),
    };
    column
}

fn small(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).integer().not_null().take()
}

fn number(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}
