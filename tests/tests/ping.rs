//! A ping: somebody asks how a recipient answers now, and is told.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_log::Topic;
use hookwire_proto::v1::attempt::Error as AttemptError;
use hookwire_proto::v1::{PingSubscriptionRequest, PingSubscriptionResponse, Subscription};
use hookwire_tests::api::{Api, message, secret_of};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::on_both_shapes;
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::verifier::{Expectation, Verifiers};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(30);

async fn ping(control: &Api, subscription: &Subscription) -> Result<PingSubscriptionResponse> {
    let request = PingSubscriptionRequest { name: subscription.name.clone(), timeout: None };
    Ok(control.subscriptions().ping_subscription(request).await?.into_inner())
}

async fn who_asks_is_told_how_the_recipient_answers(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["p.event"]).await?;
    let receiver = &cluster.receiver;
    receiver.script("/good", [], Behaviour::status(204));
    receiver.script("/fails", [], Behaviour::status(503));
    receiver.script("/hangs", [], Behaviour::Hang);
    let good = control.subscribe(&tenant, &receiver.url("/good"), &["p.event"]).await?;
    let fails = control.subscribe(&tenant, &receiver.url("/fails"), &["p.event"]).await?;
    let hangs = control.subscribe(&tenant, &receiver.url("/hangs"), &["p.event"]).await?;

    let told = ping(&control, &good).await?;
    ensure!(told.delivered && told.summary.starts_with("answered 204 after "), "{told:?}");
    let attempt = told.attempt.context("an attempt")?;
    ensure!(attempt.status_code == 204 && attempt.number == 1 && attempt.subscription == good.name, "{attempt:?}");
    ensure!(attempt.name.is_empty() && attempt.delivery.is_empty() && !attempt.node.is_empty(), "{attempt:?}");
    let arrival = receiver.wait("/good", 1, LIMIT).await?.remove(0);
    ensure!(arrival.id() == told.webhook_id, "{} and {}", arrival.id(), told.webhook_id);
    let body: serde_json::Value = serde_json::from_slice(&arrival.body)?;
    ensure!(body["type"] == "hookwire.ping" && body["data"]["subscription"] == good.name.as_str(), "{body}");
    // It is signed as every request is.
    let expected = Expectation { secret: secret_of(&good)?, audience: receiver.origin() };
    Verifiers::start()?.accept(&arrival, &expected).await?;

    // One that backs off, with more queued than it may have under way, is asked all the same, and once.
    let messages = (0..100).map(|number| message("p.event", number.to_string())).collect();
    cluster.publisher()?.publish(&tenant, messages, hangs.revision).await?;
    receiver.wait("/fails", 1, LIMIT).await?;
    let told = ping(&control, &fails).await?;
    ensure!(!told.delivered && told.summary.starts_with("answered 503 after "), "{told:?}");
    let told = ping(&control, &hangs).await?;
    ensure!(!told.delivered && told.summary.starts_with("no answer in time after 2"), "{told:?}");
    let attempt = told.attempt.context("an attempt")?;
    ensure!(attempt.error() == AttemptError::Timeout && attempt.status_code == 0, "{attempt:?}");
    let asked = |path: &str, id: &str| receiver.arrivals(path).iter().filter(|arrival| arrival.id() == id).count();
    ensure!(asked("/hangs", &told.webhook_id) == 1);

    // Nothing follows from a ping: not even what fails is tried again, or dead.
    receiver.wait("/good", 101, LIMIT).await?;
    let log = cluster.open_log().await?;
    for topic in [Topic::DeadLetters, Topic::Retries(0), Topic::Retries(1)] {
        for partition in 0..log.layout().partitions(topic) {
            let bounds = log.bounds(topic, partition).await?;
            let mut next = bounds.low;
            while next < bounds.next {
                for record in log.read(topic, partition, next, 100, 1 << 20).await? {
                    next = record.offset + 1;
                    ensure!(!hookwire_log::codec::decode_delivery(&record)?.ping, "a ping in {topic:?}");
                }
            }
        }
    }
    log.close().await;
    Ok(())
}

async fn who_is_not_there_is_not_asked(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["p.event"]).await?;
    let gone = Subscription { name: format!("{tenant}/subscriptions/none"), ..Subscription::default() };
    let refused = ping(&control, &gone).await.err().context("there is none")?;
    let status = refused.downcast::<tonic::Status>()?;
    ensure!(status.code() == Code::NotFound, "{status}");
    // Nobody listens there.
    let port = hookwire_tests::machine::free_ports(1);
    let closed = control.subscribe(&tenant, &format!("https://localhost:{port}/"), &["p.event"]).await?;
    let told = ping(&control, &closed).await?;
    ensure!(!told.delivered && told.summary.starts_with("no connection after "), "{told:?}");
    Ok(())
}

on_both_shapes!(
    told,
    Options::default().set("deliver.attempt_timeout", "2s").set("deliver.connect_timeout", "2s"),
    who_asks_is_told_how_the_recipient_answers
);
on_both_shapes!(refused, Options::default(), who_is_not_there_is_not_asked);
