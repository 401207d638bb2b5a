//! The configuration, in SQLite or PostgreSQL. The only module that knows sea-orm.
//!
//! A write is one transaction: the next revision from the one locked counter row, the rows, and the change set for nodes
//! ([`write`]). A resource is found by a parsed name, which has its tenant in it, so that a query without one can't be written;
//! the rows themselves (`entity`) are private. Secrets are sealed here, and never shown again.

use std::sync::Arc;

use hookwire_proto::seal::MasterKeys;
use sea_orm::TransactionTrait as _;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, SqliteTransactionMode, TransactionOptions};
use sea_orm_migration::MigratorTrait as _;
use tokio::sync::watch;

mod answer;
mod api_key;
mod audit;
mod changes;
mod entity;
mod error;
mod event_type;
mod health;
pub mod index;
mod micros;
mod migration;
mod node;
mod notice;
pub mod replay;
mod reseal;
mod seal;
mod secret;
mod settings;
mod subscription;
mod subscription_settings;
mod subscription_state;
mod tenant;
mod write;

pub use answer::{ANSWER_LIFE, Once};
pub use api_key::NewApiKey;
pub use audit::{Actor, AuditFilter};
pub use changes::Changes;
pub use error::Error;
pub use index::Index;
pub(crate) use micros::UnixMicros;
pub use node::EgressChange;
pub use notice::{NewNotice, Notice};
pub use reseal::{Place, Resealed};
pub use secret::MAX_SECRETS;
pub use settings::StoreSettings;
pub use subscription::{Fields, NewSubscription, SubscriptionAt};
pub use subscription_settings::NewSettings;
pub use subscription_state::{Cause, Seen};

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    connections: Arc<settings::Connections>,
    master_keys: Arc<MasterKeys>,
    store_id: Arc<str>,
    keep_changes: u32,
    keep_audit_days: u32,
    written: Arc<watch::Sender<i64>>,
    /// Who writes.
    actor: Arc<Actor>,
    /// The request, if it is to be carried out once.
    once: Option<Once>,
}

impl Store {
    /// Opens the store and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::NewerSchema`], or [`Error::Unavailable`] where it can't be reached.
    pub async fn open(settings: &StoreSettings, master_keys: Arc<MasterKeys>) -> Result<Self, Error> {
        let connections = settings.connect().await?;
        migrate(&connections.write).await?;
        let row = changes::counter(&connections.write).await?;
        Ok(Self {
            connections: Arc::new(connections),
            master_keys,
            store_id: row.store_id.into(),
            keep_changes: settings.keep_changes,
            keep_audit_days: settings.keep_audit_days,
            written: Arc::new(watch::Sender::new(row.revision)),
            actor: Arc::new(Actor::system("control-plane", "start")),
            once: None,
        })
    }

    /// The same store for somebody: audit entries say who.
    #[must_use]
    pub fn by(&self, actor: Actor) -> Self {
        Self { actor: Arc::new(actor), once: None, ..self.clone() }
    }

    /// Who writes, as audit entries name them.
    fn caller(&self) -> &str {
        &self.actor.caller
    }

    /// Identity of the store, made with its first tables: revisions of another store mean nothing here.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// What seals and opens secrets.
    pub fn master_keys(&self) -> &MasterKeys {
        &self.master_keys
    }

    /// The newest revision that this process has written, as it is written: who watches it needn't wait for a poll.
    pub fn written(&self) -> watch::Receiver<i64> {
        self.written.subscribe()
    }

    /// Closes the connections; what is under way fails.
    pub async fn close(&self) {
        for connection in [&self.connections.write, &self.connections.read] {
            if let Err(error) = connection.close_by_ref().await {
                tracing::warn!(%error, "the store was not closed cleanly");
            }
        }
    }

    fn reader(&self) -> &DatabaseConnection {
        &self.connections.read
    }
}

/// Brings the tables up to date, one process at a time, all or nothing.
async fn migrate(connection: &DatabaseConnection) -> Result<(), Error> {
    let options =
        TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..Default::default() };
    let transaction = connection.begin_with_options(options).await?;
    if transaction.get_database_backend() == DbBackend::Postgres {
        // Any number will do that no other program takes; released with the transaction.
        transaction.execute_unprepared("SELECT pg_advisory_xact_lock(7231654120394417)").await?;
    }
    let unknown = migration::unknown(&transaction).await?;
    if !unknown.is_empty() {
        return Err(Error::NewerSchema { steps: unknown });
    }
    migration::Migrator::up(&transaction, None).await?;
    transaction.commit().await?;
    Ok(())
}

fn not_found(name: impl ToString) -> Error {
    Error::NotFound { name: name.to_string() }
}

/// The version of a resource, from the revision of its last write.
fn etag(revision: i64) -> String {
    format!("\"{revision:x}\"")
}

/// Refuses a write to a resource that is not as its writer knows it; an empty etag is not checked.
fn check_etag(name: impl ToString, revision: i64, asked: &str) -> Result<(), Error> {
    if asked.is_empty() || asked == etag(revision) {
        return Ok(());
    }
    Err(Error::EtagMismatch { name: name.to_string(), current: etag(revision) })
}

fn already_exists(name: impl ToString) -> Error {
    Error::AlreadyExists { name: name.to_string() }
}
