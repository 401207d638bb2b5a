//! The control plane: the configuration is written here once, and pushed to every node. Never makes a webhook request.
//!
//! * [`api`]: the public API: authorize → validate → one call of the store → reply
//! * [`auth`]: API keys, and what each role may do
//! * [`signing_key`]: signing keys as people write them
//! * [`store`]: row, revision and change set in one transaction, on SQLite or PostgreSQL
//! * [`push`]: revisions → a snapshot and changes → every connected node
//! * `expiry`: deletes secrets that have expired
//! * [`index`]: attempts and dead letters from the log → the store
//! * [`log`]: the log, which nothing but the index, payloads and replays waits for
//! * [`health`]: which subscriptions fail, and are disabled · [`notices`]: what there is to say to tenants and the operator
//! * [`ping`]: one attempt on demand, asked and answered through the log
//! * [`replay`]: deliveries that are made again, and those that waited for their subscription
//! * `ops`: probes, and `metrics` · [`web`]: what anybody may read over HTTP
//! * `config`: settings
//!
//! [`ControlPlane`] wires them. Any number of control planes may run over one store.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hookwire_log::OpenLog;
use hookwire_log::metrics::Groups;
use hookwire_proto::config as node;
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::api_key_service_server::ApiKeyServiceServer;
use hookwire_proto::v1::attempt_service_server::AttemptServiceServer;
use hookwire_proto::v1::audit_service_server::AuditServiceServer;
use hookwire_proto::v1::dead_letter_service_server::DeadLetterServiceServer;
use hookwire_proto::v1::delivery_service_server::DeliveryServiceServer;
use hookwire_proto::v1::egress_service_server::EgressServiceServer;
use hookwire_proto::v1::event_type_service_server::EventTypeServiceServer;
use hookwire_proto::v1::message_service_server::MessageServiceServer;
use hookwire_proto::v1::node_service_server::NodeServiceServer;
use hookwire_proto::v1::replay_service_server::ReplayServiceServer;
use hookwire_proto::v1::subscription_service_server::SubscriptionServiceServer;
use hookwire_proto::v1::tenant_service_server::TenantServiceServer;
use hookwire_proto::{DESCRIPTORS, name};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;

use crate::api::Api;
use crate::config::Settings;
use crate::health::Health;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::ops::Probed;
use crate::push::Push;
use crate::replay::Replays;
use crate::store::{Actor, NewApiKey, Store};

pub mod api;
pub mod auth;
pub mod config;
mod expiry;
pub mod health;
pub mod index;
pub mod log;
mod metrics;
pub mod notices;
mod ops;
pub mod ping;
pub mod push;
pub mod replay;
pub mod signing_key;
pub mod store;
pub mod web;

/// The services of the public API that are served here.
const SERVICES: &[&str] = &[
    <TenantServiceServer<Api> as NamedService>::NAME,
    <EventTypeServiceServer<Api> as NamedService>::NAME,
    <SubscriptionServiceServer<Api> as NamedService>::NAME,
    <ApiKeyServiceServer<Api> as NamedService>::NAME,
    <MessageServiceServer<Api> as NamedService>::NAME,
    <DeliveryServiceServer<Api> as NamedService>::NAME,
    <AttemptServiceServer<Api> as NamedService>::NAME,
    <DeadLetterServiceServer<Api> as NamedService>::NAME,
    <AuditServiceServer<Api> as NamedService>::NAME,
    <NodeServiceServer<Api> as NamedService>::NAME,
    <EgressServiceServer<Api> as NamedService>::NAME,
    <ReplayServiceServer<Api> as NamedService>::NAME,
];

/// A connection that is silent for this long is asked whether it lives, and closed if it doesn't answer in time.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A TLS handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An address can't be listened on.
    #[error("{setting}: {address} can't be listened on")]
    Bind {
        /// Name of the setting.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Certificate, key or authority are none.
    #[error("{setting}: the certificate, its key or the authority can't be used")]
    Tls {
        /// Name of the setting of the certificate.
        setting: &'static str,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A server failed.
    #[error("a server failed")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where a control plane listens, bound.
#[derive(Debug)]
pub struct Listeners {
    /// For the public API.
    pub api: TcpListener,
    /// For data-plane nodes.
    pub push: TcpListener,
    /// For probes.
    pub ops: TcpListener,
}

impl Listeners {
    /// Binds what the settings say.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub async fn bind(settings: &Settings) -> Result<Self, Error> {
        let bind = async |setting, address| {
            TcpListener::bind(address).await.map_err(|source| Error::Bind { setting, address, source })
        };
        Ok(Self {
            api: bind("api.listen", settings.api.listen).await?,
            push: bind("push.listen", settings.push.listen).await?,
            ops: bind("ops.listen", settings.ops.listen).await?,
        })
    }
}

/// A control plane, its store open.
pub struct ControlPlane {
    settings: Settings,
    store: Store,
    open_log: OpenLog,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Checks the settings, opens the store, brings its tables up to date, and makes sure of the bootstrap key. `open_log`
    /// opens the log later, while configuration is served already.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Store`].
    pub async fn open(settings: Settings, open_log: OpenLog) -> Result<Self, Error> {
        settings.validate()?;
        let bootstrap = settings.bootstrap_admin_key()?;
        let store = Store::open(&settings.store, Arc::new(settings.master_keys()?)).await?;
        if let Some(key) = bootstrap {
            let name = name::ApiKey { api_key: "bootstrap".into() };
            let new = NewApiKey::unlimited("Bootstrap", Role::Admin, None, &key);
            store.ensure_api_key(&name, new).await?;
        }
        Ok(Self { settings, store, open_log })
    }

    /// The store, for whoever runs in the same process.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Serves until `shutdown`, then lets calls under way end, until the deadline.
    ///
    /// # Errors
    /// [`Error::Config`] if it would listen where it must not, [`Error::Tls`], [`Error::Serve`].
    pub async fn serve(self, listeners: Listeners, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { settings, store, open_log } = self;
        let address = |listener: &TcpListener| listener.local_addr().map_err(serve_error);
        settings.api.validate(address(&listeners.api)?.ip())?;
        settings.push.validate(address(&listeners.push)?.ip())?;
        let layout = hookwire_log::Layout::from(settings.log.clone());
        let node_settings = node::Settings { layout: Some((&layout).into()) };
        let (log, opener) = log::Log::new(layout, open_log);
        let rows = store::Index::new(store.clone());
        let push = Push::start(Arc::new(store.clone()), push::Settings::default(), node_settings, shutdown.clone())
            .with_identities(settings.push.identities());
        let (nodes, metrics) = (push.nodes().clone(), Metrics::default());
        let record = tokio::spawn(push.keep_record(store.clone(), settings.push.forget_nodes_after));
        let system = |part: &str| store.by(Actor::system(part, part));
        let (health, health_service) = tonic_health::server::health_reporter();
        for &service in SERVICES {
            health.set_service_status(service, ServingStatus::Serving).await;
        }

        let services = Api::new(api::Parts {
            store: store.clone(),
            egress: settings.egress_policy(),
            index: rows.clone(),
            policy: settings.index.policy,
            log: log.clone(),
            log_retention: settings.log_retention,
            shutdown: shutdown.clone(),
        });
        let api = server(api_tls(&settings)?, "api.tls_cert_file")?
            .timeout(settings.api.request_timeout)
            .add_routes(services.into_routes())
            .add_service(reflection())
            .add_service(health_service.clone())
            .serve_with_incoming_shutdown(incoming(listeners.api), shutdown.clone().cancelled_owned());
        let push_server = server(push_tls(&settings)?, "push.tls_cert_file")?
            .add_service(push.clone().into_server())
            .add_service(health_service)
            .serve_with_incoming_shutdown(incoming(listeners.push), shutdown.clone().cancelled_owned());
        // Probes answer until the very end.
        let stopped = CancellationToken::new();
        let log_closed = tokio::spawn(opener.run(stopped.clone()));
        // It leaves its group at once, so that another control plane goes on with its partitions.
        let late = replay::Late { log: log.clone(), store: system("replay") };
        let live = Arc::new(replay::Live::default());
        let replays = Replays {
            log: log.clone(),
            store: system("replay"),
            index: rows.clone(),
            live: live.clone(),
            owner: name::new_id('c'),
        };
        let replayed = tokio::spawn(replays.run(shutdown.child_token()));
        let subscriptions = Health::new(system("health"), &settings.health);
        let notices = Notices { log: log.clone(), store: store.clone(), settings: settings.health.clone() };
        let told = tokio::spawn(notices.run(shutdown.child_token()));
        let observers: Vec<Arc<dyn index::Observe>> = vec![Arc::new(late), Arc::new(subscriptions), live];
        let groups = metrics.groups().clone();
        let looked = tokio::spawn(look(log.clone(), groups.clone(), stopped.clone()));
        let index = Index { log, store: rows, settings: settings.index.clone(), observers, groups };
        let indexing = shutdown.child_token();
        let indexed = tokio::spawn(index.run(indexing.clone()));
        let probed = Probed { store: store.clone(), nodes, metrics, draining: shutdown.clone() };
        let ops = tokio::spawn(ops::serve(listeners.ops, probed, stopped.clone()));
        let expiry = tokio::spawn(expiry::run(store.clone(), shutdown.clone()));

        let deadline = async {
            shutdown.cancelled().await;
            tracing::info!("draining");
            for service in SERVICES.iter().copied().chain([""]) {
                health.set_service_status(service, ServingStatus::NotServing).await;
            }
            tokio::time::sleep(settings.drain.timeout).await;
        };
        let served = tokio::select! {
            served = async { tokio::try_join!(api, push_server) } => served.map(drop).map_err(serve_error),
            () = deadline => {
                tracing::warn!("calls were still under way at the deadline");
                Ok(())
            }
        };
        indexing.cancel();
        indexed.await.map_err(serve_error)?;
        replayed.await.map_err(serve_error)?;
        told.await.map_err(serve_error)?;
        stopped.cancel();
        record.abort();
        let recorded = match record.await {
            Err(error) if error.is_panic() => Err(serve_error(error)),
            _ => Ok(()),
        };
        let probed = ops.await.map_err(serve_error)?.map_err(serve_error);
        looked.await.map_err(serve_error)?;
        log_closed.await.map_err(serve_error)?;
        expiry.abort();
        let tidied = match expiry.await {
            Err(error) if error.is_panic() => Err(serve_error(error)),
            _ => Ok(()),
        };
        store.close().await;
        served.and(probed).and(recorded).and(tidied)
    }
}

/// Looks at consumer groups once the log is open.
async fn look(log: log::Log, groups: Groups, stopped: CancellationToken) {
    if let Some(Some(log)) = stopped.run_until_cancelled(log.wait()).await {
        stopped.run_until_cancelled(groups.look(log)).await;
    }
}

fn server(tls: Option<ServerTlsConfig>, setting: &'static str) -> Result<Server, Error> {
    let server = Server::builder().http2_keepalive_interval(Some(KEEPALIVE)).http2_keepalive_timeout(Some(KEEPALIVE));
    match tls {
        Some(tls) => server.tls_config(tls.timeout(HANDSHAKE_TIMEOUT)).map_err(|source| Error::Tls { setting, source }),
        None => Ok(server),
    }
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn api_tls(settings: &Settings) -> Result<Option<ServerTlsConfig>, config::Error> {
    let (Some(cert), Some(key)) = (&settings.api.tls_cert_file, &settings.api.tls_key_file) else { return Ok(None) };
    let cert = config::read_text("api.tls_cert_file", cert)?;
    let key = config::read_text("api.tls_key_file", key)?;
    Ok(Some(ServerTlsConfig::new().identity(Identity::from_pem(&*cert, &*key))))
}

fn push_tls(settings: &Settings) -> Result<Option<ServerTlsConfig>, config::Error> {
    let (Some(cert), Some(key)) = (&settings.push.tls_cert_file, &settings.push.tls_key_file) else { return Ok(None) };
    let cert = config::read_text("push.tls_cert_file", cert)?;
    let key = config::read_text("push.tls_key_file", key)?;
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&*cert, &*key));
    Ok(Some(match &settings.push.tls_client_ca_file {
        Some(ca) => tls.client_ca_root(Certificate::from_pem(&*config::read_text("push.tls_client_ca_file", ca)?)),
        None => tls,
    }))
}

/// Lets grpcurl and the like work without a file. Needs no key: it tells only what the source tells.
fn reflection() -> impl NamedService
+ tower::Service<
    http::Request<tonic::body::Body>,
    Response = http::Response<tonic::body::Body>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    SERVICES
        .iter()
        .copied()
        .fold(tonic_reflection::server::Builder::configure(), |builder, service| builder.with_service_name(service))
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by the compiler")
}

fn serve_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Serve(error.into())
}
