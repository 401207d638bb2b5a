//! `hookwire control-plane`.

use std::time::Duration;

use hookwire_control_plane::{ControlPlane, Error, Listeners, config, store};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::process::{self, Signals, WrongSettings};
use crate::{cli, data_plane, settings};

/// How much longer than it allows its calls the whole may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the subcommand.
pub async fn run(args: cli::Plane) -> anyhow::Result<()> {
    let settings: settings::ControlPlane = process::configure(args.settings)?;
    let drain_timeout = settings.drain.timeout;
    settings.validate().map_err(WrongSettings::from)?;
    let open_log = data_plane::open_log(settings.kafka.clone());
    let settings = settings.control_plane();
    let signals = Signals::catch()?;
    let listeners = Listeners::bind(&settings).await?;
    process::write_listening(
        args.listening_file.as_deref(),
        &json!({
            "pid": std::process::id(),
            "api": listeners.api.local_addr()?,
            "push": listeners.push.local_addr()?,
            "ops": listeners.ops.local_addr()?,
        }),
    )?;
    let shutdown = CancellationToken::new();
    let service = {
        let shutdown = shutdown.clone();
        async move {
            let control_plane = ControlPlane::open(settings, open_log).await.map_err(classify)?;
            control_plane.serve(listeners, shutdown).await.map_err(classify)
        }
    };
    process::run_until_signal(signals, service, shutdown, drain_timeout + STOP_TIMEOUT).await
}

/// Tells wrong settings from failures.
pub fn classify(error: Error) -> anyhow::Error {
    match error {
        Error::Config(config::Error::Store(store::Error::Unavailable(_))) => error.into(),
        Error::Config(_) | Error::Store(store::Error::Setting { .. }) | Error::Tls { .. } => {
            WrongSettings::from(process::with_causes(&error))
        }
        _ => error.into(),
    }
}
