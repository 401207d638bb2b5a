//! Revisions → a snapshot and changes → every connected node.
//!
//! * [`Source`]: what is asked of the store
//! * `Feed`: the one task that follows the change table, and what all streams are served from
//! * [`Push`]: `hookwire.config.v1.ConfigService`, one stream for each node
//! * [`Identities`]: which nodes are let in, and what each may do; `redact`: what those that deliver nothing are not told
//! * [`Nodes`]: who is connected, and what they have applied; `heartbeat` writes it down, `egress` is what follows from it

use std::sync::Arc;
use std::time::Duration;

use hookwire_proto::config::config_service_server::{ConfigService, ConfigServiceServer};
use hookwire_proto::config::{self, WatchRequest, WatchResponse, watch_request};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

mod egress;
mod error;
mod feed;
mod heartbeat;
mod identity;
mod nodes;
mod redact;
mod source;
mod stream;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use hookwire_proto::role::Role;
pub use identity::{Admitted, Identities, ListedNode};
pub use nodes::{Node, Nodes};
pub use source::Source;

use feed::Feed;
use stream::Stream;

use crate::store::Store;

/// How long a node may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of push.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How often the change table is looked at for what other control planes wrote. 100 ms by default.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// The longest wait between looks while the store is unavailable. 5 s by default.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Recent change sets that are kept in memory for all nodes together. 10,000 by default.
    pub max_recent_changes: usize,
    /// Their size, in bytes. 16 MiB by default.
    pub max_recent_bytes: usize,
    /// About how large a response to a node gets, in bytes; one change set alone may exceed it. 1 MiB by default.
    pub response_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(100),
            max_wait: Duration::from_secs(5),
            max_recent_changes: 10_000,
            max_recent_bytes: 16 * 1024 * 1024,
            response_bytes: 1024 * 1024,
        }
    }
}

impl Settings {
    /// Checks what cannot work.
    ///
    /// # Errors
    /// [`Error::Setting`], which says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, detail| Err(Error::Setting { setting, detail });
        if self.poll_interval < Duration::from_millis(10) {
            return wrong("push.poll_interval", "must be at least \"10ms\"");
        }
        if self.max_wait < self.poll_interval {
            return wrong("push.max_wait", "must not be shorter than push.poll_interval");
        }
        if self.max_recent_changes == 0 {
            return wrong("push.max_recent_changes", "must be at least 1");
        }
        if !(1024..=64 * 1024 * 1024).contains(&self.response_bytes) {
            return wrong("push.response_bytes", "must be 1024 (1 KiB) to 67108864 (64 MiB)");
        }
        Ok(())
    }
}

/// The configuration service.
#[derive(Clone)]
pub struct Push {
    feed: Arc<Feed>,
    nodes: Nodes,
    identities: Arc<Identities>,
    node_settings: config::Settings,
    shutdown: CancellationToken,
}

impl Push {
    /// Begins to follow the source, until `shutdown`; streams end with it. `node_settings` are what every node must have
    /// alike.
    pub fn start(
        source: Arc<dyn Source>,
        settings: Settings,
        node_settings: config::Settings,
        shutdown: CancellationToken,
    ) -> Self {
        let feed = Arc::new(Feed::new(source, settings));
        tokio::spawn({
            let (feed, shutdown) = (feed.clone(), shutdown.clone());
            async move { shutdown.run_until_cancelled(feed.follow()).await }
        });
        Self { feed, nodes: Nodes::default(), identities: Arc::default(), node_settings, shutdown }
    }

    /// The same, but that it lets only these nodes in.
    #[must_use]
    pub fn with_identities(self, identities: Identities) -> Self {
        Self { identities: Arc::new(identities), ..self }
    }

    /// Writes down who is connected, until `shutdown`; who was not for `forget_after` is forgotten.
    pub fn keep_record(&self, store: Store, forget_after: Duration) -> impl Future<Output = ()> + Send + 'static {
        let (feed, nodes, shutdown) = (self.feed.clone(), self.nodes.clone(), self.shutdown.clone());
        async move {
            shutdown.run_until_cancelled(heartbeat::run(&feed, &nodes, &store, forget_after)).await;
        }
    }

    /// Who is connected.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// For tonic's server.
    pub fn into_server(self) -> ConfigServiceServer<Self> {
        ConfigServiceServer::new(self)
    }

    /// The hello that a stream begins with.
    async fn hello(&self, requests: &mut Streaming<WatchRequest>) -> Result<config::Hello, Status> {
        let first = timeout(HELLO_TIMEOUT, requests.message()).await.map_err(|_| Error::NoHello)??;
        match first.and_then(|first| first.request) {
            Some(watch_request::Request::Hello(hello)) if nodes::is_id(&hello.node) => Ok(hello),
            Some(watch_request::Request::Hello(_)) => Err(Error::NodeId.into()),
            _ => Err(Error::NoHello.into()),
        }
    }
}

#[tonic::async_trait]
impl ConfigService for Push {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let certificates = request.peer_certs();
        let mut requests = request.into_inner();
        let hello = self.hello(&mut requests).await?;
        let admitted = self.identities.admit(certificates.as_ref().map(|all| &***all), &hello.roles);
        let admitted = admitted.inspect_err(|error| tracing::warn!(node = hello.node, %error, "node refused"))?;
        let (responses, receiver) = mpsc::channel(1);
        let stream = Stream::new(&self.feed, &self.node_settings, admitted, responses);
        let (nodes, shutdown) = (self.nodes.clone(), self.shutdown.clone());
        tokio::spawn(stream.run(hello, requests, nodes, shutdown));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
