//! Which nodes are connected, and the addresses that requests to recipients come from.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};
use crate::store::micros::UnixMicros;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = Columns(manager.get_database_backend());
        for table in [
            table("nodes")
                .col(columns.id("id").primary_key())
                .col(columns.micros("connect_time"))
                .col(columns.micros("update_time"))
                .col(ColumnDef::new("node").blob().not_null()),
            table("egress")
                .col(ColumnDef::new("id").integer().not_null().primary_key())
                .col(columns.text("addresses"))
                .col(ColumnDef::new("complete").boolean().not_null())
                .col(columns.micros("update_time")),
        ] {
            manager.create_table(table.take()).await?;
        }
        let row = Query::insert()
            .into_table("egress")
            .columns(["id", "addresses", "complete", "update_time"])
            .values_panic([1.into(), "".into(), false.into(), UnixMicros::now().0.into()])
            .take();
        manager.get_connection().execute(&row).await?;
        Ok(())
    }
}
