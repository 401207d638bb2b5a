//! Secrets have an algorithm, an end, and a turn at the token.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // One column at a time: SQLite takes no more.
        for column in [
            // What there is already is HMAC.
            ColumnDef::new("algorithm").integer().not_null().default(1).take(),
            ColumnDef::new("public_key").blob().take(),
            ColumnDef::new("expire_time").timestamp_with_time_zone().take(),
            ColumnDef::new("promoted").big_integer().not_null().default(0).take(),
            ColumnDef::new("changed").big_integer().not_null().default(0).take(),
        ] {
            manager.alter_table(Table::alter().table("secrets").add_column(column).take()).await?;
        }
        let created = Query::update().table("secrets").value("changed", Expr::col("revision")).take();
        manager.get_connection().execute(&created).await?;
        // Whoever deletes the expired ones looks for them again and again.
        manager
            .create_index(Index::create().name("secrets_expire_time").table("secrets").col("expire_time").take())
            .await?;
        Ok(())
    }
}
