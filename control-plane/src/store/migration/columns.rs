//! Columns as every table has them, the same in both databases.

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

/// A new table.
pub(super) fn table(name: &'static str) -> TableCreateStatement {
    Table::create().table(name).take()
}

/// Columns that both databases treat alike.
pub(super) struct Columns(pub DbBackend);

impl Columns {
    pub fn id(&self, name: &'static str) -> ColumnDef {
        self.optional_id(name).not_null().take()
    }

    /// Text in the order of its bytes, whatever the database's locale: pages depend on it.
    pub fn optional_id(&self, name: &'static str) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        column.text();
        if self.0 == DbBackend::Postgres {
            column.extra(r#"COLLATE "C""#);
        }
        column
    }

    pub fn text(&self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).text().not_null().take()
    }

    pub fn time(&self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).timestamp_with_time_zone().not_null().take()
    }

    /// A time as [`UnixMicros`](crate::store::micros::UnixMicros).
    pub fn micros(&self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).big_integer().not_null().take()
    }

    pub fn revision(&self) -> ColumnDef {
        ColumnDef::new("revision").big_integer().not_null().take()
    }
}
