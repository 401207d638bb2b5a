//! `PublishService` from a node's first moment on: until the node has begun, callers are told that it is not ready, rather than left
//! to wait for an answer.

use std::sync::Arc;

use hookwire_proto::v1::publish_service_server::{PublishService, PublishServiceServer};
use hookwire_proto::v1::{PublishMessagesRequest, PublishMessagesResponse, StreamMessagesRequest};
use tokio::sync::SetOnce;
use tonic::{Request, Response, Status, Streaming};

use super::Publish;
use crate::error::Error;

/// What publishes once the node has begun. Clones share it.
#[derive(Clone, Default)]
pub struct Gate(Arc<SetOnce<Publish>>);

impl Gate {
    /// The node has begun.
    pub fn open(&self, publish: Publish) {
        if self.0.set(publish).is_err() {
            tracing::error!("a node has begun twice");
        }
    }

    /// Waits until it has.
    pub async fn opened(&self) {
        self.0.wait().await;
    }

    /// For tonic's server. No request is larger than `max_request_bytes`.
    pub fn into_server(self, max_request_bytes: usize) -> PublishServiceServer<Self> {
        PublishServiceServer::new(self).max_decoding_message_size(max_request_bytes)
    }

    fn get(&self) -> Result<&Publish, Error> {
        self.0.get().ok_or(Error::NotReady { detail: "it waits for its configuration or for the log" })
    }
}

#[tonic::async_trait]
impl PublishService for Gate {
    type StreamMessagesStream = <Publish as PublishService>::StreamMessagesStream;

    async fn publish_messages(
        &self,
        request: Request<PublishMessagesRequest>,
    ) -> Result<Response<PublishMessagesResponse>, Status> {
        self.get()?.publish_messages(request).await
    }

    async fn stream_messages(
        &self,
        request: Request<Streaming<StreamMessagesRequest>>,
    ) -> Result<Response<Self::StreamMessagesStream>, Status> {
        self.get()?.stream_messages(request).await
    }
}
