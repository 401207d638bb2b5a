//! Keeps the configuration current: one stream to one of the control planes, begun again with backoff whenever it ends.
//!
//! * `connect`: the settings and the connection
//! * `copy`: what a stream says, applied in order or not at all (pure)
//!
//! The last good snapshot stays for as long as nothing newer has come whole.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use hookwire_log::Layout;
use hookwire_proto::config::config_service_client::ConfigServiceClient;
use hookwire_proto::config::{Acknowledgement, Hello, NodeRole, WatchRequest, watch_request, watch_response};
use tokio::sync::watch as channel;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Config, Snapshot};
use crate::config::Role;
use crate::owned::Owned;
use copy::Copy;

mod connect;
mod copy;
#[cfg(test)]
mod tests;

pub use connect::Settings;

/// The largest response that is taken: a part of a snapshot has about 1 MiB, but one change may be large by itself.
const MAX_RESPONSE_BYTES: usize = 256 * 1024 * 1024;

/// Why there is no stream, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error("{setting}: {detail}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What to write instead.
        detail: String,
    },
    /// No connection to the control plane.
    #[error("no connection to the control plane: {detail}")]
    Connect {
        /// Why, down to the cause.
        detail: String,
    },
    /// The control plane ended the stream.
    #[error("the control plane ended the stream: {0}")]
    Stream(Box<Status>),
    /// The control plane closed the stream or said nothing at all.
    #[error("the control plane {detail}")]
    Silent {
        /// What it did.
        detail: &'static str,
    },
    /// What came does not follow on what is here: the next stream begins with a snapshot.
    #[error("what the control plane said does not follow on what came before: {detail}")]
    OutOfOrder {
        /// What came, and what should have.
        detail: String,
    },
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

/// Keeps a [`Config`] current.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    node: String,
    roles: Vec<Role>,
    egress_addresses: Vec<IpAddr>,
    owned: Owned,
    copy: Copy,
    snapshots: channel::Sender<Option<Arc<Snapshot>>>,
    config: Config,
    layout: channel::Sender<Option<Arc<Layout>>>,
    connected: bool,
}

impl Watch {
    /// A watch for the node with this id.
    ///
    /// # Errors
    /// [`Error::Setting`], also for files that can't be read.
    pub fn new(settings: Settings, node: String) -> Result<Self, Error> {
        settings.validate()?;
        for endpoint in &settings.endpoints {
            connect::endpoint(&settings, endpoint)?;
        }
        let (snapshots, config) = Config::new();
        config.set_cut_off();
        let layout = channel::Sender::new(None);
        Ok(Self {
            settings,
            node,
            roles: Role::ALL.to_vec(),
            egress_addresses: Vec::new(),
            owned: Owned::default(),
            copy: Copy::default(),
            snapshots,
            config,
            layout,
            connected: false,
        })
    }

    /// What the control plane is told of the node besides: what it does, the addresses that its requests come from, and which partitions it
    /// owns. A node that does not deliver gets no secrets.
    #[must_use]
    pub fn telling(self, roles: &[Role], egress_addresses: &[IpAddr], owned: Owned) -> Self {
        Self { roles: roles.to_vec(), egress_addresses: egress_addresses.to_vec(), owned, ..self }
    }

    /// The configuration that this watch keeps current.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The topics' layout, as soon as the first stream has told it; it never changes after that.
    pub fn layout(&self) -> channel::Receiver<Option<Arc<Layout>>> {
        self.layout.subscribe()
    }

    /// Runs until `shutdown`. The configuration stays readable after that.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let Some(never) = shutdown.run_until_cancelled(self.keep_current()).await else { return };
        match never {}
    }

    async fn keep_current(&mut self) -> Infallible {
        // Nodes spread over the control planes, and each goes on to the next when one doesn't answer.
        let endpoints = self.settings.endpoints.clone();
        let first = rand::random_range(0..endpoints.len());
        let mut wait = self.settings.first_wait;
        for (attempt, endpoint) in endpoints.iter().cycle().skip(first).enumerate() {
            let Err(error) = self.stream(endpoint).await;
            if std::mem::take(&mut self.connected) {
                tracing::warn!(endpoint, %error, "control plane lost, going on with the configuration that is here");
                wait = self.settings.first_wait;
            } else if attempt == 0 {
                tracing::warn!(endpoint, %error, "control plane not reached, trying on");
            } else {
                tracing::debug!(endpoint, %error, attempt, "control plane not reached, trying on");
            }
            self.config.set_cut_off();
            // Jitter, so that nodes that were cut off together don't come back together.
            sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (wait * 2).min(self.settings.max_wait);
        }
        unreachable!("there is at least one endpoint, and they are tried for ever")
    }

    /// One stream, from its beginning to its end.
    async fn stream(&mut self, endpoint: &str) -> Result<Infallible, Error> {
        let channel = connect::connect(&self.settings, endpoint).await?;
        let mut client = ConfigServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let (acknowledged, acknowledgements) = channel::channel((0, 0));
        let owned = self.owned.changes();
        // Nothing is what a control plane takes for granted.
        let owned = if owned.borrow().is_empty() { WatchStream::from_changes(owned) } else { WatchStream::new(owned) };
        let requests = stream::once(std::future::ready(self.hello())).chain(stream::select(
            WatchStream::from_changes(acknowledgements).map(acknowledgement),
            owned.map(|owned| watch_request::Request::Status(Owned::status(owned))).map(request),
        ));

        let begin = async {
            let mut responses = client.watch(requests).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first.and_then(|first| first.response)))
        };
        let silent = |_| Error::Silent { detail: "did not welcome this node in time" };
        let (mut responses, first) = timeout(self.settings.connect_timeout, begin).await.map_err(silent)??;
        let Some(watch_response::Response::Welcome(welcome)) = first else {
            return Err(Error::OutOfOrder { detail: "a stream that does not begin with a welcome".into() });
        };
        self.keep_layout(&welcome)?;
        self.copy.welcome(&welcome)?;
        self.connected = true;
        tracing::info!(
            endpoint,
            revision = welcome.revision,
            snapshot_follows = welcome.snapshot_follows,
            "connected to the control plane"
        );
        if self.copy.revision() >= welcome.revision && !welcome.snapshot_follows {
            self.config.set_current();
        }

        while let Some(response) = responses.message().await? {
            let newest = match response.response {
                Some(watch_response::Response::SnapshotPart(part)) => self.copy.part(part)?,
                Some(watch_response::Response::Changes(changes)) => Some(self.copy.changes(changes)?),
                Some(watch_response::Response::Welcome(_)) => {
                    return Err(Error::OutOfOrder { detail: "a second welcome".into() });
                }
                // A later version's.
                None => None,
            };
            if let Some(snapshot) = newest {
                let (revision, checksum) = (snapshot.revision(), snapshot.checksum());
                self.snapshots.send_replace(Some(snapshot));
                if revision >= welcome.revision {
                    self.config.set_current();
                }
                tracing::debug!(revision, "configuration applied");
                acknowledged.send_replace((revision, checksum));
            }
        }
        Err(Error::Silent { detail: "closed the stream" })
    }

    fn hello(&self) -> WatchRequest {
        let hello = Hello {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_id: self.copy.store_id().to_owned(),
            revision: self.copy.revision(),
            roles: self.roles.iter().map(|role| NodeRole::from(*role).into()).collect(),
            egress_addresses: self.egress_addresses.iter().map(ToString::to_string).collect(),
            checksum: self.copy.checksum(),
        };
        request(watch_request::Request::Hello(hello))
    }

    fn keep_layout(&self, welcome: &hookwire_proto::config::Welcome) -> Result<(), Error> {
        let told = welcome.settings.as_ref().and_then(|settings| settings.layout.clone());
        let told = told.ok_or_else(|| Error::OutOfOrder { detail: "a welcome without the topics' layout".into() })?;
        let told = Layout::try_from(told)
            .map_err(|error| Error::OutOfOrder { detail: format!("a layout that cannot be: {error}") })?;
        self.layout.send_if_modified(|kept| match kept {
            None => {
                *kept = Some(Arc::new(told));
                true
            }
            Some(kept) => {
                if **kept != told {
                    tracing::error!(
                        generation = told.generation,
                        "the control plane has another layout of the log than this node began with; keeping that one: \
                         give every control plane the same [log] settings, and restart the nodes for a new generation"
                    );
                }
                false
            }
        });
        Ok(())
    }
}

fn acknowledgement((revision, checksum): (i64, u64)) -> WatchRequest {
    request(watch_request::Request::Acknowledgement(Acknowledgement { revision, checksum }))
}

fn request(request: watch_request::Request) -> WatchRequest {
    WatchRequest { request: Some(request) }
}
