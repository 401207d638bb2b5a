//! Times are numbers. SQLite kept them as texts whose fractions have as many digits as they need, and texts compare otherwise
//! than times: `05.12Z` comes after `05.121Z`.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

/// Each table, its column, and whether it may be empty.
const TIMES: [(&str, &str, bool); 12] = [
    ("tenants", "create_time", false),
    ("tenants", "update_time", false),
    ("event_types", "create_time", false),
    ("event_types", "update_time", false),
    ("subscriptions", "create_time", false),
    ("subscriptions", "update_time", false),
    ("secrets", "create_time", false),
    ("secrets", "expire_time", true),
    ("api_keys", "create_time", false),
    ("api_keys", "expire_time", true),
    ("audit_entries", "create_time", false),
    ("answers", "create_time", false),
];

/// Each index, its table and its column.
const INDEXES: [(&str, &str, &str); 3] = [
    ("secrets_expire_time", "secrets", "expire_time"),
    ("audit_entries_time", "audit_entries", "create_time"),
    ("answers_time", "answers", "create_time"),
];

#[allow(elided_lifetimes_in_paths, reason = "the trait's macro needs the method as it is declared there")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, table, _) in INDEXES {
            let mut index = Index::drop();
            index.name(name).table(table);
            manager.drop_index(index).await?;
        }
        for (table, column, optional) in TIMES {
            let mut micros = ColumnDef::new("micros");
            micros.big_integer();
            if !optional {
                micros.not_null().default(0);
            }
            manager.alter_table(Table::alter().table(table).add_column(micros).take()).await?;
            let micros = match manager.get_database_backend() {
                DbBackend::Postgres => format!("(EXTRACT(EPOCH FROM {column}) * 1000000)::BIGINT"),
                // `2026-11-26T05:44:49.123456Z`, with up to six digits after a point, or neither.
                _ => format!(
                    "CAST(strftime('%s', {column}) AS INTEGER) * 1000000
                    + CAST(substr(rtrim(substr({column}, 21), 'Z') || '000000', 1, 6) AS INTEGER)"
                ),
            };
            let update = format!("UPDATE {table} SET micros = {micros}");
            manager.get_connection().execute_unprepared(&update).await?;
            manager.alter_table(Table::alter().table(table).drop_column(column).take()).await?;
            manager.alter_table(Table::alter().table(table).rename_column("micros", column).take()).await?;
        }
        for (name, table, column) in INDEXES {
            manager.create_index(Index::create().name(name).table(table).col(column).take()).await?;
        }
        Ok(())
    }
}
