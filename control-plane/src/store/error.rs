//! What the store could not do, told apart by what the caller does.

use hookwire_proto::v1::{self, secret::Algorithm};
use sea_orm::sqlx::postgres::PgDatabaseError;
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::sqlx::{self, error::DatabaseError};
use sea_orm::{DbErr, RuntimeErr, SqlErr};

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such resource.
    #[error("{name} does not exist")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// There is one with this name already.
    #[error("{name} exists already")]
    AlreadyExists {
        /// Its name.
        name: String,
    },
    /// It is not as the writer knows it.
    #[error("{name} has been changed: its etag is {current} by now; read it again and repeat the change")]
    EtagMismatch {
        /// Its name.
        name: String,
        /// Its etag.
        current: String,
    },
    /// Another request had this `request_id`.
    #[error("request_id was sent with another request within 24 hours; make up a new one")]
    RequestIdReused,
    /// What was answered to this `request_id` is sealed under a master key that was taken away.
    #[error(
        "this request was carried out before, and what was answered can't be read any more: an operator has taken away a master \
         key; read what it made, and rotate a secret that was to be shown"
    )]
    AnswerLost,
    /// Resources below it stand in the way of deleting it.
    #[error("{name} still has event types, subscriptions or API keys; delete those first, or set force")]
    HasChildren {
        /// Its name.
        name: String,
    },
    /// A subscription names event types that its tenant has not registered.
    #[error(
        "not registered with {tenant}: {}; register with CreateEventType first, or use a prefix such as `invoice.*`",
        first(event_types)
    )]
    EventTypesNotRegistered {
        /// Name of the tenant.
        tenant: String,
        /// The types.
        event_types: Vec<String>,
    },
    /// A new subscription names event types that are deprecated.
    #[error("deprecated with {tenant}: {}; name what replaces them", first(event_types))]
    EventTypesDeprecated {
        /// Name of the tenant.
        tenant: String,
        /// The types.
        event_types: Vec<String>,
    },
    /// The subscription has as many secrets as it may have.
    #[error("{subscription} has {limit} secrets, which is the most; delete one first")]
    TooManySecrets {
        /// Name of the subscription.
        subscription: String,
        /// How many it may have.
        limit: u64,
    },
    /// A subscription keeps an HMAC secret that has no end.
    #[error("{name} is the only HMAC secret of its subscription that has no end; create another or rotate it first")]
    LastSecret {
        /// Name of the secret.
        name: String,
    },
    /// There is nothing to be replaced.
    #[error("{subscription} has no secret of {}; create one first", algorithm.as_str_name())]
    NoSecret {
        /// Name of the subscription.
        subscription: String,
        /// The algorithm of the new secret.
        algorithm: Algorithm,
    },
    /// Tokens are signed with HMAC.
    #[error("{name} is an ed25519 secret, and tokens are signed with HMAC; promote an HMAC secret")]
    SignsNoToken {
        /// Name of the secret.
        name: String,
    },
    /// A replay that has ended does not go on.
    #[error("{name} has ended ({}); create another", state.as_str_name())]
    ReplayEnded {
        /// Its name.
        name: String,
        /// How it has ended.
        state: v1::replay::State,
    },
    /// The tenant has as many replays under way as it may have.
    #[error("{tenant} has {limit} replays that have not ended, which is the most; wait for one, or cancel one")]
    TooManyReplays {
        /// Name of the tenant.
        tenant: String,
        /// How many it may have.
        limit: u64,
    },
    /// The database can't be reached, or can't do this now. Try again.
    #[error("the store is unavailable")]
    Unavailable(#[source] DbErr),
    /// A setting cannot work.
    #[error("{setting} {detail}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What to write instead.
        detail: String,
    },
    /// Something is sealed under a master key that is not configured.
    #[error("something is sealed under master key {key_id}, which is not configured here; add it to the master keys")]
    MasterKeyMissing {
        /// Which key.
        key_id: String,
    },
    /// A newer version has changed the tables.
    #[error(
        "the store's tables were changed by a newer version of Hookwire ({}): run that version or a newer one; to go back to this one \
         ({}), restore a backup from before",
        steps.join(", "),
        env!("CARGO_PKG_VERSION")
    )]
    NewerSchema {
        /// The steps that this version does not know.
        steps: Vec<String>,
    },
    /// What is stored is not what this version stores.
    #[error("the store holds what can't be read: {detail}")]
    Corrupt {
        /// What, and where.
        detail: String,
    },
    /// The database refused what should have worked.
    #[error("the store failed")]
    Failed(#[source] DbErr),
}

/// The first few, so that a message stays readable.
fn first(event_types: &[String]) -> String {
    let (told, rest) = event_types.split_at(event_types.len().min(5));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", told.join(", "))
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        let unavailable = match &error {
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => match &**error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed => true,
                sqlx::Error::Database(error) => may_pass(&**error),
                _ => false,
            },
            _ => false,
        };
        if unavailable { Self::Unavailable(error) } else { Self::Failed(error) }
    }
}

/// Whether the database's own error is about its condition and not about the statement.
fn may_pass(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    if error.try_downcast_ref::<PgDatabaseError>().is_some() {
        // Connection, resources, an operator's intervention; read-only (a standby), timeouts, serialization, deadlock.
        const CLASSES: [&str; 3] = ["08", "53", "57"];
        const CODES: [&str; 5] = ["25006", "25P03", "55P03", "40001", "40P01"];
        CLASSES.iter().any(|class| code.starts_with(class)) || CODES.contains(&&*code)
    } else if error.try_downcast_ref::<SqliteError>().is_some() {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN: the lower byte of the extended code.
        const CODES: [i32; 8] = [5, 6, 7, 8, 9, 10, 13, 14];
        code.parse::<i32>().is_ok_and(|code| CODES.contains(&(code & 0xff)))
    } else {
        false
    }
}

/// Says what a violated constraint means: a key is taken, or a row is not there or is referred to.
pub(super) fn on_conflict(error: DbErr, taken: impl FnOnce() -> Error, reference: impl FnOnce() -> Error) -> Error {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => taken(),
        Some(SqlErr::ForeignKeyConstraintViolation(_)) => reference(),
        _ => error.into(),
    }
}
