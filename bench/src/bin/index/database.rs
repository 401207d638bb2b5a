//! The database under test, by SQL that no part of Hookwire runs: rows that are there before, sizes, and what it could do at most.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use hookwire_bench::cpu::{self, Meter, Took};
use hookwire_bench::report::say;
use hookwire_control_plane::store::index::{DAY_MS, key};
use hookwire_log::forward::now_ms;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, query_scalar, raw_sql};
use url::Url;
use uuid::Uuid;

use crate::{DAYS, SUBSCRIPTIONS, TENANTS};

/// The tables that rows are written to while it is measured.
const TABLES: [&str; 3] = ["messages", "deliveries", "attempts"];
const NAME: &str = "hookwire_bench_index";

/// A database of this benchmark's own.
pub struct Database {
    kind: Kind,
    /// Measures it and this process.
    pub meter: Meter,
}

enum Kind {
    /// One on a server, and how to reach both.
    Postgres { server: PgConnection, own: PgConnection, url: String },
    /// A file.
    Sqlite { file: PathBuf },
}

impl Database {
    /// A new one: on the server with this URL, which is a superuser's, or else a file in `directory`.
    pub async fn create(server: Option<&str>, directory: &Path) -> Result<Self> {
        let Some(server) = server else {
            return Ok(Self { kind: Kind::Sqlite { file: directory.join("store.db") }, meter: Meter::new(None) });
        };
        let mut url = Url::parse(server)?;
        let mut server = PgConnection::connect(server).await?;
        // A run that failed has left it.
        raw_sql(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {NAME} WITH (FORCE)"))).execute(&mut server).await?;
        raw_sql(AssertSqlSafe(format!("CREATE DATABASE {NAME}"))).execute(&mut server).await?;
        url.set_path(NAME);
        let own = PgConnection::connect(url.as_str()).await?;
        let process: i32 = query_scalar("SELECT pg_backend_pid()").fetch_one(&mut server).await?;
        let process = cpu::parent_of(u32::try_from(process)?)?;
        Ok(Self { kind: Kind::Postgres { server, own, url: url.into() }, meter: Meter::new(Some(process)) })
    }

    /// Whether it is a server, which can fill itself.
    pub fn is_server(&self) -> bool {
        matches!(self.kind, Kind::Postgres { .. })
    }

    /// As the setting `store.url` takes it.
    pub fn url(&self) -> String {
        match &self.kind {
            Kind::Postgres { url, .. } => url.clone(),
            Kind::Sqlite { file } => format!("sqlite://{}?mode=rwc", file.display()),
        }
    }

    /// How many rows `attempts` has.
    pub async fn attempts(&mut self) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM attempts";
        let count: i64 = match &mut self.kind {
            Kind::Postgres { own, .. } => query_scalar(sql).fetch_one(own).await?,
            Kind::Sqlite { file } => query_scalar(sql).fetch_one(&mut open(file).await?).await?,
        };
        Ok(u64::try_from(count)?)
    }

    /// What the rows take on disk, with their indexes.
    pub async fn bytes(&mut self) -> Result<u64> {
        let bytes = match &mut self.kind {
            Kind::Postgres { own, .. } => {
                let sql = "SELECT SUM(pg_total_relation_size(inhrelid))::int8 FROM pg_inherits
                           WHERE inhparent IN ('messages'::regclass, 'deliveries'::regclass, 'attempts'::regclass)";
                u64::try_from(query_scalar::<_, i64>(sql).fetch_one(own).await?)?
            }
            Kind::Sqlite { file } => {
                raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut open(file).await?).await?;
                fs::metadata(file)?.len()
            }
        };
        Ok(bytes)
    }

    /// As after a night: statistics are there, and nothing is left to be written.
    pub async fn settle(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Postgres { own, .. } => {
                raw_sql("VACUUM ANALYZE").execute(&mut *own).await?;
                raw_sql("CHECKPOINT").execute(own).await?;
            }
            Kind::Sqlite { file } => {
                raw_sql("ANALYZE").execute(&mut open(file).await?).await?;
            }
        }
        Ok(())
    }

    /// Fills PostgreSQL's tables where they are: attempts over [`DAYS`] days, evenly, and today's part of deliveries and messages.
    pub async fn fill(&mut self, present: u64) -> Result<()> {
        let Kind::Postgres { own, .. } = &mut self.kind else { return Ok(()) };
        let (now, began) = (now_ms(), Instant::now());
        let midnight = now - now.rem_euclid(DAY_MS);
        let per_day = present.div_ceil(DAYS);
        for age in 0..DAYS {
            // However early today is, it has its part.
            let (first, last) = match i64::try_from(age)? {
                0 => (midnight, now),
                age => (midnight - age * DAY_MS, midnight - (age - 1) * DAY_MS - 1),
            };
            let (from, to) = (age * per_day, present.min((age + 1) * per_day));
            let numbers = format!(
                "(SELECT n, {last} - ({} * (n - {from}) / {per_day})::int8 AS ms, md5(n::text) AS hash,
                  't' || n % {TENANTS} AS tenant, 's' || n / {TENANTS} % {SUBSCRIPTIONS} AS subscription, substr(md5(n::text), 1, 2) < '05' AS failed
                  FROM generate_series({from}::int8, {to} - 1) n) AS numbers",
                last - first
            );
            let uuid = "(lpad(to_hex(ms), 12, '0') || '7' || substr(hash, 1, 19))::uuid";
            let attempts = format!(
                "INSERT INTO attempts SELECT {uuid}, tenant, 'msg_' || hash, hash::uuid, subscription, 'invoice.paid', '', 1,
                   ms, 12345, CASE WHEN failed THEN 2 ELSE 1 END, CASE WHEN failed THEN 503 ELSE 200 END, 0,
                   CASE WHEN failed THEN '\\x2a09747279206c61746572'::bytea END, 0, 'node-1' FROM {numbers}"
            );
            raw_sql(AssertSqlSafe(attempts)).execute(&mut *own).await?;
            if age == 0 {
                let deliveries = format!(
                    "INSERT INTO deliveries SELECT {uuid}, tenant, 'msg_' || hash, hash::uuid, subscription, 'invoice.paid', '',
                       ms, CASE WHEN failed THEN 2 ELSE {} END, CASE WHEN failed THEN 1 ELSE 2 END, 0, 1, {uuid}, ms,
                       CASE WHEN failed THEN 503 ELSE 200 END, 0, 0 FROM {numbers}",
                    i64::MAX
                );
                let messages = format!(
                    "INSERT INTO messages SELECT {uuid}, tenant, 'msg_' || hash, 'invoice.paid', ms, 1, 0, n, 1 FROM {numbers}"
                );
                raw_sql(AssertSqlSafe(deliveries)).execute(&mut *own).await?;
                raw_sql(AssertSqlSafe(messages)).execute(&mut *own).await?;
            }
            say(&format!("{to} of {present} attempts are there, after {:.0?}", began.elapsed()));
        }
        Ok(())
    }

    /// The ceiling: writes the rows since `first_ms` once more, at once, into tables without any index or partition. Returns what it
    /// took, and how many there were.
    pub async fn write_plainly(&mut self, first_ms: i64) -> Result<(Took, u64)> {
        let first = key(first_ms, [0; 16]);
        match &mut self.kind {
            Kind::Postgres { own, .. } => copy(own, first, self.meter).await,
            Kind::Sqlite { file } => insert(file, first, self.meter).await,
        }
    }

    /// Deletes it.
    pub async fn remove(self) -> Result<()> {
        if let Kind::Postgres { mut server, own, .. } = self.kind {
            own.close().await?;
            raw_sql(AssertSqlSafe(format!("DROP DATABASE {NAME} WITH (FORCE)"))).execute(&mut server).await?;
        }
        Ok(())
    }
}

/// By `COPY`, from memory.
async fn copy(connection: &mut PgConnection, first: Uuid, meter: Meter) -> Result<(Took, u64)> {
    let mut copies = Vec::new();
    for table in TABLES {
        raw_sql(AssertSqlSafe(format!("CREATE TABLE plain_{table} (LIKE {table})"))).execute(&mut *connection).await?;
        let copy = format!("COPY (SELECT * FROM {table} WHERE key >= '{first}') TO STDOUT (FORMAT binary)");
        let copied = connection.copy_out_raw(&copy).await?;
        copies.push((table, copied.try_fold(Vec::new(), append).await?));
    }
    let began = meter.begin()?;
    let (mut rows, mut transaction) = (0, connection.begin().await?);
    for (table, copied) in copies {
        let mut copy = transaction.copy_in_raw(&format!("COPY plain_{table} FROM STDIN (FORMAT binary)")).await?;
        for part in copied.chunks(1 << 16) {
            copy.send(part).await?;
        }
        rows += copy.finish().await?;
    }
    transaction.commit().await?;
    Ok((began.took()?, rows))
}

/// By `INSERT … SELECT`, into a file of their own.
async fn insert(file: &Path, first: Uuid, meter: Meter) -> Result<(Took, u64)> {
    let mut connection = open(file).await?;
    let plain = file.with_file_name("plain.db");
    // What is opened without `mode=rwc` attaches nothing that it would have to create.
    fs::File::create(&plain)?;
    let attach = format!(
        "ATTACH '{}' AS plain; PRAGMA plain.journal_mode = WAL; PRAGMA plain.synchronous = FULL",
        plain.display()
    );
    raw_sql(AssertSqlSafe(attach)).execute(&mut connection).await?;
    for table in TABLES {
        let create = format!("CREATE TABLE plain.{table} AS SELECT * FROM main.{table} WHERE FALSE");
        raw_sql(AssertSqlSafe(create)).execute(&mut connection).await?;
    }
    let began = meter.begin()?;
    let (mut rows, mut transaction) = (0, connection.begin().await?);
    for table in TABLES {
        let insert = format!("INSERT INTO plain.{table} SELECT * FROM main.{table} WHERE key >= $1");
        let inserted = sqlx::query(AssertSqlSafe(insert)).bind(first).execute(&mut *transaction).await?;
        rows += inserted.rows_affected();
    }
    transaction.commit().await?;
    Ok((began.took()?, rows))
}

async fn append(mut all: Vec<u8>, part: impl AsRef<[u8]>) -> Result<Vec<u8>, sqlx::Error> {
    all.extend_from_slice(part.as_ref());
    Ok(all)
}

async fn open(file: &Path) -> Result<SqliteConnection> {
    let url = format!("sqlite://{}", file.display());
    SqliteConnection::connect(&url).await.context("the store's file")
}
