//! What else a subscription has. What nobody searches for is in one column, as nodes get it.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            ColumnDef::new("description").text().not_null().default("").take(),
            ColumnDef::new("labels").text().not_null().default("{}").take(),
            ColumnDef::new("settings").blob().take(),
        ] {
            // One at a time: SQLite adds no more.
            manager.alter_table(Table::alter().table("subscriptions").add_column(column).take()).await?;
        }
        Ok(())
    }
}
