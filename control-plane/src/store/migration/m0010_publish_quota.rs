//! How much may be published for a tenant.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            ColumnDef::new("publish_rate").double().take(),
            ColumnDef::new("publish_burst").integer().not_null().default(0).take(),
        ] {
            // One at a time: SQLite adds no more.
            manager.alter_table(Table::alter().table("tenants").add_column(column).take()).await?;
        }
        Ok(())
    }
}
