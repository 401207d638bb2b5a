//! `hookwire data-plane`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use hookwire_data_plane::config::Role;
use hookwire_data_plane::{Error, Listeners, Node};
use hookwire_log::kafka::{self, KafkaLog};
use hookwire_log::{Layout, Log, OpenLog};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::process::{self, Signals, WrongSettings};
use crate::traces::Traces;
use crate::{cli, settings};

/// How much longer than its stages the whole may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the subcommand.
pub async fn run(args: cli::Plane) -> anyhow::Result<()> {
    let settings: settings::DataPlane = process::configure(args.settings)?;
    settings.validate().map_err(WrongSettings::from)?;
    let delivers = settings.node.does(Role::Deliver);
    let master_keys = delivers.then(|| settings::master_keys(&settings.secrets)).transpose()?;
    let signals = Signals::catch()?;
    let bind = async |setting, address| {
        TcpListener::bind(address).await.with_context(|| format!("{setting}: can't listen on {address}"))
    };
    let listeners = Listeners {
        publish: bind("listen.publish", settings.listen.publish).await?,
        ops: bind("listen.ops", settings.listen.ops).await?,
    };
    process::write_listening(
        args.listening_file.as_deref(),
        &json!({
            "pid": std::process::id(),
            "publish": listeners.publish.local_addr()?,
            "ops": listeners.ops.local_addr()?,
        }),
    )?;
    let shutdown = CancellationToken::new();
    let deadline = settings.node.drain_timeout + STOP_TIMEOUT;
    let traces = Traces::open(&settings.traces, &settings.node.id)?;
    let node = Node {
        settings: settings.node(),
        master_keys,
        open_log: open_log(settings.kafka),
        listeners,
        spans: traces.spans(),
        on_ready: Box::new(|| {}),
    };
    let service = node.run(shutdown.clone()).map(|result| result.map_err(classify));
    let ended = process::run_until_signal(signals, service, shutdown, deadline).await;
    traces.close().await;
    ended
}

/// Opens the log in Kafka.
pub fn open_log(kafka: kafka::Settings) -> OpenLog {
    Arc::new(move |layout: Layout| {
        let kafka = kafka.clone();
        async move { Ok(KafkaLog::open(kafka, Arc::new(layout)).await? as Arc<dyn Log>) }.boxed()
    })
}

/// Tells wrong settings from failures.
pub fn classify(error: Error) -> anyhow::Error {
    match error {
        Error::Setting(_) | Error::Log(hookwire_log::Error::Setting { .. }) => WrongSettings::from(error),
        error => error.into(),
    }
}
