//! The tables, made and changed in numbered steps that are never edited once they are released. The same steps for SQLite
//! and PostgreSQL.

use sea_orm_migration::prelude::*;

mod columns;
mod m0001_tables;
mod m0002_audit;
mod m0003_subscription_settings;
mod m0004_index;
mod m0006_secrets;
mod m0007_times;

/// All steps, in order.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_tables::Migration),
            Box::new(m0002_audit::Migration),
            Box::new(m0003_subscription_settings::Migration),
            Box::new(m0004_index::Migration),
            Box::new(m0006_secrets::Migration),
            Box::new(m0007_times::Migration),
        ]
    }
}
