//! The public API: one file for each service, each RPC alike: authorize → validate → one call of the store → reply.
//!
//! * `error`: the only map to gRPC's `Status`
//! * `validate`, `new_subscription`, `settings`: what fields must be, every wrong one told at once
//! * `mask`: which fields an update changes
//! * [`page`], [`filter`]: pages of lists, and what is in them
//! * `indexed`: lists of the index

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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
use hookwire_proto::{egress, name};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response};

use crate::api::validate::Violations;
use crate::auth::{self, Caller, Rpc, TenantToken};
use crate::index::Policy;
use crate::log::Log;
use crate::store::{Actor, Index, Once, Store};

mod api_key;
mod attempt;
mod audit;
mod dead_letter;
mod delivery;
mod egress_addresses;
mod error;
mod event_type;
pub mod filter;
mod indexed;
mod mask;
mod message;
mod new_replay;
mod new_subscription;
mod node;
pub mod page;
mod ping;
mod replay;
mod secret;
mod settings;
mod subscription;
mod tenant;
mod validate;

pub use error::Error;

/// Metadata of every answer to a write: the revision that it made.
pub const REVISION_METADATA: &str = "hookwire-revision";
/// Metadata of the answer to `DeleteTenant` with `force`: until when the log may hold what was published for the tenant (RFC 3339).
pub const LOG_RETAINED_UNTIL_METADATA: &str = "hookwire-log-retained-until";

/// The largest request that is read: a subscription with all that it may hold is far below it.
const MAX_REQUEST_BYTES: usize = 256 * 1024;
/// The same where a request may have 1,000 subscriptions.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What the services share.
#[derive(Debug, Clone)]
pub struct Api {
    store: Store,
    egress: Arc<egress::Policy>,
    index: Index,
    policy: Policy,
    log: Log,
    log_retention: Duration,
    /// Ends what goes on for long: streams.
    shutdown: CancellationToken,
}

/// What the services are made of.
#[derive(Debug)]
pub struct Parts {
    /// Where configuration is.
    pub store: Store,
    /// Which URLs subscriptions may have.
    pub egress: egress::Policy,
    /// What was read from the log.
    pub index: Index,
    /// What is in it.
    pub policy: Policy,
    /// Where payloads are.
    pub log: Log,
    /// For how long the log keeps what was published.
    pub log_retention: Duration,
    /// Ends what goes on for long: streams.
    pub shutdown: CancellationToken,
}

impl Api {
    /// The services.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, egress, index, policy, log, log_retention, shutdown } = parts;
        Self { store, egress: Arc::new(egress), index, policy, log, log_retention, shutdown }
    }

    /// All services, for tonic's server.
    pub fn into_routes(self) -> Routes {
        Routes::default()
            .add_service(TenantServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(EventTypeServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(SubscriptionServiceServer::new(self.clone()).max_decoding_message_size(MAX_BATCH_BYTES))
            .add_service(MessageServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(DeliveryServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(AttemptServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(DeadLetterServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(NodeServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(EgressServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(AuditServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(ReplayServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(ApiKeyServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES))
    }

    /// The call, if its caller may make it for the resource that `name` takes from the request (empty: none), and the request.
    async fn authorized<T>(
        &self,
        rpc: Rpc,
        request: Request<T>,
        name: impl FnOnce(&T) -> &str,
    ) -> Result<(Call, T), Error> {
        let source = request.remote_addr().map(|address| address.ip().to_canonical());
        let caller = self.caller(request.metadata(), source).await?;
        let request = request.into_inner();
        caller.may(rpc, name::tenant_of(name(&request)))?;
        let actor = Actor {
            caller: caller.name.clone(),
            minted_by: caller.minted_by.clone().unwrap_or_default(),
            source_address: source.map(|source| source.to_string()).unwrap_or_default(),
            method: format!("{rpc:?}"),
        };
        Ok((Call { caller, rpc, store: self.store.by(actor) }, request))
    }

    async fn caller(&self, metadata: &MetadataMap, source: Option<IpAddr>) -> Result<Caller, Error> {
        let header = metadata.get("authorization").ok_or(Error::KeyMissing)?;
        let header = header.to_str().map_err(|_| Error::KeyInvalid)?;
        let key = match header.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            _ => return Err(Error::KeyMissing),
        };
        let now = OffsetDateTime::now_utc();
        let token = match TenantToken::open(key, self.store.master_keys()) {
            Some(token) => Some(token.filter(|token| token.is_alive(now)).ok_or(Error::KeyExpired)?),
            None => None,
        };
        // A token ends with the key that it was minted with.
        let key = match &token {
            Some(token) => {
                let minted_by = name::ApiKey::parse(&token.minted_by).map_err(|_| Error::KeyInvalid)?;
                self.store.find_api_key(&minted_by).await?
            }
            None => self.store.api_key_by_hash(&auth::hash(key)).await?,
        };
        let key = key.ok_or(Error::KeyInvalid)?;
        if auth::is_expired(&key, now) {
            return Err(Error::KeyExpired);
        }
        match token {
            // Whoever it was handed to calls from elsewhere.
            Some(token) => Ok(Caller::from(token)),
            None => {
                let caller = Caller::from(key);
                caller.may_call_from(source)?;
                Ok(caller)
            }
        }
    }
}

/// A call that was let in.
struct Call {
    /// Who calls.
    caller: Caller,
    rpc: Rpc,
    /// The store, for this caller: what it writes says who it was.
    store: Store,
}

impl Call {
    /// The store for a request that is carried out once, if it says so: `request_id` is its field.
    fn once(&self, violations: &mut Violations, request_id: &str, request: &impl prost::Message) -> Store {
        violations.request_id(request_id);
        let once = (!request_id.is_empty()).then(|| Once::new(request_id, &format!("{:?}", self.rpc), request));
        self.store.once(once)
    }
}

/// The answer to a write.
fn written<T>(revision: i64, message: T) -> Response<T> {
    let mut response = Response::new(message);
    response.metadata_mut().insert(REVISION_METADATA, revision.into());
    response
}
