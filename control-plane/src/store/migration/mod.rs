//! The tables, made and changed in numbered steps that are never edited once they are released. The same steps for SQLite
//! and PostgreSQL.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, EntityTrait as _, QueryOrder as _};
use sea_orm_migration::prelude::*;
use sea_orm_migration::seaql_migrations;

mod columns;
mod m0001_tables;
mod m0002_audit;
mod m0003_subscription_settings;
mod m0004_index;
mod m0005_nodes;
mod m0006_secrets;
mod m0007_times;
mod m0008_states;
mod m0009_health;
mod m0010_publish_quota;
mod m0011_replays_of_ranges;

/// All steps, in order.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_tables::Migration),
            Box::new(m0002_audit::Migration),
            Box::new(m0003_subscription_settings::Migration),
            Box::new(m0004_index::Migration),
            Box::new(m0005_nodes::Migration),
            Box::new(m0006_secrets::Migration),
            Box::new(m0007_times::Migration),
            Box::new(m0008_states::Migration),
            Box::new(m0009_health::Migration),
            Box::new(m0010_publish_quota::Migration),
            Box::new(m0011_replays_of_ranges::Migration),
        ]
    }
}

/// Steps that the database has made and this version does not know: a newer one's, in order.
pub(super) async fn unknown(connection: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    Migrator::install(connection).await?;
    let known: BTreeSet<String> = Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
    let made = seaql_migrations::Entity::find().order_by_asc(seaql_migrations::Column::Version).all(connection).await?;
    Ok(made.into_iter().map(|step| step.version).filter(|version| !known.contains(version)).collect())
}
