//! Traces, by OTLP over gRPC: what a node did goes to a collector. A collector that is away or slow keeps nobody waiting: what doesn't fit
//! into the queue is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hookwire_data_plane::spans::{Kind, Record, Span, Spans, Value};
use hookwire_data_plane::trace;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor as _,
};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use crate::process::WrongSettings;

/// Spans that wait to be sent.
const MAX_QUEUED: usize = 65_536;
/// Spans that are sent at a time.
const MAX_BATCH: usize = 2_048;
/// How long spans wait for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long a collector has to take them.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last ones may take when the process ends.
const LAST: Duration = Duration::from_secs(5);

/// Where a node's spans go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The collector, OTLP over gRPC, such as `http://127.0.0.1:4317` or `https://collector.example:4317`. Nothing is recorded if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// PEM file with certificates of authorities that are trusted besides the system's, for `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Which part of the traces that begin here is recorded, 0 to 1. 0 by default: those only whose caller says that they are.
    pub sample: f64,
}

/// What sends spans, if anything does.
pub struct Traces {
    processor: Option<Arc<BatchSpanProcessor>>,
    sample: f64,
}

impl Traces {
    /// As the settings say; the connection is made when there is something to send. `node` is the id of the node.
    pub fn open(settings: &Settings, node: &str) -> anyhow::Result<Self> {
        if !(0.0..=1.0).contains(&settings.sample) {
            return Err(WrongSettings::from("traces.sample: write a number from 0 to 1, such as 0.01"));
        }
        let processor = settings.endpoint.as_deref().map(|endpoint| processor(endpoint, settings, node)).transpose()?;
        Ok(Self { processor: processor.map(Arc::new), sample: settings.sample })
    }

    /// For the node.
    pub fn spans(&self) -> Spans {
        match &self.processor {
            Some(processor) => Spans::new(Arc::new(Sender(processor.clone())), self.sample),
            None => Spans::default(),
        }
    }

    /// Sends what waits, and ends.
    pub async fn close(self) {
        let Some(processor) = self.processor else { return };
        // It waits.
        let closed = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(LAST)).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!("the last spans were not sent");
        }
    }
}

fn processor(endpoint: &str, settings: &Settings, node: &str) -> anyhow::Result<BatchSpanProcessor> {
    let wrong = |detail: &str| {
        WrongSettings::from(format!("traces.endpoint: {detail}; write http://HOST:PORT or https://HOST:PORT"))
    };
    let url = url::Url::parse(endpoint).map_err(|error| wrong(&error.to_string()))?;
    let mut channel = Channel::from_shared(endpoint.to_owned()).map_err(|error| wrong(&error.to_string()))?;
    match (url.scheme(), url.has_host()) {
        ("http", true) => {}
        ("https", true) => {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(path) = &settings.ca_file {
                let pem = std::fs::read(path).with_context(|| format!("traces.ca_file: {}", path.display()));
                tls = tls.ca_certificate(Certificate::from_pem(pem.map_err(WrongSettings::from)?));
            }
            channel = channel.tls_config(tls).context("traces: TLS can't be set up")?;
        }
        _ => return Err(wrong("it is none")),
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_channel(channel.connect_lazy())
        .with_timeout(TIMEOUT)
        .build()
        .context("traces")?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUED)
        .with_max_export_batch_size(MAX_BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let said = Said { exporter, is_in_trouble: AtomicBool::new(false) };
    let mut processor = BatchSpanProcessor::builder(said).with_batch_config(batches).build();
    processor.set_resource(
        &Resource::builder()
            .with_service_name("hookwire")
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build(),
    );
    Ok(processor)
}

/// An exporter that says when spans are not taken, and when they are again.
#[derive(Debug)]
struct Said {
    exporter: opentelemetry_otlp::SpanExporter,
    is_in_trouble: AtomicBool,
}

impl SpanExporter for Said {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        let was_in_trouble = self.is_in_trouble.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_in_trouble => tracing::warn!(%error, spans, "spans are not taken, and lost"),
            Ok(()) if was_in_trouble => tracing::info!("spans are taken again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

struct Sender(Arc<BatchSpanProcessor>);

impl Record for Sender {
    fn record(&self, span: Span) {
        self.0.on_end(data(span));
    }
}

/// A span as OpenTelemetry has it.
fn data(span: Span) -> SpanData {
    let (name, span_kind) = match span.kind {
        Kind::Publish => ("publish", SpanKind::Server),
        Kind::Attempt => ("attempt", SpanKind::Client),
    };
    let attribute = |(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    };
    SpanData {
        span_context: context(&span.context),
        parent_span_id: span
            .parent
            .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id().to_be_bytes())),
        parent_span_is_remote: span.parent.is_some(),
        span_kind,
        name: name.into(),
        start_time: span.started,
        end_time: span.started + span.duration,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("hookwire").build(),
    }
}

fn context(context: &trace::Context) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(
        TraceId::from_bytes(context.trace_id().to_be_bytes()),
        SpanId::from_bytes(context.span_id().to_be_bytes()),
        flags,
        false,
        TraceState::default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_that_can_not_work_are_named() {
        let with = |endpoint: &str, sample| Settings { endpoint: Some(endpoint.into()), sample, ca_file: None };
        for (settings, names) in [
            (with("http://127.0.0.1:4317", 1.5), "traces.sample"),
            (with("http://127.0.0.1:4317", f64::NAN), "traces.sample"),
            (with("127.0.0.1:4317", 0.0), "traces.endpoint"),
            (with("ftp://127.0.0.1", 0.0), "traces.endpoint"),
        ] {
            let error = Traces::open(&settings, "node").err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(names) && error.contains("write "), "{settings:?}: {error:?}");
        }
        let none = with("https://127.0.0.1:4317", 0.0);
        let none = Settings { ca_file: Some("/nowhere.pem".into()), ..none };
        let error = Traces::open(&none, "node").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("traces.ca_file: /nowhere.pem"), "{error}");
        Traces::open(&Settings::default(), "node").expect("no traces").close().await;
    }
}
