//! How far a replay is within a message that many subscribe to, and how long it has worked.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = Columns(manager.get_database_backend());
        for column in [
            columns.id("after_subscription").default("").take(),
            ColumnDef::new("worked_ms").big_integer().not_null().default(0).take(),
        ] {
            // One at a time: SQLite adds no more.
            manager.alter_table(Table::alter().table("replays").add_column(column).take()).await?;
        }
        Ok(())
    }
}
