//! A control plane, as a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use hookwire_control_plane::config::Settings;
use hookwire_control_plane::{ControlPlane, Listeners};
use hookwire_log::OpenLog;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

/// The administrator's key of every control plane here.
pub const KEY: &str = "hwk_benchmark_0123456789abcdef0123456789abcdef";
/// Where the master keys come from: not from the arguments, which everybody can read.
const MASTER_KEYS: &str = "HOOKWIRE_BENCH_MASTER_KEYS";

/// One that runs.
pub struct Plane {
    child: Child,
    /// Where its API is.
    pub api: String,
    /// Where nodes connect.
    pub push: String,
}

/// Where it listens, as it says on its first line.
#[derive(Serialize, Deserialize)]
struct Listening {
    api: SocketAddr,
    push: SocketAddr,
}

impl Plane {
    /// Starts one over a store.
    pub async fn start(store: &str, master_keys: &str) -> Result<Self> {
        let mut child = super::program()?
            .args(["--part", "control-plane", "--store", store])
            .env(MASTER_KEYS, master_keys)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("its output")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the control plane did not start")?;
        let Listening { api, push } = serde_json::from_str(&line)?;
        Ok(Self { child, api: format!("http://{api}"), push: format!("http://{push}") })
    }

    /// Ends it.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().await?;
        Ok(())
    }
}

/// Runs until nobody holds the other end of its input.
pub async fn run(store: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let key_file = directory.path().join("admin-key");
    std::fs::write(&key_file, KEY)?;
    let mut settings = Settings::default();
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    (settings.api.listen, settings.push.listen, settings.ops.listen) = (any, any, any);
    settings.api.bootstrap_admin_key_file = Some(key_file);
    settings.store.url = store.to_owned();
    settings.secrets.master_keys = Some(std::env::var(MASTER_KEYS)?.into());
    let listeners = Listeners::bind(&settings).await?;
    let listening = Listening { api: listeners.api.local_addr()?, push: listeners.push.local_addr()? };
    // Nothing here needs the log.
    let no_log: OpenLog =
        Arc::new(|_| async { Err(hookwire_log::Error::Unavailable { detail: "none here".into() }) }.boxed());
    let plane = ControlPlane::open(settings, no_log).await?;
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(plane.serve(listeners, shutdown.clone()));
    say_where(&listening)?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    shutdown.cancel();
    Ok(served.await??)
}

fn say_where(listening: &Listening) -> Result<()> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(listening)?)?;
    Ok(stdout.flush()?)
}
