//! The stream of one node: welcomed, then a snapshot or changes, then every change as it is made.
//!
//! A node that reads slowly holds up its own stream and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hookwire_proto::config::watch_response::Response;
use hookwire_proto::config::{self, Changes, Hello, WatchRequest, WatchResponse, Welcome, watch_request};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::feed::{Feed, Next, Parts};
use super::identity::Admitted;
use super::nodes::Connected;
use super::{Error, Nodes, redact};

/// How long a node may take to be told why its stream ends.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// One stream.
pub struct Stream {
    feed: Arc<Feed>,
    node_settings: config::Settings,
    admitted: Admitted,
    responses: mpsc::Sender<Result<WatchResponse, Status>>,
}

/// The node is gone.
struct Gone;

impl Stream {
    pub fn new(
        feed: &Arc<Feed>,
        node_settings: &config::Settings,
        admitted: Admitted,
        responses: mpsc::Sender<Result<WatchResponse, Status>>,
    ) -> Self {
        Self { feed: feed.clone(), node_settings: node_settings.clone(), admitted, responses }
    }

    /// Runs until the node goes away, says what it must not, or the control plane shuts down.
    pub async fn run(self, hello: Hello, requests: Streaming<WatchRequest>, nodes: Nodes, shutdown: CancellationToken) {
        let has = (hello.store_id == self.feed.store_id()).then_some(hello.revision);
        let Admitted { identity, roles } = &self.admitted;
        let connected = nodes.connect(&hello, identity, roles, has.unwrap_or(0));
        let node = hello.node.as_str();
        tracing::info!(node, version = hello.version, identity, ?roles, revision = has, "node connected");
        let end = tokio::select! {
            Err(Gone) = self.serve(has) => None,
            end = listen(requests, node, &connected) => end,
            () = shutdown.cancelled() => Some(Error::ShuttingDown),
        };
        tracing::info!(node, "node disconnected");
        if let Some(error) = end {
            let _ = timeout(FAREWELL_TIMEOUT, self.responses.send(Err(error.into()))).await;
        }
    }

    /// Sends what the node must know, in order, from the revision that it has.
    async fn serve(&self, has: Option<i64>) -> Result<Infallible, Gone> {
        let follows = match has {
            Some(revision) if self.feed.follows(revision).await => Some(revision),
            _ => None,
        };
        let welcome = Welcome {
            store_id: self.feed.store_id().to_owned(),
            settings: Some(self.node_settings.clone()),
            snapshot_follows: follows.is_none(),
            revision: self.feed.head().await,
        };
        self.send(Response::Welcome(welcome)).await?;
        let mut at = match follows {
            Some(revision) => revision,
            None => self.send_snapshot(&*self.feed.snapshot().await).await?,
        };
        loop {
            at = match self.feed.next(at).await {
                Next::Sets(change_sets) => {
                    let last = change_sets.last().map_or(at, |set| set.revision);
                    self.send(Response::Changes(Changes { change_sets })).await?;
                    last
                }
                Next::Snapshot(parts) => self.send_snapshot(&parts).await?,
            };
        }
    }

    async fn send_snapshot(&self, snapshot: &Parts) -> Result<i64, Gone> {
        for part in &snapshot.parts {
            self.send(Response::SnapshotPart(part.clone())).await?;
        }
        Ok(snapshot.revision)
    }

    async fn send(&self, response: Response) -> Result<(), Gone> {
        let response = if self.admitted.gets_secrets() { response } else { redact::response(response) };
        self.responses.send(Ok(WatchResponse { response: Some(response) })).await.map_err(|_| Gone)
    }
}

/// Takes what a node says of itself until it goes away (`None`) or says what it must not.
async fn listen(mut requests: Streaming<WatchRequest>, node: &str, connected: &Connected) -> Option<Error> {
    while let Ok(Some(request)) = requests.message().await {
        match request.request {
            Some(watch_request::Request::Acknowledgement(acknowledged)) => {
                connected.applied(&acknowledged);
                tracing::debug!(node, revision = acknowledged.revision, "node applied");
            }
            Some(watch_request::Request::Status(status)) => connected.owns(status.partitions),
            Some(watch_request::Request::Hello(_)) => return Some(Error::SecondHello),
            // A later version's.
            None => {}
        }
    }
    None
}
