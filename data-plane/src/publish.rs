//! `PublishMessages`: authenticate against the snapshot, validate the batch all or nothing, append, answer message by message.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hookwire_log::{Layout, Log, codec, forward};
use hookwire_proto::log::MessageRecord;
use hookwire_proto::v1::publish_service_server::{PublishService, PublishServiceServer};
use hookwire_proto::v1::{PublishMessagesRequest, PublishMessagesResponse, PublishResult};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::auth::{self, KeyHash};
use crate::cache::snapshot::ApiKey;
use crate::cache::{Config, Snapshot};
use crate::error::{Error, append_status};
use crate::trace;

#[cfg(test)]
mod tests;
mod validate;

/// The largest payload that may be allowed.
const LARGEST_PAYLOAD_BYTES: usize = 1024 * 1024;

/// Settings of publishing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The largest payload of a message, in bytes; at most 1 MiB. 256 KiB by default.
    pub max_payload_bytes: usize,
    /// The largest request, all its messages together, in bytes. 16 MiB by default.
    pub max_request_bytes: usize,
    /// How long a call waits for the revision that it asks for. 5 s by default.
    #[serde(with = "humantime_serde")]
    pub revision_timeout: Duration,
    /// After this long without the control plane API keys are refused: one may have been revoked meanwhile. 1 h by default.
    #[serde(with = "humantime_serde")]
    pub max_staleness: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_payload_bytes: 256 * 1024,
            max_request_bytes: 16 * 1024 * 1024,
            revision_timeout: Duration::from_secs(5),
            max_staleness: Duration::from_secs(3600),
        }
    }
}

impl Settings {
    /// Checks what cannot work.
    ///
    /// # Errors
    /// [`SettingError`], which says what to write instead.
    pub fn validate(&self) -> Result<(), SettingError> {
        if !(1..=LARGEST_PAYLOAD_BYTES).contains(&self.max_payload_bytes) {
            return Err(SettingError("publish.max_payload_bytes must be 1 to 1048576 (1 MiB)"));
        }
        // Room for the largest payload with what is around it.
        if self.max_request_bytes < self.max_payload_bytes + 4 * 1024 || self.max_request_bytes > 256 * 1024 * 1024 {
            return Err(SettingError(
                "publish.max_request_bytes must be at least 4 KiB more than publish.max_payload_bytes and at most 268435456 (256 MiB)",
            ));
        }
        if self.revision_timeout > Duration::from_secs(60) {
            return Err(SettingError("publish.revision_timeout must be at most \"60s\""));
        }
        if self.max_staleness < Duration::from_secs(1) {
            return Err(SettingError("publish.max_staleness must be at least \"1s\""));
        }
        Ok(())
    }
}

/// A setting that cannot work; says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(&'static str);

/// The publish service of a node.
#[derive(Clone)]
pub struct Publish {
    config: Config,
    log: Arc<dyn Log>,
    settings: Settings,
    draining: CancellationToken,
}

impl Publish {
    /// A service that appends to `log` and takes no new call once `draining` is cancelled.
    pub fn new(config: Config, log: Arc<dyn Log>, settings: Settings, draining: CancellationToken) -> Self {
        Self { config, log, settings, draining }
    }

    /// For tonic's server.
    pub fn into_server(self) -> PublishServiceServer<Self> {
        let max_request_bytes = self.settings.max_request_bytes;
        PublishServiceServer::new(self).max_decoding_message_size(max_request_bytes)
    }

    async fn publish(
        &self,
        metadata: &MetadataMap,
        source: Option<IpAddr>,
        request: PublishMessagesRequest,
    ) -> Result<PublishMessagesResponse, Error> {
        let key = KeyHash::of_call(metadata)?;
        let authenticate = |snapshot: &Snapshot| key.authenticate(snapshot, forward::now_ms(), source);
        self.ready()?;
        let snapshot = self.snapshot(authenticate, metadata, request.min_revision).await?;
        let caller = authenticate(&snapshot)?;
        auth::may_publish(&caller)?;
        let messages = validate::batch(request, &snapshot, &caller, self.settings.max_payload_bytes)?;
        let records = stamp(messages, metadata, snapshot.revision());
        Ok(PublishMessagesResponse { results: self.append(records).await })
    }

    fn ready(&self) -> Result<(), Error> {
        if self.draining.is_cancelled() {
            return Err(Error::NotReady { detail: "it is shutting down" });
        }
        if self.config.stale_since().is_some_and(|since| since.elapsed() > self.settings.max_staleness) {
            return Err(Error::NotReady {
                detail: "it has been cut off from the control plane for so long that it can't tell which API keys are valid",
            });
        }
        Ok(())
    }

    /// The one snapshot that the whole call is judged by.
    async fn snapshot(
        &self,
        authenticate: impl Fn(&Snapshot) -> Result<Arc<ApiKey>, Error>,
        metadata: &MetadataMap,
        min_revision: i64,
    ) -> Result<Arc<Snapshot>, Error> {
        let without = || Error::NotReady { detail: "it has no configuration yet" };
        let current = self.config.current().ok_or_else(without)?;
        if current.revision() >= min_revision {
            return Ok(current);
        }
        // Less than the caller's own time, so that it gets this answer and not just its own deadline.
        let wait = call_timeout(metadata).map_or(Duration::MAX, |timeout| timeout.mul_f32(0.9));
        match timeout(wait.min(self.settings.revision_timeout), self.config.reached(min_revision)).await {
            Ok(reached) => reached.ok_or(Error::NotReady { detail: "it is shutting down" }),
            Err(_) => {
                let current = self.config.current().ok_or_else(without)?;
                authenticate(&current)?;
                Err(Error::RevisionNotReached { asked: min_revision, has: current.revision() })
            }
        }
    }

    /// Appends all, in their order, and waits for each.
    async fn append(&self, records: Vec<MessageRecord>) -> Vec<PublishResult> {
        let layout: &Layout = self.log.layout();
        let appends: Vec<_> = records.iter().map(|record| self.log.append(codec::message(layout, record))).collect();
        let appended = join_all(appends).await;
        let result = |(record, appended): (MessageRecord, Result<_, _>)| PublishResult {
            name: format!("{}/messages/{}", record.tenant, record.message_id),
            error: appended.err().as_ref().map(append_status),
        };
        records.into_iter().zip(appended).map(result).collect()
    }
}

#[tonic::async_trait]
impl PublishService for Publish {
    async fn publish_messages(
        &self,
        request: Request<PublishMessagesRequest>,
    ) -> Result<Response<PublishMessagesResponse>, Status> {
        let source = request.remote_addr().map(|address| address.ip());
        let (metadata, _, request) = request.into_parts();
        Ok(Response::new(self.publish(&metadata, source, request).await?))
    }
}

/// Makes records of validated messages.
fn stamp(messages: Vec<validate::Valid>, metadata: &MetadataMap, revision: i64) -> Vec<MessageRecord> {
    let publish_time_ms = forward::now_ms();
    let parent = metadata.get("traceparent").and_then(|value| value.to_str().ok()).and_then(trace::Context::parse);
    // The state of a trace says nothing about another trace.
    let tracestate = match parent {
        Some(_) => trace::state(metadata.get_all("tracestate").iter().filter_map(|value| value.to_str().ok())),
        None => String::new(),
    };
    let traceparent = parent.unwrap_or_else(|| trace::Context::begin(trace::Ids::random())).to_string();
    let record = |message: validate::Valid| MessageRecord {
        tenant: message.tenant,
        message_id: message.id,
        client_chosen_id: message.client_chosen_id,
        event_type: message.event_type,
        ordering_key: message.ordering_key,
        payload: message.payload,
        content_type: message.content_type,
        publish_time_ms,
        revision,
        traceparent: traceparent.clone(),
        tracestate: tracestate.clone(),
        expire_time_ms: 0,
    };
    messages.into_iter().map(record).collect()
}

/// How long the caller waits, `grpc-timeout`: up to eight digits and a unit.
fn call_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
