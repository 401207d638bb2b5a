//! The public API: one file for each service, each RPC alike: authorize → validate → one call of the store → reply.
//!
//! * `error`: the only map to gRPC's `Status`
//! * `validate`, `new_subscription`, `settings`: what fields must be, every wrong one told at once
//! * `page`: pages of lists

use std::sync::Arc;

use hookwire_proto::egress::Policy;
use hookwire_proto::name;
use hookwire_proto::v1::api_key_service_server::ApiKeyServiceServer;
use hookwire_proto::v1::event_type_service_server::EventTypeServiceServer;
use hookwire_proto::v1::subscription_service_server::SubscriptionServiceServer;
use hookwire_proto::v1::tenant_service_server::TenantServiceServer;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response};

use crate::auth::{self, Caller, Rpc};
use crate::store::Store;

mod api_key;
mod error;
mod event_type;
mod new_subscription;
mod page;
mod secret;
mod settings;
mod subscription;
mod tenant;
mod validate;

pub use error::Error;

/// Metadata of every answer to a write: the revision that it made.
pub const REVISION_METADATA: &str = "hookwire-revision";

/// The largest request that is read: a subscription with all that it may hold is far below it.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// What the services share.
#[derive(Debug, Clone)]
pub struct Api {
    store: Store,
    egress: Arc<Policy>,
}

impl Api {
    /// The services over a store; `egress` says which URLs subscriptions may have.
    pub fn new(store: Store, egress: Policy) -> Self {
        Self { store, egress: Arc::new(egress) }
    }

    /// All services, for tonic's server.
    pub fn into_routes(self) -> Routes {
        Routes::default()
            .add_service(TenantServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(EventTypeServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(SubscriptionServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(ApiKeyServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES))
    }

    /// Who calls, if it may call this for the resource that `name` takes from the request (empty: none), and the request.
    async fn authorized<T>(
        &self,
        rpc: Rpc,
        request: Request<T>,
        name: impl FnOnce(&T) -> &str,
    ) -> Result<(Caller, T), Error> {
        let caller = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        caller.may(rpc, name::tenant_of(name(&request)))?;
        Ok((caller, request))
    }

    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let header = metadata.get("authorization").ok_or(Error::KeyMissing)?;
        let header = header.to_str().map_err(|_| Error::KeyInvalid)?;
        let key = match header.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            _ => return Err(Error::KeyMissing),
        };
        let key = self.store.api_key_by_hash(&auth::hash(key)).await?;
        key.map(Caller::from).ok_or(Error::KeyInvalid)
    }
}

/// The answer to a write.
fn written<T>(revision: i64, message: T) -> Response<T> {
    let mut response = Response::new(message);
    response.metadata_mut().insert(REVISION_METADATA, revision.into());
    response
}
