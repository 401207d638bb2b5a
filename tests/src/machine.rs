//! What this machine has: tools, Kafka, PostgreSQL, free ports. `scripts/test` starts the servers and says where they are.

use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, bail};
use hookwire_log::kafka;

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// A file below `.tools`, where `scripts/test` installs what is not Rust.
///
/// # Errors
/// When it is not there.
pub fn tool(path: &str) -> Result<PathBuf> {
    let file = root().join(".tools").join(path);
    if !file.exists() {
        bail!("there is no {}: run scripts/test once, it installs what these tests need", file.display());
    }
    Ok(file)
}

/// The binary under test: built by cargo beside the test or the benchmark that runs.
///
/// # Errors
/// When it is not there.
pub fn hookwire() -> Result<PathBuf> {
    let own = env::current_exe()?;
    // A test lies in target/<profile>/deps, a benchmark in target/<profile>.
    let directory = own.parent().context("a program lies in a directory")?;
    let directory = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    let binary = directory.join("hookwire");
    if !binary.exists() {
        bail!("there is no {}: run `cargo build --workspace --all-targets` first", binary.display());
    }
    Ok(binary)
}

/// Real Kafka and PostgreSQL, as `scripts/test` started them.
#[derive(Clone, Debug)]
pub struct Servers {
    /// `host:port` of the brokers' listeners: with SASL_SSL where there is an authority, in clear otherwise.
    pub kafka: Vec<String>,
    /// PEM file of the authority of those listeners.
    pub kafka_ca: Option<PathBuf>,
    /// URL of PostgreSQL.
    pub postgres: String,
    /// PEM file of the authority of PostgreSQL's certificate.
    pub postgres_ca: PathBuf,
}

impl Servers {
    /// The servers, or `None`: a plain `cargo test` has none.
    ///
    /// # Errors
    /// When only a part of the variables is set.
    pub fn from_environment() -> Result<Option<Self>> {
        if env::var_os("HOOKWIRE_TEST_KAFKA_TLS").is_none() {
            return Ok(None);
        }
        let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set; scripts/test sets it"));
        Ok(Some(Self {
            kafka: vec![variable("HOOKWIRE_TEST_KAFKA_TLS")?],
            kafka_ca: Some(variable("HOOKWIRE_TEST_KAFKA_CA")?.into()),
            postgres: variable("HOOKWIRE_TEST_POSTGRES")?,
            postgres_ca: variable("HOOKWIRE_TEST_POSTGRES_CA")?.into(),
        }))
    }

    /// The same servers, Kafka in clear and without a password: for benchmarks, as others' figures are of that.
    ///
    /// # Errors
    /// When the variable is not set.
    pub fn in_clear(self) -> Result<Self> {
        let kafka = env::var("HOOKWIRE_TEST_KAFKA").context("HOOKWIRE_TEST_KAFKA is not set")?;
        Ok(Self { kafka: vec![kafka], kafka_ca: None, ..self })
    }

    /// How tests themselves get to Kafka.
    pub fn kafka_settings(&self) -> kafka::Settings {
        let sasl =
            || kafka::Sasl { user: "hookwire".into(), password: Some("secret".into()), ..kafka::Sasl::default() };
        kafka::Settings {
            brokers: self.kafka.clone(),
            tls: (self.kafka_ca.clone()).map(|authority| kafka::Tls { ca_file: Some(authority), ..Default::default() }),
            sasl: self.kafka_ca.is_some().then(sasl),
            ..Default::default()
        }
    }

    /// Creates a database and returns its URL, with verified TLS.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn create_database(&self, name: &str) -> Result<String> {
        let create = format!("create database {name}");
        let output = Command::new("psql").args([self.postgres.as_str(), "-qc", &create]).output()?;
        if !output.status.success() {
            bail!("cannot create the database {name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let (server, _) = self.postgres.rsplit_once('/').context("the URL of PostgreSQL names a database")?;
        Ok(format!("{server}/{name}?sslmode=verify-full&sslrootcert={}", self.postgres_ca.display()))
    }
}

/// How far the ports of brokers are apart.
const PORTS_EACH: u16 = 10;

/// A Kafka of one test's own, whose brokers it may kill; wiped when it is dropped.
pub struct Kafka {
    directory: PathBuf,
    port: u16,
    brokers: u16,
}

impl Kafka {
    /// Starts brokers, numbered from 1, whose files lie in `directory`. Of three, each record has three copies, two of them at least.
    ///
    /// # Errors
    /// What `scripts/kafka` says.
    pub fn start(directory: &Path, brokers: u16) -> Result<Self> {
        let port = free_ports(PORTS_EACH * brokers);
        let kafka = Self { directory: directory.join("kafka"), port, brokers };
        kafka.restart()?;
        Ok(kafka)
    }

    /// `kill -9` of a broker.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, broker: u16) -> Result<()> {
        self.script(&["kill", &broker.to_string()])
    }

    /// Starts those that do not run again and waits until all answer.
    ///
    /// # Errors
    /// When they do not come back.
    pub fn restart(&self) -> Result<()> {
        self.script(&["start", &self.brokers.to_string()])
    }

    /// Lets a broker stand still, its connections open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, broker: u16) -> Result<()> {
        self.script(&["pause", &broker.to_string()])
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, broker: u16) -> Result<()> {
        self.script(&["resume", &broker.to_string()])
    }

    /// These servers, with this Kafka in the place of theirs.
    pub fn instead(&self, servers: Servers) -> Servers {
        Servers {
            kafka: (0..self.brokers).map(|at| format!("127.0.0.1:{}", self.port + PORTS_EACH * at + 2)).collect(),
            kafka_ca: Some(self.directory.join("tls/ca.pem")),
            ..servers
        }
    }

    fn script(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(root().join("scripts/kafka"))
            .args(arguments)
            .env("KAFKA_DIR", &self.directory)
            .env("KAFKA_PORT", self.port.to_string())
            .output()?;
        if !output.status.success() {
            bail!("scripts/kafka {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // What is left of it after a failure here is told by the next run, which finds the port taken.
        drop(self.script(&["wipe"]));
    }
}

/// A PostgreSQL of one test's own, which it may stop; wiped when it is dropped.
pub struct Postgres {
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one. Its files lie where the user that it runs as can get.
    ///
    /// # Errors
    /// What `scripts/postgres` says.
    pub fn start() -> Result<Self> {
        let port = free_ports(1);
        let postgres = Self { directory: env::temp_dir().join(format!("hookwire-postgres-{port}")), port };
        postgres.restart()?;
        Ok(postgres)
    }

    /// Ends it; whoever is connected is thrown out.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        self.script("stop")
    }

    /// Starts it again and waits until it answers.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart(&self) -> Result<()> {
        self.script("start")
    }

    /// These servers, with this PostgreSQL in the place of theirs.
    pub fn instead(&self, servers: Servers) -> Servers {
        Servers {
            postgres: format!("postgresql://postgres:secret@127.0.0.1:{}/postgres", self.port),
            postgres_ca: self.directory.join("tls/ca.pem"),
            ..servers
        }
    }

    fn script(&self, argument: &str) -> Result<()> {
        let output = Command::new(root().join("scripts/postgres"))
            .arg(argument)
            .env("PG_DIR", &self.directory)
            .env("PG_PORT", self.port.to_string())
            .output()?;
        if !output.status.success() {
            bail!("scripts/postgres {argument}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // As for Kafka.
        drop(self.script("wipe"));
    }
}

/// The first of `count` ports of the loopback, one after another, where nobody listens; given out once. Below the ports
/// of outgoing connections, so that none of those takes one while the process that had it is being restarted.
///
/// # Panics
/// When thousands of ports are taken.
pub fn free_ports(count: u16) -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).expect("smaller than COUNT");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(count, Ordering::Relaxed)) % (COUNT - count);
        if (port..port + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
    panic!("every port from {FIRST} on is taken");
}
