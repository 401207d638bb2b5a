//! Requests come from the addresses that are bound, and recipients are told the same.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::GetEgressAddressesRequest;
use hookwire_tests::api::message;
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::{on_both_shapes, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const BOUND: [&str; 2] = ["127.0.0.2", "127.0.0.3"];

on_both_shapes!(
    requests_come_from_the_addresses_that_recipients_are_told,
    Options { nodes: 2, ..Options::default() }.set("deliver.egress.bind", format!("{BOUND:?}")),
    check
);

async fn check(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["e.event"]).await?;
    let mut revision = 0;
    // So many that every node has some.
    for number in 0..12 {
        revision =
            control.subscribe(&tenant, &cluster.receiver.url(&format!("/{number}")), &["e.event"]).await?.revision;
    }
    let messages = (0..4).map(|_| message("e.event", "{}")).collect();
    cluster.publisher()?.publish(&tenant, messages, revision).await?;
    let mut seen = BTreeSet::new();
    for number in 0..12 {
        let arrivals = cluster.receiver.wait(&format!("/{number}"), 4, LIMIT).await?;
        seen.extend(arrivals.iter().map(|arrival| arrival.source.to_string()));
    }
    ensure!(seen == BOUND.map(str::to_owned).into(), "requests came from {seen:?}");

    let mut told = Default::default();
    wait_until("recipients are told all of them", LIMIT, async || {
        told = control.egress().get_egress_addresses(GetEgressAddressesRequest {}).await?.into_inner();
        Ok(told.complete)
    })
    .await?;
    ensure!(BTreeSet::from_iter(told.addresses.iter().cloned()) == seen, "{told:?}");

    let ops = match cluster.shape {
        // The one before the node's.
        Shape::Embedded => {
            let (host, port) = cluster.control_planes[0].ops.rsplit_once(':').context("an address")?;
            format!("{host}:{}", port.parse::<u16>()? - 1)
        }
        Shape::Production => cluster.control_planes[0].ops.clone(),
    };
    let answer = reqwest::get(format!("{ops}/.well-known/hookwire/egress.json")).await?.error_for_status()?;
    let body: Value = serde_json::from_str(&answer.text().await?)?;
    ensure!(body["addresses"] == serde_json::json!(BOUND) && body["complete"] == true, "{body}");
    Ok(())
}
