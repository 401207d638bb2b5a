//! What this machine has: tools, Kafka, PostgreSQL, free ports. `scripts/test` starts the servers and says where they are.

use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, bail};

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

/// The binary under test: built by cargo beside the test that runs.
///
/// # Errors
/// When it is not there.
pub fn hookwire() -> Result<PathBuf> {
    let test = env::current_exe()?;
    let directory = test.parent().and_then(Path::parent).context("a test lies in target/<profile>/deps")?;
    let binary = directory.join("hookwire");
    if !binary.exists() {
        bail!("there is no {}: run `cargo build --workspace --all-targets` first", binary.display());
    }
    Ok(binary)
}

/// Real Kafka and PostgreSQL, as `scripts/test` started them.
#[derive(Clone, Debug)]
pub struct Servers {
    /// `host:port` of Kafka's listener with SASL_SSL.
    pub kafka: String,
    /// PEM file of the authority of that listener.
    pub kafka_ca: PathBuf,
    /// URL of PostgreSQL.
    pub postgres: String,
    /// PEM file of the authority of PostgreSQL's certificate.
    pub postgres_ca: PathBuf,
}

impl Servers {
    /// The servers, or `None` after saying so on stderr: a plain `cargo test` has none.
    ///
    /// # Errors
    /// When only a part of the variables is set.
    pub fn from_environment(test: &str) -> Result<Option<Self>> {
        if env::var_os("HOOKWIRE_TEST_KAFKA_TLS").is_none() {
            eprintln!("SKIPPED {test}: production's parts are not running; scripts/test starts them");
            return Ok(None);
        }
        let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set; scripts/test sets it"));
        Ok(Some(Self {
            kafka: variable("HOOKWIRE_TEST_KAFKA_TLS")?,
            kafka_ca: variable("HOOKWIRE_TEST_KAFKA_CA")?.into(),
            postgres: variable("HOOKWIRE_TEST_POSTGRES")?,
            postgres_ca: variable("HOOKWIRE_TEST_POSTGRES_CA")?.into(),
        }))
    }
}

/// A port of the loopback where nobody listens, given out once. Below the ports of outgoing connections, so that none
/// of those takes it while the process that had it is being restarted.
///
/// # Panics
/// When thousands of ports are taken.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).expect("smaller than COUNT");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("every port from {FIRST} on is taken");
}
