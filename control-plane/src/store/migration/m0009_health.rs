//! Which subscriptions fail, and what Hookwire has to say about that and other things.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = Columns(manager.get_database_backend());
        let told = ColumnDef::new("told_expire_time").big_integer().take();
        manager.alter_table(Table::alter().table("secrets").add_column(told).take()).await?;
        for table in [
            table("failing")
                .col(columns.id("tenant"))
                .col(columns.id("subscription"))
                .col(columns.micros("since_time"))
                .primary_key(Index::create().col("tenant").col("subscription"))
                .foreign_key(
                    ForeignKey::create()
                        .from("failing", ("tenant", "subscription"))
                        .to("subscriptions", ("tenant", "id"))
                        .on_delete(ForeignKeyAction::Cascade),
                ),
            table("notices")
                .col(columns.id("tenant"))
                .col(columns.id("event_type"))
                .col(columns.id("subject"))
                .col(columns.text("message_id"))
                .col(columns.text("data"))
                .col(ColumnDef::new("count").big_integer().not_null())
                .col(columns.micros("first_time"))
                .col(columns.micros("last_time"))
                .col(columns.micros("due_time"))
                .primary_key(Index::create().col("tenant").col("event_type").col("subject")),
        ] {
            manager.create_table(table.take()).await?;
        }
        // Whoever tells them looks for those that are due again and again.
        manager.create_index(Index::create().name("notices_due_time").table("notices").col("due_time").take()).await
    }
}
