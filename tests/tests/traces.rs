//! A trace that begins at the publisher goes on over OTLP: a span for the publish call and one for each attempt, whose ids are those that
//! recipients see.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::PublishMessagesRequest;
use hookwire_tests::api::message;
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::machine::free_ports;
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::{cluster, wait_until};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const LIMIT: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector, as OpenTelemetry's protocol has it.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let name = attributes.iter().find(|attribute| attribute.key == "service.name");
            self.services.lock().expect("nothing panics with it").push(text(name.and_then(|name| name.value.as_ref())));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().expect("nothing panics with it").extend(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

impl Collector {
    fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("nothing panics with it").clone()
    }
}

fn attribute(span: &Span, key: &str) -> String {
    text(span.attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.as_ref()))
}

async fn publish(cluster: &Cluster, tenant: &str, revision: i64, traceparent: Option<&str>) -> Result<()> {
    let messages = vec![message("traced.event", "{}")];
    let mut request =
        Request::new(PublishMessagesRequest { parent: tenant.to_owned(), messages, min_revision: revision });
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent.parse()?);
    }
    let results = cluster.publisher()?.publishing().publish_messages(request).await?.into_inner().results;
    ensure!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    Ok(())
}

async fn a_trace_goes_on(cluster: &mut Cluster, collector: &Collector) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["traced.event"]).await?;
    cluster.receiver.script("/traced", [Behaviour::status(503)], Behaviour::status(200));
    let subscription = control.subscribe(&tenant, &cluster.receiver.url("/traced"), &["traced.event"]).await?;
    // Not sampled, and not told of: nothing of these is recorded.
    publish(cluster, &tenant, subscription.revision, Some(&format!("00-{TRACE}-{CALLER}-00"))).await?;
    publish(cluster, &tenant, subscription.revision, None).await?;
    cluster.receiver.wait("/traced", 3, LIMIT).await?;
    cluster.receiver.script("/traced", [Behaviour::status(503)], Behaviour::status(200));
    publish(cluster, &tenant, subscription.revision, Some(&format!("00-{TRACE}-{CALLER}-01"))).await?;
    let arrivals = cluster.receiver.wait("/traced", 5, LIMIT).await?.split_off(3);
    wait_until("spans are collected", LIMIT, async || Ok(collector.spans().len() >= 3)).await?;

    let spans = collector.spans();
    ensure!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE), "another trace: {spans:?}");
    let published = spans.iter().find(|span| span.name == "publish").context("a span for the call")?;
    ensure!(hex::encode(&published.parent_span_id) == CALLER, "{published:?}");
    ensure!(attribute(published, "hookwire.tenant") == tenant, "{published:?}");
    let mut attempts: Vec<_> = spans.iter().filter(|span| span.name == "attempt").collect();
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    ensure!(attempts.len() == 2 && spans.len() == 3, "{spans:?}");
    for ((span, arrival), status) in attempts.iter().zip(&arrivals).zip(["503", "200"]) {
        ensure!(span.parent_span_id == published.span_id, "it follows from the call: {span:?}");
        let id = hex::encode(&span.span_id);
        ensure!(arrival.header("traceparent") == format!("00-{TRACE}-{id}-01"), "what the recipient sees: {arrival:?}");
        ensure!(attribute(span, "http.response.status_code") == status, "{span:?}");
        ensure!(attribute(span, "hookwire.subscription") == subscription.name, "{span:?}");
        ensure!(attribute(span, "messaging.message.id") == arrival.id(), "{span:?}");
        let is_error = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        ensure!(is_error == (status == "503"), "{span:?}");
        ensure!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
    }
    let services = collector.services.lock().expect("nothing panics with it").clone();
    ensure!(services.iter().all(|service| service == "hookwire"), "{services:?}");
    Ok(())
}

async fn run(shape: Shape) {
    let (collector, port) = (Collector::default(), free_ports(1));
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_shutdown(([127, 0, 0, 1], port).into(), end.cancelled_owned());
    tokio::spawn(server);
    let options =
        Options::default().schedule(&[0, 500], &[500]).set("traces.endpoint", format!("http://127.0.0.1:{port}"));
    cluster::with(shape, options, async |cluster: &mut Cluster| a_trace_goes_on(cluster, &collector).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_a_trace_goes_on_over_otlp() {
    run(Shape::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn production_a_trace_goes_on_over_otlp() {
    run(Shape::Production).await;
}
