//! `hookwire dev`: both planes in one process, the same code over loopback, with everything in one data directory.
//!
//! * `directory`: the data directory
//! * `demo`: the demo tenant and its keys
//! * `welcome`: what is printed when it is ready

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use hookwire_control_plane::ControlPlane;
use hookwire_control_plane::store::StoreSettings;
use hookwire_data_plane::Node;
use hookwire_proto::seal::MasterKeys;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::process::{self, Signals, WrongSettings};
use crate::traces::Traces;
use crate::{cli, control_plane, data_plane, settings};

mod demo;
mod directory;
mod welcome;

use directory::Directory;
use welcome::{Keys, Listening};

/// The file with the master key.
const MASTER_KEY_FILE: &str = "master-key";
/// The file that says where a running `dev` listens.
const LISTENING_FILE: &str = "listening.json";
/// How long the control plane may drain after the data plane has, and how long everything may take besides.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the subcommand.
pub async fn run(args: cli::Dev) -> anyhow::Result<()> {
    let mut settings: settings::Dev = process::configure(args.settings)?;
    if !args.listen.is_loopback() {
        let how = "what `dev` serves is not encrypted: choose a loopback address such as 127.0.0.1";
        return Err(WrongSettings::from(format!("--listen {}: {how}", args.listen)));
    }
    let signals = Signals::catch()?;

    // Locked until the end.
    let directory = Arc::new(Directory::open(&args.data_dir).map_err(WrongSettings::from)?);
    directory.remove(LISTENING_FILE)?;
    let master_keys = master_keys(&directory)?;
    let keys = demo::keys(&directory)?;

    let ports = Ports::bind(SocketAddr::new(args.listen, args.port)).await?;
    let listening = ports.listening(&directory)?;
    settings.deliver.egress.refuse_ports.extend(listening.ports());
    let node_settings = node_settings(&settings, &listening);
    node_settings.validate().map_err(WrongSettings::from)?;

    // The node drains first, and the control plane still reads.
    let open_log = hookwire_log::embedded::shared(directory.file("log"));
    let control_plane_settings = control_plane_settings(&settings, &listening, &directory);
    let control_plane =
        ControlPlane::open(control_plane_settings, open_log.clone()).await.map_err(control_plane::classify)?;
    demo::ensure(control_plane.store(), &keys).await?;
    let for_control_plane =
        hookwire_control_plane::Listeners { api: ports.api, push: ports.push, ops: ports.control_plane_ops };

    let deadline = settings.node.drain_timeout + 2 * DRAIN_TIMEOUT;
    let traces = Traces::open(&settings.traces, &node_settings.node.id)?;
    let node = Node {
        settings: node_settings,
        master_keys: Some(master_keys),
        open_log,
        listeners: hookwire_data_plane::Listeners { publish: ports.publish, ops: ports.data_plane_ops },
        spans: traces.spans(),
        on_ready: {
            let directory = directory.clone();
            Box::new(move || {
                if let Err(error) = welcome(&directory, &args.data_dir, &listening, &keys) {
                    tracing::error!(%error, "the welcome can't be written");
                }
            })
        },
    };

    let (shutdown, node_gone) = (CancellationToken::new(), CancellationToken::new());
    let service = run_both(
        node.run(shutdown.clone()).map(|ended| ended.map_err(data_plane::classify)),
        control_plane.serve(for_control_plane, node_gone.clone()).map(|ended| ended.map_err(control_plane::classify)),
        node_gone,
    );
    let ended = process::run_until_signal(signals, service, shutdown, deadline).await;
    traces.close().await;
    directory.remove(LISTENING_FILE)?;
    ended
}

/// Runs both planes. The node drains first: until it has, the control plane is there for it.
async fn run_both(
    node: impl Future<Output = anyhow::Result<()>> + Send,
    control_plane: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    node_gone: CancellationToken,
) -> anyhow::Result<()> {
    let mut control_plane = tokio::spawn(control_plane);
    tokio::select! {
        ended = node => ended?,
        ended = &mut control_plane => {
            ended.context("the control plane panicked")??;
            anyhow::bail!("the control plane ended though nobody told it to");
        }
    }
    node_gone.cancel();
    tokio::time::timeout(DRAIN_TIMEOUT, control_plane)
        .await
        .context("the control plane did not drain in time")?
        .context("the control plane panicked")?
}

/// Reads the master key, which is made at the first start.
fn master_keys(directory: &Directory) -> anyhow::Result<Arc<MasterKeys>> {
    let text = match directory.read(MASTER_KEY_FILE)? {
        Some(text) => text.into(),
        None => {
            let key = MasterKeys::generate();
            directory.write(MASTER_KEY_FILE, &key)?;
            key
        }
    };
    let keys = MasterKeys::parse(&text).with_context(|| directory.file(MASTER_KEY_FILE).display().to_string())?;
    Ok(Arc::new(keys))
}

fn control_plane_settings(
    settings: &settings::Dev,
    listening: &Listening,
    directory: &Directory,
) -> hookwire_control_plane::config::Settings {
    use hookwire_control_plane::config::{
        ApiSettings, EgressSettings, OpsSettings, PushSettings, SecretSettings, Settings,
    };
    let egress = &settings.deliver.egress;
    Settings {
        api: ApiSettings { listen: listening.api, ..Default::default() },
        push: PushSettings { listen: listening.push, ..Default::default() },
        ops: OpsSettings { listen: listening.control_plane_ops },
        store: StoreSettings { url: sqlite_url(&directory.file("hookwire.db")), ..Default::default() },
        secrets: SecretSettings { master_key_file: Some(directory.file(MASTER_KEY_FILE)), ..Default::default() },
        egress: EgressSettings { allow: egress.allow.clone(), allow_http: egress.allow_http },
        log: settings.log.clone(),
        index: settings.index.clone(),
        health: settings.health.clone(),
        log_retention: {
            let embedded = hookwire_log::embedded::Settings::default();
            embedded.retention.max(embedded.dead_letters_retention)
        },
        ..Default::default()
    }
}

fn sqlite_url(path: &Path) -> String {
    // In a URL these three would not mean themselves.
    let path = path.display().to_string().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite://{path}?mode=rwc")
}

fn node_settings(settings: &settings::Dev, listening: &Listening) -> hookwire_data_plane::Settings {
    use hookwire_data_plane::{Settings, cache, config};
    Settings {
        node: settings.node.clone(),
        listen: config::Listen { publish: listening.publish, ops: listening.data_plane_ops, ..Default::default() },
        control_plane: cache::watch::Settings {
            endpoints: vec![format!("http://{}", listening.push)],
            ..Default::default()
        },
        publish: settings.publish.clone(),
        dispatch: settings.dispatch.clone(),
        lanes: settings.lanes.clone(),
        deliver: settings.deliver.clone(),
        retry: settings.retry.clone(),
    }
}

/// All that `dev` listens on.
struct Ports {
    api: TcpListener,
    publish: TcpListener,
    push: TcpListener,
    control_plane_ops: TcpListener,
    data_plane_ops: TcpListener,
}

impl Ports {
    /// Five ports from `first` on, or any five if that is port 0.
    async fn bind(first: SocketAddr) -> anyhow::Result<Self> {
        let bind = async |index: u16| {
            let port = if first.port() == 0 { 0 } else { first.port().saturating_add(index) };
            let address = SocketAddr::new(first.ip(), port);
            TcpListener::bind(address)
                .await
                .with_context(|| format!("can't listen on {address}: choose five other ports with --port"))
        };
        Ok(Self {
            api: bind(0).await?,
            publish: bind(1).await?,
            push: bind(2).await?,
            control_plane_ops: bind(3).await?,
            data_plane_ops: bind(4).await?,
        })
    }

    fn listening(&self, directory: &Directory) -> io::Result<Listening> {
        Ok(Listening {
            pid: std::process::id(),
            api: self.api.local_addr()?,
            publish: self.publish.local_addr()?,
            push: self.push.local_addr()?,
            control_plane_ops: self.control_plane_ops.local_addr()?,
            data_plane_ops: self.data_plane_ops.local_addr()?,
            keys: directory.file(demo::KEYS_FILE),
        })
    }
}

/// Says where it listens and what to try: to people, and in a file to programs.
fn welcome(directory: &Directory, data_dir: &Path, listening: &Listening, keys: &Keys) -> anyhow::Result<()> {
    directory.write_json(LISTENING_FILE, listening)?;
    let program = std::env::args().next().unwrap_or_else(|| "hookwire".into());
    let secret_file = data_dir.join(demo::SECRET_FILE).display().to_string();
    let text = welcome::text(&program, &data_dir.display().to_string(), &secret_file, listening, keys);
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
