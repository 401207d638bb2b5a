//! What a process does whatever it runs: signals, draining with a deadline, exit codes.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Sources;
use crate::{cli, telemetry};

/// Settings or arguments are wrong: exit code 2, as for a wrong command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongSettings(pub String);

impl WrongSettings {
    /// For `map_err`: an error that the one who runs the program can mend in the settings.
    pub fn from(error: impl std::fmt::Display) -> anyhow::Error {
        Self(error.to_string()).into()
    }
}

/// An error with what caused it, each said once: some errors have their cause in their own text.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// Runs a program on a runtime of its own.
pub fn block_on(program: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let result = runtime.block_on(program);
    // What still runs is past its deadline.
    runtime.shutdown_background();
    result
}

/// Lets the process have as many files open as it may: each connection is one, and who starts a process that does not ask for more
/// gives it 1,024, as systemd does, since programs that use `select` can't do with more.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(?current, ?maximum, %error, "the limit of open files stays as it is");
    }
}

/// Says on standard error why a program failed, if it did.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // There is nobody left to tell when this can't be written.
    let _ = writeln!(io::stderr(), "hookwire: {}", with_causes(&*error));
    ExitCode::from(if error.is::<WrongSettings>() { 2 } else { 1 })
}

/// Reads the settings, and sets up how the process logs.
pub fn configure<S: Configured>(sources: cli::Settings) -> anyhow::Result<S> {
    let settings: S = load(sources)?;
    telemetry::init(settings.telemetry()).map_err(WrongSettings::from)?;
    raise_open_files();
    Ok(settings)
}

/// Reads settings.
pub fn load<S: Configured>(sources: cli::Settings) -> anyhow::Result<S> {
    Sources::of_process(sources.config, sources.set).load(S::default()).map_err(WrongSettings::from)
}

/// Settings of a subcommand.
pub trait Configured: Default + Serialize + DeserializeOwned {
    /// How it logs.
    fn telemetry(&self) -> &telemetry::Settings;
}

/// Writes where a process listens to the file that it was told, if it was.
pub fn write_listening(path: Option<&Path>, listening: &serde_json::Value) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    write_private(path, &format!("{listening}\n")).with_context(|| format!("--listening-file {}", path.display()))
}

/// Writes a file that only its owner may read: whole, or not at all, also in spite of a crash.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// SIGTERM and SIGINT, caught from when this is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches both from now on.
    pub fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("signals can't be caught");
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// The next of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs `service` until it ends or a signal comes. Then cancels `shutdown` and lets it drain: not longer than `deadline`, and
/// not after a second signal.
pub async fn run_until_signal(
    mut signals: Signals,
    service: impl Future<Output = anyhow::Result<()>>,
    shutdown: CancellationToken,
    deadline: Duration,
) -> anyhow::Result<()> {
    tokio::pin!(service);
    tokio::select! {
        result = &mut service => return result,
        () = signals.next() => {}
    }
    tracing::info!("draining; a second signal ends at once");
    shutdown.cancel();
    tokio::select! {
        result = &mut service => result,
        () = signals.next() => anyhow::bail!("ended by a second signal before everything was drained"),
        () = tokio::time::sleep(deadline) => {
            anyhow::bail!("not drained within {}", humantime::format_duration(deadline))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{setting}: {source}")]
        struct Outer {
            setting: &'static str,
            source: io::Error,
        }
        let outer = Outer { setting: "api.listen", source: io::Error::other("in use") };
        let error = anyhow::Error::from(outer).context("no server");
        assert_eq!(with_causes(&*error), "no server: api.listen: in use");
    }

    #[test]
    fn wrong_settings_are_told_from_failures() {
        let wrong = Err(WrongSettings::from("telemetry.format")).context("in dev");
        assert_eq!(format!("{:?}", exit_code(wrong)), format!("{:?}", ExitCode::from(2)));
        assert_eq!(format!("{:?}", exit_code(Err(anyhow::anyhow!("x")))), format!("{:?}", ExitCode::from(1)));
        assert_eq!(format!("{:?}", exit_code(Ok(()))), format!("{:?}", ExitCode::SUCCESS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_drain_is_ended_at_the_deadline() {
        let signals = Signals::catch().expect("signals");
        let shutdown = CancellationToken::new();
        let (deadline, drained) = (Duration::from_secs(30), shutdown.clone());
        let service = async move {
            drained.cancelled().await;
            std::future::pending().await
        };
        // Its own kind of signal: raised by another task of this process.
        let raised = run_until_signal(signals, service, shutdown.clone(), deadline);
        tokio::pin!(raised);
        assert!(futures::poll!(&mut raised).is_pending());
        let pid = std::process::id().to_string();
        std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill");
        let error = raised.await.expect_err("a deadline").to_string();
        assert!(shutdown.is_cancelled());
        assert_eq!(error, "not drained within 30s");
    }
}
