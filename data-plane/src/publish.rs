//! Publishing: authenticate against the snapshot, validate, append, answer message by message.
//!
//! * `PublishMessages` is here: a batch, which is valid as a whole or refused as a whole
//! * `stream`: `StreamMessages`, in which each message stands for itself
//! * `call`: what a call brings besides messages; `validate`: what a message must be
//! * [`quota`]: how much a tenant may publish
//! * `appends`: what is not acknowledged yet, in order; `share`: how much of that a tenant may have; `circuit`: whether the log is away

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use hookwire_log::{Log, forward};
use hookwire_proto::log::MessageRecord;
use hookwire_proto::v1::publish_service_server::PublishService;
use hookwire_proto::v1::{
    PublishMessagesRequest, PublishMessagesResponse, StreamMessagesRequest, StreamMessagesResponse,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::cache::{Config, Snapshot};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::spans::{Begun, Kind, Spans};
use crate::stage::ms;
use crate::trace;
use appends::Appends;
use call::Call;
use circuit::Circuit;
use quota::Quotas;
use share::Shares;

mod appends;
mod call;
mod circuit;
mod gate;
pub mod quota;
mod share;
mod stream;
#[cfg(test)]
mod tests;
mod validate;

pub use gate::Gate;

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
    /// How long a message waits for the log to acknowledge it before its result is that the log is unavailable; it may become durable all
    /// the same. 5 s by default.
    #[serde(with = "humantime_serde")]
    pub append_timeout: Duration,
    /// Messages of a stream that have no result yet; while there are so many, no more are read from it. 10,000 by default.
    pub max_in_flight: usize,
    /// The same for the bytes of their payloads: of each stream, so much memory and one request besides. 16 MiB by default.
    pub max_in_flight_bytes: usize,
    /// Messages a second that may be published through this node for a tenant without a `publish_quota` of its own, and at once after a
    /// pause as many as come in one second. 0, the default: no limit.
    pub tenant_messages_per_second: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_payload_bytes: 256 * 1024,
            max_request_bytes: 16 * 1024 * 1024,
            revision_timeout: Duration::from_secs(5),
            max_staleness: Duration::from_secs(3600),
            append_timeout: Duration::from_secs(5),
            max_in_flight: 10_000,
            max_in_flight_bytes: 16 * 1024 * 1024,
            tenant_messages_per_second: 0.0,
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
        if !(Duration::from_millis(100)..=Duration::from_secs(300)).contains(&self.append_timeout) {
            return Err(SettingError("publish.append_timeout must be \"100ms\" to \"300s\""));
        }
        if self.max_in_flight == 0 {
            return Err(SettingError("publish.max_in_flight must be at least 1"));
        }
        if self.max_in_flight_bytes == 0 {
            return Err(SettingError("publish.max_in_flight_bytes must be at least 1"));
        }
        // Not a number is in no range.
        if self.tenant_messages_per_second != 0.0 && !(0.01..=1e6).contains(&self.tenant_messages_per_second) {
            return Err(SettingError("publish.tenant_messages_per_second must be 0.01 to 1000000, or 0 for no limit"));
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
    circuit: Arc<Circuit>,
    quotas: Arc<Quotas>,
    shares: Arc<Shares>,
    settings: Settings,
    metrics: Metrics,
    spans: Spans,
    draining: CancellationToken,
}

impl Publish {
    /// A service that appends to `log` and takes no new call once `draining` is cancelled.
    pub fn new(
        config: Config,
        log: Arc<dyn Log>,
        settings: Settings,
        metrics: Metrics,
        spans: Spans,
        draining: CancellationToken,
    ) -> Self {
        let quotas = Arc::new(Quotas::new(settings.tenant_messages_per_second));
        let (circuit, shares) = Default::default();
        Self { config, log, circuit, quotas, shares, settings, metrics, spans, draining }
    }

    async fn publish(
        &self,
        call: &Call,
        begun: Begun,
        request: PublishMessagesRequest,
    ) -> Result<PublishMessagesResponse, Error> {
        self.ready()?;
        let snapshot = self.snapshot(call, request.min_revision).await?;
        let caller = call.authenticate(&snapshot)?;
        let tenant = request.parent.clone();
        let messages = validate::batch(request, &snapshot, &caller, self.settings.max_payload_bytes)?;
        let probe = self.circuit.admit()?;
        let taken = self.quotas.take(&tenant, snapshot.publish_quota(&tenant), messages.len());
        taken.map_err(|retry| Error::QuotaExceeded { tenant: tenant.clone(), retry })?;
        self.shares.came(&tenant);
        let (mut appends, stamp) = (self.appends(), Stamp::new(call, begun.context, snapshot.revision()));
        messages.into_iter().for_each(|message| appends.append(stamp.record(message)));
        appends.keep(probe);
        let mut results = Vec::with_capacity(appends.len());
        while let Some(result) = appends.next().await {
            results.push(result);
        }
        Ok(PublishMessagesResponse { results })
    }

    /// The span of a call or of a request has ended.
    fn ended(&self, begun: Begun, tenant: &str, messages: usize, error: Option<&Error>) {
        self.spans.end(begun, Kind::Publish, || {
            let messages = i64::try_from(messages).unwrap_or(i64::MAX);
            let attributes =
                vec![("hookwire.tenant", tenant.into()), ("messaging.batch.message_count", messages.into())];
            (attributes, error.map(ToString::to_string))
        });
    }

    fn appends(&self) -> Appends {
        let (log, circuit, shares) = (self.log.clone(), self.circuit.clone(), self.shares.clone());
        Appends::new(log, circuit, shares, self.metrics.clone(), self.settings.append_timeout)
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

    /// The one snapshot that a whole request is judged by.
    async fn snapshot(&self, call: &Call, min_revision: i64) -> Result<Arc<Snapshot>, Error> {
        let without = || Error::NotReady { detail: "it has no configuration yet" };
        let current = self.config.current().ok_or_else(without)?;
        if current.revision() >= min_revision {
            return Ok(current);
        }
        // Less than the caller's own time, so that it gets this answer and not just its own deadline.
        let wait = call.timeout().map_or(Duration::MAX, |timeout| timeout.mul_f32(0.9));
        match timeout(wait.min(self.settings.revision_timeout), self.config.reached(min_revision)).await {
            Ok(reached) => reached.ok_or(Error::NotReady { detail: "it is shutting down" }),
            Err(_) => {
                let current = self.config.current().ok_or_else(without)?;
                call.authenticate(&current)?;
                Err(Error::RevisionNotReached { asked: min_revision, has: current.revision() })
            }
        }
    }
}

#[tonic::async_trait]
impl PublishService for Publish {
    type StreamMessagesStream = BoxStream<'static, Result<StreamMessagesResponse, Status>>;

    async fn publish_messages(
        &self,
        request: Request<PublishMessagesRequest>,
    ) -> Result<Response<PublishMessagesResponse>, Status> {
        let call = Call::new(request.metadata(), request.remote_addr())?;
        let request = request.into_inner();
        let (messages, tenant) = (request.messages.len(), request.parent.clone());
        let begun = self.spans.call(call.trace);
        let published = self.publish(&call, begun, request).await.inspect_err(|_| self.metrics.refused(messages));
        self.ended(begun, &tenant, messages, published.as_ref().err());
        Ok(Response::new(published?))
    }

    async fn stream_messages(
        &self,
        request: Request<Streaming<StreamMessagesRequest>>,
    ) -> Result<Response<Self::StreamMessagesStream>, Status> {
        let call = Call::new(request.metadata(), request.remote_addr())?;
        self.ready()?;
        Ok(Response::new(stream::results(self.clone(), call, request.into_inner())))
    }
}

/// What the messages of a request have in common in the log.
struct Stamp<'a> {
    publish_time_ms: i64,
    revision: i64,
    traceparent: String,
    tracestate: &'a str,
}

impl<'a> Stamp<'a> {
    /// Of now, under a revision of the configuration, as a part of this trace: the caller's or one that begins here.
    fn new(call: &'a Call, trace: trace::Context, revision: i64) -> Self {
        let (traceparent, tracestate) = (trace.to_string(), call.tracestate.as_str());
        Self { publish_time_ms: forward::now_ms(), revision, traceparent, tracestate }
    }

    fn record(&self, message: validate::Valid) -> MessageRecord {
        let expires = |ttl| self.publish_time_ms.saturating_add(ms(ttl));
        MessageRecord {
            tenant: message.tenant,
            message_id: message.id,
            client_chosen_id: message.client_chosen_id,
            event_type: message.event_type,
            ordering_key: message.ordering_key,
            payload: message.payload,
            content_type: message.content_type,
            publish_time_ms: self.publish_time_ms,
            revision: self.revision,
            traceparent: self.traceparent.clone(),
            tracestate: self.tracestate.to_owned(),
            expire_time_ms: message.ttl.map_or(0, expires),
        }
    }
}
