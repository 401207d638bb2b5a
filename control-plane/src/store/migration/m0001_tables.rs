//! The first tables, and the store's identity.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = Columns(manager.get_database_backend());
        for table in [
            table("store")
                .col(ColumnDef::new("id").integer().not_null().primary_key())
                .col(columns.id("store_id"))
                .col(columns.revision()),
            table("tenants")
                .col(columns.id("id").primary_key())
                .col(columns.text("display_name"))
                .col(columns.time("create_time"))
                .col(columns.time("update_time"))
                .col(columns.revision()),
            table("event_types")
                .col(columns.id("tenant"))
                .col(columns.id("id"))
                .col(columns.text("description"))
                .col(columns.time("create_time"))
                .col(columns.time("update_time"))
                .col(columns.revision())
                .primary_key(Index::create().col("tenant").col("id"))
                .foreign_key(ForeignKey::create().from("event_types", "tenant").to("tenants", "id")),
            table("subscriptions")
                .col(columns.id("tenant"))
                .col(columns.id("id"))
                .col(columns.text("display_name"))
                .col(columns.text("url"))
                .col(columns.text("event_types"))
                .col(ColumnDef::new("shared_key_header").text())
                .col(ColumnDef::new("shared_key_value").blob())
                .col(ColumnDef::new("max_concurrency").integer().not_null())
                .col(ColumnDef::new("state").integer().not_null())
                .col(columns.time("create_time"))
                .col(columns.time("update_time"))
                .col(columns.revision())
                .primary_key(Index::create().col("tenant").col("id"))
                .foreign_key(ForeignKey::create().from("subscriptions", "tenant").to("tenants", "id")),
            table("secrets")
                .col(columns.id("tenant"))
                .col(columns.id("subscription"))
                .col(columns.id("id"))
                .col(ColumnDef::new("key").blob().not_null())
                .col(columns.time("create_time"))
                .col(columns.revision())
                .primary_key(Index::create().col("tenant").col("subscription").col("id"))
                .foreign_key(
                    ForeignKey::create()
                        .from("secrets", ("tenant", "subscription"))
                        .to("subscriptions", ("tenant", "id")),
                ),
            table("api_keys")
                .col(columns.id("id").primary_key())
                .col(columns.text("display_name"))
                .col(ColumnDef::new("role").integer().not_null())
                .col(columns.optional_id("tenant"))
                .col(ColumnDef::new("hash").blob().not_null().unique_key())
                .col(columns.time("create_time"))
                .col(columns.revision())
                .foreign_key(ForeignKey::create().from("api_keys", "tenant").to("tenants", "id")),
            table("changes")
                .col(ColumnDef::new("revision").big_integer().not_null().primary_key())
                .col(ColumnDef::new("change_set").blob().not_null()),
        ] {
            manager.create_table(table.take()).await?;
        }
        // Pages of one tenant's keys.
        manager
            .create_index(Index::create().name("api_keys_tenant").table("api_keys").col("tenant").col("id").take())
            .await?;
        let store_id = uuid::Uuid::new_v4().to_string();
        let row = Query::insert()
            .into_table("store")
            .columns(["id", "store_id", "revision"])
            .values_panic([1.into(), store_id.into(), 0_i64.into()])
            .take();
        manager.get_connection().execute(&row).await?;
        Ok(())
    }
}
