//! Real payloads, all of GitHub's webhook examples, arrive byte for byte, and other people's code accepts every request
//! and refuses what was tampered with.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hookwire_tests::api::{id_of, message, secret_of};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::machine::tool;
use hookwire_tests::receiver::{Arrival, now_ms};
use hookwire_tests::verifier::{Expectation, Verifiers};
use hookwire_tests::{on_both_shapes, say};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One event in GitHub's examples.
#[derive(Deserialize)]
struct Event {
    name: String,
    examples: Vec<Box<RawValue>>,
}

/// Every example as it stands in the package, bytes untouched: event type and payload.
fn examples() -> Result<Vec<(String, Bytes)>> {
    let package = tool("node/node_modules/@octokit/webhooks-examples")?;
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(package)? {
        let file = entry?.path().join("index.json");
        if !file.exists() {
            continue;
        }
        let events: Vec<Event> = serde_json::from_slice(&std::fs::read(&file)?)?;
        for event in events {
            for example in event.examples {
                let payload: serde_json::Value = serde_json::from_str(example.get())?;
                let event_type = match payload["action"].as_str() {
                    // One of GitHub's actions is called `on-demand-test`, which no event type here can be.
                    Some(action) => {
                        format!("{}.{}", event.name, action.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
                    }
                    None => event.name.clone(),
                };
                examples.push((event_type, Bytes::copy_from_slice(example.get().as_bytes())));
            }
        }
    }
    ensure!(examples.len() > 500, "only {} examples were found", examples.len());
    Ok(examples)
}

/// Larger than any example, to the very limit, and hardly a byte of ASCII.
fn large() -> Vec<(String, Bytes)> {
    let text = |bytes: usize| Bytes::from(format!("\"{}\"", "é".repeat((bytes - 2) / 2)));
    [16 << 10, (16 << 10) + 2, 256 << 10, 1 << 20].map(|bytes| ("large.text".to_owned(), text(bytes))).to_vec()
}

async fn every_example_arrives_byte_for_byte(cluster: &mut Cluster) -> Result<()> {
    let payloads = [examples()?, large()].concat();
    let types: BTreeSet<&str> = payloads.iter().map(|(event_type, _)| event_type.as_str()).collect();
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&types.into_iter().collect::<Vec<_>>()).await?;
    let subscription = control.subscribe(&tenant, &cluster.receiver.url("/github"), &["*"]).await?;
    let expected = Expectation { secret: secret_of(&subscription)?, audience: cluster.receiver.origin() };
    let mut verifiers = Verifiers::start()?;
    let publisher = cluster.publisher()?;

    let (mut sent, mut verified) = (HashMap::new(), 0);
    let mut last: Option<Arrival> = None;
    for batch in payloads.chunks(50) {
        let messages = batch.iter().map(|(event_type, payload)| message(event_type, payload.clone())).collect();
        let results = publisher.publish(&tenant, messages, subscription.revision).await?;
        for (result, (_, payload)) in results.iter().zip(batch) {
            ensure!(result.error.is_none(), "{:?}", result.error);
            sent.insert(id_of(&result.name).to_owned(), payload.clone());
        }
        // As they arrive, since a token lives for 20 s.
        for arrival in cluster.receiver.wait("/github", sent.len(), Duration::from_secs(30)).await?.drain(verified..) {
            let payload = sent.get(arrival.id()).with_context(|| format!("{} was not published", arrival.id()))?;
            ensure!(arrival.body == payload, "{} arrived with other bytes", arrival.id());
            let claims = verifiers.accept(&arrival, &expected).await?;
            check_headers(&arrival, &claims)?;
            verified += 1;
            last = Some(arrival);
        }
    }
    ensure!(verified == payloads.len(), "{verified} arrivals of {} payloads", payloads.len());
    let bytes: usize = payloads.iter().map(|(_, payload)| payload.len()).sum();
    say(&format!("{verified} payloads, {bytes} bytes, each accepted by every verifier"));
    tampering_is_refused(&mut verifiers, &last.context("something arrived")?, &expected).await
}

/// What the design lists for every request.
fn check_headers(arrival: &Arrival, claims: &serde_json::Value) -> Result<()> {
    let number = |name: &str| arrival.header(name).parse::<u64>().with_context(|| format!("{name} is a number"));
    let sent = number("webhook-timestamp")?;
    ensure!(arrival.method == "POST" && arrival.header("content-type") == "application/json");
    ensure!(now_ms() / 1000 - sent < 60, "sent at {sent}");
    ensure!(number("webhook-valid-until")? == sent + 20 && claims["exp"] == sent + 20, "{claims}");
    ensure!(number("webhook-attempt")? == 1);
    ensure!(arrival.header("user-agent").starts_with("hookwire/"));
    ensure!(arrival.header("traceparent").len() == 55, "traceparent is {:?}", arrival.header("traceparent"));
    ensure!(claims["webhook_id"] == arrival.id());
    ensure!(claims["body_sha256"] == sha256(&arrival.body), "the token is of another body");
    ensure!(claims["jti"].as_str().is_some_and(|id| id.starts_with("att_")), "{claims}");
    Ok(())
}

async fn tampering_is_refused(verifiers: &mut Verifiers, arrival: &Arrival, expected: &Expectation) -> Result<()> {
    let mut changed = arrival.clone();
    // One byte, such that it stays text: the second of the last letter, which is an é.
    let mut body = changed.body.to_vec();
    let last = body.len() - 2;
    body[last] ^= 1;
    changed.body = body.into();
    verifiers.refuse_signature(&changed, expected).await?;

    let wrong = Expectation { secret: format!("whsec_{}", "A".repeat(44)), ..expected.clone() };
    verifiers.refuse_signature(arrival, &wrong).await?;
    verifiers.refuse_token(arrival, &wrong, &["ignature"]).await?;

    let elsewhere = Expectation { audience: "https://elsewhere.example".into(), ..expected.clone() };
    verifiers.refuse_token(arrival, &elsewhere, &["udience", "\"aud\""]).await?;

    // To be older than its life, a token has to become so.
    let valid_until: u64 = arrival.header("webhook-valid-until").parse()?;
    let left = (valid_until * 1000 + 1).saturating_sub(now_ms());
    tokio::time::sleep(Duration::from_millis(left)).await;
    verifiers.refuse_token(arrival, expected, &["expired", "\"exp\""]).await
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

on_both_shapes!(
    github_examples,
    Options::default().set("publish.max_payload_bytes", 1 << 20),
    every_example_arrives_byte_for_byte
);
