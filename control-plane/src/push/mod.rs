//! Revisions to every connected node. The seam that `lib.rs` uses; the service itself comes with branch `config`.

use std::pin::Pin;

use futures::Stream;
use hookwire_proto::config;
use hookwire_proto::config::config_service_server::{ConfigService, ConfigServiceServer};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::store::Store;

/// The service for nodes. Its streams end when `shutdown` is cancelled.
pub fn service(
    store: Store,
    settings: config::Settings,
    shutdown: CancellationToken,
) -> ConfigServiceServer<impl ConfigService> {
    ConfigServiceServer::new(Push { _store: store, _settings: settings, _shutdown: shutdown })
}

struct Push {
    _store: Store,
    _settings: config::Settings,
    _shutdown: CancellationToken,
}

#[tonic::async_trait]
impl ConfigService for Push {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<config::WatchResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<Streaming<config::WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("push is not merged yet"))
    }
}
