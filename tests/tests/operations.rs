//! What those who run it see: health, refused settings, an orderly end; logs without secrets; a trace that goes through.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::{CreateSubscriptionRequest, PublishMessagesRequest, SharedKey, Subscription};
use hookwire_tests::api::{message, secret_of};
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::{on_both_shapes, wait_until};
use tonic::Request;

const LIMIT: Duration = Duration::from_secs(30);

async fn the_trace_of_a_call_reaches_the_recipient(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["o.event"]).await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/trace"), &["*"]).await?.revision;
    let messages = vec![message("o.event", "{}")];
    let mut request = Request::new(PublishMessagesRequest { parent: tenant, messages, min_revision: revision });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    request.metadata_mut().insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse()?);
    request.metadata_mut().insert("tracestate", "vendor=value".parse()?);
    cluster.publisher()?.publishing().publish_messages(request).await?;
    let arrival = cluster.receiver.wait("/trace", 1, LIMIT).await?.remove(0);
    let received = arrival.header("traceparent");
    ensure!(received.split('-').nth(1) == Some(trace), "traceparent is {received:?}");
    ensure!(received.split('-').nth(3) == Some("01"), "it was sampled: {received:?}");
    ensure!(arrival.header("tracestate") == "vendor=value");
    Ok(())
}

async fn nothing_secret_is_logged(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["o.event"]).await?;
    let url = cluster.receiver.url("/secret-path?token=in-the-query");
    let shared = "pre-shared-0123456789".to_owned();
    let subscription = Subscription {
        url,
        event_types: vec!["o.event".into()],
        shared_key: Some(SharedKey { header: "x-api-key".into(), value: shared.clone() }),
        ..Subscription::default()
    };
    let request = CreateSubscriptionRequest {
        parent: tenant.clone(),
        subscription_id: String::new(),
        subscription: Some(subscription),
        ..CreateSubscriptionRequest::default()
    };
    let subscription = control.subscriptions().create_subscription(request).await?.into_inner();
    let payload = "a-payload-that-nobody-else-reads";
    let revision = subscription.revision;
    cluster.receiver.script(
        "/secret-path",
        [hookwire_tests::receiver::Behaviour::status(500)],
        hookwire_tests::receiver::Behaviour::status(200),
    );
    cluster.publisher()?.publish_one(&tenant, "o.event", &format!(r#""{payload}""#), revision).await?;
    let arrivals = cluster.receiver.wait("/secret-path", 2, LIMIT).await?;
    ensure!(arrivals[0].header("x-api-key") == shared, "the pre-shared key was sent");
    let secret = secret_of(&subscription)?;
    let key = secret.strip_prefix("whsec_").context("a secret has its prefix")?;
    let admin_key = cluster.admin_key.clone();
    let output = cluster.output();
    ensure!(output.lines().count() > 2, "nothing was logged at all");
    let token = arrivals[0].token();
    let signature = arrivals[0].header("webhook-signature");
    // `dev` prints its ready tenant's keys for the one who runs it, so the administrator's key is looked for elsewhere.
    let printed = if cluster.shape == Shape::Embedded { "" } else { admin_key.as_str() };
    for (what, text) in [
        ("the signing secret", key),
        ("the pre-shared key", shared.as_str()),
        ("a token", token),
        ("a signature", signature),
        ("a payload", payload),
        ("a URL's query", "in-the-query"),
        ("a URL's path", "secret-path"),
        ("an API key", printed),
    ] {
        ensure!(text.is_empty() || !output.contains(text), "the log has {what}");
    }
    Ok(())
}

async fn processes_say_how_they_are_and_end_in_order(cluster: &mut Cluster) -> Result<()> {
    for member in cluster.members() {
        for path in ["/livez", "/readyz"] {
            let (status, body) = member.page(path).await.context("it answers")?;
            ensure!(status == 200, "{} {path}: {status} {body}", member.process.name);
        }
        let status = member.process.terminate(LIMIT).await?;
        ensure!(status.success(), "{} ended with {status} on SIGTERM", member.process.name);
        ensure!(member.page("/livez").await.is_none(), "{} still answers", member.process.name);
        member.restart().await?;
    }
    Ok(())
}

async fn a_node_goes_on_without_its_control_plane(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["o.event"]).await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/alone"), &["*"]).await?.revision;
    let publisher = cluster.publisher()?;
    publisher.publish_one(&tenant, "o.event", "{}", revision).await?;
    cluster.receiver.wait("/alone", 1, LIMIT).await?;

    cluster.control_planes[0].process.kill()?;
    for _ in 0..20 {
        publisher.publish_one(&tenant, "o.event", "{}", 0).await?;
    }
    cluster.receiver.wait("/alone", 21, LIMIT).await?;
    ensure!(cluster.nodes[0].page("/readyz").await.is_some_and(|(status, _)| status == 200));

    // A node that never had a configuration is not ready, and says why.
    let node = &mut cluster.nodes[0];
    node.process.kill()?;
    node.process.start()?;
    let mut said = String::new();
    wait_until("the new node says that it isn't ready", LIMIT, async || {
        let page = node.page("/readyz").await;
        said = page.as_ref().map(|(_, body)| body.clone()).unwrap_or_default();
        Ok(page.is_some_and(|(status, _)| status == 503))
    })
    .await?;
    ensure!(said.contains("configuration"), "it says {said:?}");
    ensure!(node.page("/livez").await.is_some_and(|(status, _)| status == 200));
    cluster.control_planes[0].restart().await?;
    cluster.nodes[0].ready().await?;
    cluster.publisher()?.publish_one(&tenant, "o.event", "{}", revision).await?;
    cluster.receiver.wait("/alone", 22, LIMIT).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_plane_nodes_go_on() {
    cluster::with(Shape::Production, Options::default(), a_node_goes_on_without_its_control_plane).await;
}

#[test]
fn wrong_settings_are_refused_with_what_to_write_instead() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("hookwire.toml");
    let cases = [
        ("data-plane", "[listen]\npublis = '127.0.0.1:1'", "listen.publish"),
        ("data-plane", "[listen]\npublish = '0.0.0.0:7402'", "listen.cert_file"),
        ("data-plane", "[node]\ndrain_timeout = 25", "node.drain_timeout"),
        ("data-plane", "[control_plane]\nendpoints = ['http://control-plane.example:7403']", "control_plane.endpoints"),
        (
            "data-plane",
            "[deliver]\ntoken_life = '1s'\n[control_plane]\nendpoints = ['http://127.0.0.1:1']",
            "deliver.token_life",
        ),
        (
            "data-plane",
            "[kafka]\nbrokers = ['kafka.example:9092']\n[control_plane]\nendpoints = ['http://127.0.0.1:1']",
            "kafka.tls",
        ),
        ("data-plane", "nonsense", "TOML"),
        ("control-plane", "[listen]\napi = '0.0.0.0:7401'", "listen"),
        ("control-plane", "[store]\nurl = 'mysql://localhost/'", "store.url"),
        ("control-plane", "[store]\nurl = 'postgres://db.example/hookwire'", "store.url"),
    ];
    for (command, toml, named) in cases {
        fs::write(&file, toml)?;
        let error = cluster::run(&[command.into(), "--config".into(), file.to_string_lossy().into_owned()]);
        let error = error.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains(named), "{command} with {toml:?} says {error:?}");
        ensure!(error.contains("exit status: 2"), "{command} with {toml:?} says {error:?}");
    }
    Ok(())
}

on_both_shapes!(trace, Options::default(), the_trace_of_a_call_reaches_the_recipient);
on_both_shapes!(
    secrecy,
    Options::default().schedule(&[0, 1000], &[500]).set("telemetry.filter", "debug"),
    nothing_secret_is_logged
);
on_both_shapes!(health, Options { nodes: 2, ..Options::default() }, processes_say_how_they_are_and_end_in_order);
