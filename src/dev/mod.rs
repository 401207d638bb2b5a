//! `hookwire dev`: both planes in one process, the same code over loopback, with everything in one data directory.
//!
//! * [`directory`]: the data directory
//! * [`demo`]: the demo tenant and its keys
//! * [`welcome`]: what is printed when it is ready

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use hookwire_control_plane::store::{Store, StoreSettings};
use hookwire_data_plane as data_plane;
use hookwire_log::embedded::EmbeddedLog;
use hookwire_log::{Layout, Log};
use hookwire_proto::seal::MasterKeys;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Sources;
use crate::process::{self, Signals, WrongSettings};
use crate::{cli, settings, telemetry};

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
    let mut settings: settings::Dev = Sources::of_process(args.settings.config, args.settings.set)
        .load(settings::Dev::default())
        .map_err(WrongSettings::from)?;
    telemetry::init(&settings.telemetry).map_err(WrongSettings::from)?;
    if !args.listen.is_loopback() {
        let how = "what `dev` serves is not encrypted: choose a loopback address such as 127.0.0.1";
        return Err(WrongSettings::from(format!("--listen {}: {how}", args.listen)));
    }
    let layout = settings.log.layout()?;
    let signals = Signals::catch()?;

    let directory = Directory::open(&args.data_dir).map_err(WrongSettings::from)?;
    directory.remove(LISTENING_FILE)?;
    let master_keys = master_keys(&directory)?;
    let keys = demo::keys(&directory)?;
    let store = open_store(&directory, master_keys.clone()).await?;
    demo::ensure(&store, &keys).await?;

    let ports = Ports::bind(SocketAddr::new(args.listen, args.port)).await?;
    let listening = ports.listening(&directory)?;
    settings.deliver.egress.refuse_ports.extend(ports.numbers(&listening));

    let (shutdown, nodes_gone) = (CancellationToken::new(), CancellationToken::new());
    let control_plane =
        control_plane(&settings, layout, store, (ports.api, ports.push, ports.control_plane_ops), nodes_gone.clone());
    let node = data_plane::Node {
        settings: node_settings(&settings, &listening),
        master_keys,
        open_log: open_log(&settings, &directory),
        listeners: data_plane::Listeners { publish: ports.publish, ops: ports.data_plane_ops },
        on_ready: Box::new(move || {
            if let Err(error) = welcome(&directory, &args.data_dir, &listening, &keys) {
                tracing::error!(%error, "the welcome can't be written");
            }
        }),
    };

    let deadline = settings.node.drain_timeout + 2 * DRAIN_TIMEOUT;
    let service = run_both(node, control_plane, shutdown.clone(), nodes_gone);
    process::run_until_signal(signals, service, shutdown, deadline).await
}

/// Runs both planes. The node drains first: until it has, the control plane is there for it.
async fn run_both(
    node: data_plane::Node,
    control_plane: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    shutdown: CancellationToken,
    nodes_gone: CancellationToken,
) -> anyhow::Result<()> {
    let mut control_plane = tokio::spawn(control_plane);
    let node = async { node.run(shutdown.clone()).await.map_err(node_error) };
    tokio::select! {
        result = node => result?,
        ended = &mut control_plane => {
            ended.context("the control plane panicked")??;
            anyhow::bail!("the control plane ended though nobody told it to");
        }
    }
    nodes_gone.cancel();
    tokio::time::timeout(DRAIN_TIMEOUT, control_plane)
        .await
        .context("the control plane did not drain")?
        .context("the control plane panicked")?
}

fn node_error(error: data_plane::Error) -> anyhow::Error {
    match error {
        data_plane::Error::Setting(_) | data_plane::Error::Log(hookwire_log::Error::Setting { .. }) => {
            WrongSettings::from(error)
        }
        error => error.into(),
    }
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

async fn open_store(directory: &Directory, master_keys: Arc<MasterKeys>) -> anyhow::Result<Store> {
    let path = directory.file("hookwire.db").display().to_string();
    // In a URL these three would not mean themselves.
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    let settings = StoreSettings { url: format!("sqlite://{path}?mode=rwc"), ..StoreSettings::default() };
    Store::open(&settings, master_keys).await.context("the store can't be opened")
}

fn open_log(settings: &settings::Dev, directory: &Directory) -> data_plane::OpenLog {
    let mut embedded = settings.log.embedded.clone().unwrap_or_default();
    if embedded.dir == hookwire_log::embedded::Settings::default().dir {
        embedded.dir = directory.file("log");
    }
    Arc::new(move |layout: Layout| {
        let embedded = embedded.clone();
        async move {
            // It blocks while it reads what is there.
            let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(embedded, layout)).await;
            let log =
                opened.unwrap_or_else(|error| Err(hookwire_log::Error::Unavailable { detail: error.to_string() }))?;
            Ok(log as Arc<dyn Log>)
        }
        .boxed()
    })
}

fn node_settings(settings: &settings::Dev, listening: &Listening) -> data_plane::Settings {
    data_plane::Settings {
        node: settings.node.clone(),
        listen: data_plane::config::Listen {
            publish: listening.publish,
            ops: listening.data_plane_ops,
            ..Default::default()
        },
        control_plane: data_plane::cache::watch::Settings {
            endpoints: vec![format!("http://{}", listening.push)],
            ..Default::default()
        },
        publish: settings.publish.clone(),
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

    fn numbers(&self, listening: &Listening) -> [u16; 5] {
        let Listening { api, publish, push, control_plane_ops, data_plane_ops, .. } = listening;
        [api, publish, push, control_plane_ops, data_plane_ops].map(SocketAddr::port)
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

/// The control plane, as far as it is there: it pushes, and has no API yet.
fn control_plane(
    settings: &settings::Dev,
    layout: Layout,
    store: Store,
    (_api, push, _ops): (TcpListener, TcpListener, TcpListener),
    shutdown: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    use hookwire_control_plane::push::Push;
    let node_settings = hookwire_proto::config::Settings { layout: Some((&layout).into()) };
    let service = Push::start(Arc::new(store), settings.push.clone(), node_settings, shutdown.clone()).into_server();
    async move {
        let incoming = tonic::transport::server::TcpIncoming::from(push);
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
            .await?;
        Ok(())
    }
}
