//! What the index costs: rows a second through the real way (log → control plane → database) and what each costs, with many rows
//! there; how far that is from the same rows in tables without any index; and how long it then takes to list a subscription's last
//! attempts through the API.
//!
//! ```sh
//! scripts/bench index
//! scripts/bench index --sqlite --present 500000
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hookwire_bench::report::{Report, quantile, say};
use hookwire_control_plane::config::Settings;
use hookwire_control_plane::store::{Index, Store, StoreSettings};
use hookwire_control_plane::{ControlPlane, Listeners};
use hookwire_log::OpenLog;
use hookwire_log::forward::now_ms;
use hookwire_proto::seal::MasterKeys;
use hookwire_proto::v1::attempt_service_client::AttemptServiceClient;
use hookwire_proto::v1::{GetAttemptRequest, ListAttemptsRequest};
use rand::Rng as _;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;

use database::Database;

mod database;
mod records;

/// Measures the index on SQLite, or on real PostgreSQL.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measures SQLite instead of PostgreSQL
    #[arg(long)]
    sqlite: bool,
    /// Attempts that are there before anything is measured
    #[arg(long, default_value_t = 10_000_000)]
    present: u64,
    /// Attempts that are indexed while it is measured, each with its delivery and its message
    #[arg(long, default_value_t = 200_000)]
    indexed: usize,
    /// Calls that list a subscription's last attempts
    #[arg(long, default_value_t = 3_000)]
    lists: usize,
}

/// Attempts that are there are spread over so many days: what is kept by default.
const DAYS: u64 = 30;
/// Tenants, and subscriptions of each.
const TENANTS: u64 = 100;
const SUBSCRIPTIONS: u64 = 100;
const KEY: &str = "hwk_benchmark_0123456789abcdef0123456789abcdef";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let directory = tempfile::tempdir()?;
    let server = (!arguments.sqlite).then(hookwire_bench::postgres).transpose()?;
    let mut database = Database::create(server.as_deref(), directory.path()).await?;
    fill(&mut database, &arguments, directory.path()).await?;
    database.settle().await?;
    ensure!(database.attempts().await? == arguments.present, "they are there");
    say("indexing");

    // Everything is in the log before the control plane starts, as after an outage.
    let first_ms = now_ms();
    let (log, open_log) = records::open(directory.path().join("log"))?;
    records::append(&*log, arguments.indexed).await?;
    let before = database.bytes().await?;
    let began = database.meter.begin()?;
    let plane = Plane::start(&database, directory.path(), open_log).await?;
    records::wait_until_indexed(&*log).await?;
    let took = began.took()?;
    let there = arguments.present + arguments.indexed as u64;
    ensure!(database.attempts().await? == there, "every attempt is there once");
    let bytes = database.bytes().await?.saturating_sub(before);

    say("writing the same rows plainly");
    let (plainly, rows) = database.write_plainly(first_ms).await?;
    ensure!(rows == 3 * arguments.indexed as u64, "the same rows, but there are {rows}");
    database.settle().await?;
    say("listing");
    let calls = list(plane.api, arguments.lists).await?;

    let mut report = Report::default();
    let rows = rows as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / rows;
    report.add("attempts present", "present", arguments.present as f64, "");
    report.add("rows written: attempts, deliveries, messages", "rows", rows, "");
    report.add("rows a second", "rows_per_s", rows / took.time.as_secs_f64(), "rows/s");
    report.add("ceiling: no index", "ceiling_rows_per_s", rows / plainly.time.as_secs_f64(), "rows/s");
    report.add(
        "rows a second, of the ceiling's",
        "of_ceiling",
        plainly.time.as_secs_f64() / took.time.as_secs_f64(),
        "",
    );
    report.add("CPU a row: control plane", "control_plane_us_per_row", micros(took.own), "µs");
    report.add("CPU a row: database's own processes", "database_us_per_row", micros(took.server), "µs");
    let (cpu, ceiling) = (took.own + took.server, plainly.own + plainly.server);
    report.add("CPU a row, times the ceiling's", "cpu_of_ceiling", cpu.as_secs_f64() / ceiling.as_secs_f64(), "");
    report.add("disk a row, with indexes", "bytes_per_row", bytes as f64 / rows, "bytes");
    for (what, name, mut times) in [
        ("one attempt by name", "get", calls.get),
        ("a subscription's last 50 attempts", "list", calls.list),
        ("a subscription's last 50 failed attempts", "list_failed", calls.list_failed),
    ] {
        for (q, quantile_name) in [(0.5, "p50"), (0.99, "p99")] {
            let ms = quantile(&mut times, q).as_secs_f64() * 1e3;
            report.add(&format!("{what}, {quantile_name}"), &format!("{name}_{quantile_name}_ms"), ms, "ms");
        }
    }
    report.print()?;
    plane.stop().await?;
    database.remove().await
}

/// Fills the database: PostgreSQL by its own means, SQLite through the index.
async fn fill(database: &mut Database, arguments: &Arguments, directory: &Path) -> Result<()> {
    if !database.is_server() {
        say("filling");
        let (log, open_log) = records::open(directory.join("log-before"))?;
        records::append(&*log, usize::try_from(arguments.present)?).await?;
        let plane = Plane::start(database, directory, open_log).await?;
        records::wait_until_indexed(&*log).await?;
        return plane.stop().await;
    }
    let settings = StoreSettings { url: database.url(), ..Default::default() };
    let store = Store::open(&settings, Arc::new(MasterKeys::parse(&MasterKeys::generate())?)).await?;
    let index = Index::new(store.clone());
    for age in 0..i64::try_from(DAYS)? {
        index.make_ahead(now_ms() - age * hookwire_control_plane::store::index::DAY_MS).await?;
    }
    store.close().await;
    database.fill(arguments.present).await
}

/// A control plane that runs here.
struct Plane {
    served: tokio::task::JoinHandle<Result<(), hookwire_control_plane::Error>>,
    shutdown: CancellationToken,
    api: SocketAddr,
}

impl Plane {
    async fn start(database: &Database, directory: &Path, open_log: OpenLog) -> Result<Self> {
        let key_file = directory.join("admin-key");
        fs::write(&key_file, KEY)?;
        let mut settings = Settings::default();
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        (settings.api.listen, settings.push.listen, settings.ops.listen) = (any, any, any);
        settings.api.bootstrap_admin_key_file = Some(key_file);
        settings.store.url = database.url();
        settings.secrets.master_keys = Some(MasterKeys::generate().to_string().into());
        let listeners = Listeners::bind(&settings).await?;
        let api = listeners.api.local_addr()?;
        let shutdown = CancellationToken::new();
        let plane = ControlPlane::open(settings, open_log).await?;
        Ok(Self { served: tokio::spawn(plane.serve(listeners, shutdown.clone())), shutdown, api })
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.served.await??)
    }
}

/// How long each call took.
#[derive(Default)]
struct Calls {
    get: Vec<Duration>,
    list: Vec<Duration>,
    list_failed: Vec<Duration>,
}

/// Calls the API, one call after another, for subscriptions by chance.
async fn list(api: SocketAddr, count: usize) -> Result<Calls> {
    let channel = Channel::from_shared(format!("http://{api}"))?.connect().await?;
    let mut client = AttemptServiceClient::new(channel);
    let mut calls = Calls::default();
    for _ in 0..count {
        let (tenant, subscription) = (rand::rng().random_range(0..TENANTS), rand::rng().random_range(0..SUBSCRIPTIONS));
        let of = |filter: String| {
            authorized(ListAttemptsRequest {
                parent: format!("tenants/t{tenant}/messages/-"),
                filter,
                ..Default::default()
            })
        };
        let (request, began) = (of(format!("subscription = s{subscription}"))?, Instant::now());
        let listed = client.list_attempts(request).await?.into_inner().attempts;
        calls.list.push(began.elapsed());
        let first = listed.first().with_context(|| format!("t{tenant} s{subscription} has attempts"))?;

        let filter = format!("subscription = s{subscription} AND outcome != DELIVERED");
        let (request, began) = (of(filter)?, Instant::now());
        client.list_attempts(request).await?;
        calls.list_failed.push(began.elapsed());

        let (request, began) = (authorized(GetAttemptRequest { name: first.name.clone() })?, Instant::now());
        client.get_attempt(request).await?;
        calls.get.push(began.elapsed());
    }
    Ok(calls)
}

fn authorized<T>(request: T) -> Result<Request<T>> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse()?);
    Ok(request)
}
