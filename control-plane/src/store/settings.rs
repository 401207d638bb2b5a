//! Where the configuration is stored, and connecting to it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::sqlx::{self, ConnectOptions as _};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector, SqlxSqliteConnector};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::Error;

/// How long a connection is waited for, and a writer for the one before it. Every call begins with reading its key, so that while
/// PostgreSQL is away a caller is told so after this. Opening a connection may take a second where everybody is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until a new SQLite file that another process is making is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Where the configuration is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// `sqlite:///directory/file.db?mode=rwc`, or `postgres://user:password@host/database?sslmode=verify-full&sslrootcert=/ca.pem`.
    /// The password may come from a password file or the environment instead, as PostgreSQL's own tools take it.
    pub url: String,
    /// At most this many connections to PostgreSQL, half of them for reading, or readers of the SQLite file. At least 2; 20 by default.
    pub max_connections: u32,
    /// How many change sets are kept for nodes that come back; a node further behind gets a snapshot.
    pub keep_changes: u32,
    /// For how many days audit entries are kept. 400 by default.
    pub keep_audit_days: u32,
    /// Allows a connection to PostgreSQL on another machine that is not protected by verified TLS.
    pub insecure: bool,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            url: "sqlite://hookwire.db?mode=rwc".into(),
            max_connections: 20,
            keep_changes: 100_000,
            keep_audit_days: 400,
            insecure: false,
        }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("StoreSettings").field("keep_changes", &self.keep_changes).finish_non_exhaustive()
    }
}

/// A store's URL, understood.
enum Target {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
}

/// Where to write and where to read, apart: writers wait for one another, in SQLite for the file and in PostgreSQL for the counter of
/// revisions, and readers would have to wait behind them.
#[derive(Debug)]
pub(super) struct Connections {
    pub write: DatabaseConnection,
    pub read: DatabaseConnection,
}

impl StoreSettings {
    /// Checks the settings without connecting.
    ///
    /// # Errors
    /// [`Error::Setting`], which says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        if self.max_connections < 2 {
            return Err(setting("store.max_connections", "must be at least 2"));
        }
        if self.keep_changes == 0 {
            return Err(setting("store.keep_changes", "must be at least 1"));
        }
        if self.keep_audit_days == 0 {
            return Err(setting("store.keep_audit_days", "must be at least 1"));
        }
        self.target().map(drop)
    }

    pub(super) async fn connect(&self) -> Result<Connections, Error> {
        self.validate()?;
        match self.target()? {
            Target::Sqlite(options) => self.connect_sqlite(options).await,
            Target::Postgres(options) => self.connect_postgres(options).await,
        }
    }

    fn target(&self) -> Result<Target, Error> {
        let wrong = |detail: String| setting("store.url", &detail);
        match self.url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => {
                // Each connection would have a database of its own.
                if self.url.contains(":memory:") || self.url.contains("mode=memory") {
                    return Err(wrong(
                        "must name a file, such as `sqlite:///var/lib/hookwire/hookwire.db?mode=rwc`".into(),
                    ));
                }
                let options = SqliteConnectOptions::from_str(&self.url).map_err(|error| {
                    wrong(format!("is no SQLite URL ({error}); write `sqlite:///directory/file.db?mode=rwc`"))
                })?;
                Ok(Target::Sqlite(options))
            }
            Some("postgres" | "postgresql") => {
                // The parser's error is left out: it may quote the password.
                let options = PgConnectOptions::from_str(&self.url).map_err(|_| {
                    wrong("is no PostgreSQL URL; write `postgres://user@host/database?sslmode=verify-full&sslrootcert=/ca.pem`".into())
                })?;
                let verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull | PgSslMode::VerifyCa);
                let local = options.get_socket().is_some() || is_loopback(options.get_host());
                if !(verified || local || self.insecure) {
                    return Err(wrong(
                        "would send secrets in clear or to anybody: add `sslmode=verify-full` (and `sslrootcert=/ca.pem` \
                         for a private authority), or set `store.insecure = true`"
                            .into(),
                    ));
                }
                Ok(Target::Postgres(options))
            }
            _ => Err(wrong("must begin with `sqlite:` or `postgres:`".into())),
        }
    }

    async fn connect_sqlite(&self, options: SqliteConnectOptions) -> Result<Connections, Error> {
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            // A write that was acknowledged survives the machine's crash.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE)
            .disable_statement_logging();
        let pool = |size| SqlitePoolOptions::new().max_connections(size).acquire_timeout(PATIENCE);
        // The writer first: it makes the file.
        // Switching a new file to WAL does not wait for other processes that do the same (SQLite asks no busy handler there).
        let began = Instant::now();
        let write = loop {
            match pool(1).connect_with(options.clone()).await {
                Err(error) if is_busy(&error) && began.elapsed() < PATIENCE => sleep(AGAIN).await,
                connected => break connected.map_err(cannot_connect)?,
            }
        };
        let read = pool(self.max_connections).connect_with(options).await.map_err(cannot_connect)?;
        Ok(Connections {
            write: SqlxSqliteConnector::from_sqlx_sqlite_pool(write),
            read: SqlxSqliteConnector::from_sqlx_sqlite_pool(read),
        })
    }

    async fn connect_postgres(&self, options: PgConnectOptions) -> Result<Connections, Error> {
        // All writers wait for one row: none may hold it for ever, not even one whose machine is gone.
        let milliseconds = PATIENCE.as_millis().to_string();
        let options = options
            .application_name("hookwire")
            .options([
                ("lock_timeout", milliseconds.as_str()),
                ("statement_timeout", "30000"),
                ("idle_in_transaction_session_timeout", milliseconds.as_str()),
            ])
            .disable_statement_logging();
        let connect = async |size| {
            let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(PATIENCE);
            let pool = pool.connect_with(options.clone()).await.map_err(cannot_connect)?;
            Ok::<_, Error>(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
        };
        let readers = self.max_connections / 2;
        Ok(Connections { write: connect(self.max_connections - readers).await?, read: connect(readers).await? })
    }
}

fn setting(setting: &'static str, detail: &str) -> Error {
    Error::Setting { setting, detail: detail.into() }
}

fn cannot_connect(error: sqlx::Error) -> Error {
    sea_orm::DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into())).into()
}

fn is_loopback(host: &str) -> bool {
    // A host that begins with a slash is the directory of a socket.
    host.starts_with('/')
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether another process has SQLite's file to itself for the moment (`SQLITE_BUSY`, its extended codes included).
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(url: &str) -> Result<(), Error> {
        StoreSettings { url: url.into(), ..Default::default() }.validate()
    }

    #[test]
    fn secrets_do_not_travel_in_clear_to_another_machine() {
        for url in [
            "postgres://u:p@db.example.com/hookwire",
            "postgres://u:p@db.example.com/hookwire?sslmode=prefer",
            "postgres://u:p@db.example.com/hookwire?sslmode=require",
            "postgres://u:p@10.0.0.1/hookwire?sslmode=disable",
        ] {
            let error = validate(url).expect_err(url);
            assert!(error.to_string().contains("sslmode=verify-full"), "{error}");
            assert!(!error.to_string().contains("u:p"), "{error}");
            let allowed = StoreSettings { url: url.into(), insecure: true, ..Default::default() };
            assert!(allowed.validate().is_ok(), "{url}");
        }
    }

    #[test]
    fn verified_or_local_connections_are_taken() {
        for url in [
            "postgres://u:p@db.example.com/hookwire?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgresql://u:p@db.example.com/hookwire?sslmode=verify-ca&sslrootcert=/ca.pem",
            "postgres://u@localhost/hookwire",
            "postgres://u@127.0.0.1:5433/hookwire",
            "postgres://u@[::1]/hookwire",
            "postgres:///hookwire?host=/var/run/postgresql&user=u",
            "sqlite:///tmp/hookwire.db?mode=rwc",
            "sqlite://hookwire.db",
        ] {
            assert!(validate(url).is_ok(), "{url}: {:?}", validate(url));
        }
    }

    #[test]
    fn what_is_no_store_is_refused_with_what_to_write() {
        for url in [
            "",
            "hookwire.db",
            "mysql://localhost/hookwire",
            "sqlite::memory:",
            "sqlite://a?mode=memory",
            "postgres://:::",
        ] {
            assert!(matches!(validate(url), Err(Error::Setting { setting: "store.url", .. })), "{url}");
        }
        let none = StoreSettings { keep_changes: 0, ..Default::default() };
        assert!(matches!(none.validate(), Err(Error::Setting { setting: "store.keep_changes", .. })));
        let one = StoreSettings { max_connections: 1, ..Default::default() };
        assert!(matches!(one.validate(), Err(Error::Setting { setting: "store.max_connections", .. })));
    }
}
