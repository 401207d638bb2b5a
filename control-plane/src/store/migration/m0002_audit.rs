//! Audit entries, remembered answers, and what tenants, event types and API keys have since.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = Columns(manager.get_database_backend());
        let empty_text = |name| ColumnDef::new(name).text().not_null().default("").take();
        let no = |name| ColumnDef::new(name).boolean().not_null().default(false).take();
        for (table, column) in [
            ("tenants", no("validate_payloads")),
            ("tenants", ColumnDef::new("labels").blob().not_null().default(Vec::<u8>::new()).take()),
            ("event_types", empty_text("schema")),
            ("event_types", no("deprecated")),
            ("api_keys", ColumnDef::new("expire_time").timestamp_with_time_zone().take()),
            ("api_keys", empty_text("source_cidrs")),
            ("api_keys", empty_text("scopes")),
        ] {
            manager.alter_table(Table::alter().table(table).add_column(column).take()).await?;
        }
        for table in [
            table("audit_entries")
                .col(columns.id("id").primary_key())
                .col(columns.optional_id("tenant"))
                .col(columns.time("create_time"))
                .col(columns.id("caller"))
                .col(columns.text("minted_by"))
                .col(columns.text("source_address"))
                .col(columns.text("method"))
                .col(columns.id("resource"))
                .col(ColumnDef::new("before").blob())
                .col(ColumnDef::new("after").blob())
                .col(columns.revision())
                .col(columns.text("detail")),
            table("answers")
                .col(columns.id("caller"))
                .col(columns.id("request_id"))
                .col(ColumnDef::new("sealed").blob().not_null())
                .col(columns.time("create_time"))
                .primary_key(Index::create().col("caller").col("request_id")),
        ] {
            manager.create_table(table.take()).await?;
        }
        for (name, table, columns) in [
            ("audit_entries_tenant", "audit_entries", &["tenant", "id"][..]),
            ("audit_entries_resource", "audit_entries", &["resource", "id"]),
            ("audit_entries_caller", "audit_entries", &["caller", "id"]),
            ("audit_entries_time", "audit_entries", &["create_time"]),
            ("answers_time", "answers", &["create_time"]),
        ] {
            let mut index = Index::create();
            index.name(name).table(table);
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index.take()).await?;
        }
        Ok(())
    }
}
