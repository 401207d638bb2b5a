//! Subscriptions have states, and what waited for one is delivered by a replay.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            ColumnDef::new("state_change").blob().take(),
            ColumnDef::new("state_revision").big_integer().not_null().default(0).take(),
            ColumnDef::new("enabled_revision").big_integer().not_null().default(0).take(),
            ColumnDef::new("waiting_since").big_integer().take(),
        ] {
            // One at a time: SQLite adds no more.
            manager.alter_table(Table::alter().table("subscriptions").add_column(column).take()).await?;
        }
        let columns = Columns(manager.get_database_backend());
        let number = |name: &'static str| ColumnDef::new(name).big_integer().not_null().default(0).take();
        manager
            .create_table(
                table("replays")
                    .col(columns.id("tenant"))
                    .col(columns.id("id"))
                    .col(columns.id("subscription"))
                    .col(ColumnDef::new("spec").blob().not_null())
                    .col(ColumnDef::new("state").integer().not_null())
                    .col(columns.text("detail"))
                    .col(columns.revision())
                    .col(columns.micros("create_time"))
                    .col(columns.micros("update_time"))
                    .col(ColumnDef::new("start_time").big_integer())
                    .col(ColumnDef::new("end_time").big_integer())
                    .col(number("created"))
                    .col(number("changed"))
                    .col(number("found"))
                    .col(number("appended"))
                    .col(number("after_revision"))
                    .col(number("before_revision"))
                    .col(number("first"))
                    .col(number("position"))
                    .col(number("last"))
                    .col(columns.text("owner"))
                    .col(number("owned_until_ms"))
                    .primary_key(Index::create().col("tenant").col("id"))
                    .take(),
            )
            .await?;
        // Whoever runs replays looks for them again and again.
        manager.create_index(Index::create().name("replays_state").table("replays").col("state").take()).await?;
        let of_subscription =
            Index::create().name("replays_subscription").table("replays").col("tenant").col("subscription").take();
        manager.create_index(of_subscription).await
    }
}
