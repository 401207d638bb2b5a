//! Publishing as publishers see it: streams, payloads of any type, and quotas.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::channel::mpsc;
use hookwire_proto::v1::new_message::Payload;
use hookwire_proto::v1::{NewMessage, PublishQuota, StreamMessagesRequest, Tenant, UpdateTenantRequest};
use hookwire_tests::api::{id_of, message};
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::on_both_shapes;
use tonic::Code;
use tonic_types::StatusExt as _;

const LIMIT: Duration = Duration::from_secs(60);
const MESSAGES: usize = 2_000;

/// One of each kind, in turn: content type and bytes.
fn content(number: usize) -> (&'static str, Bytes) {
    let every_byte = || (0..=u8::MAX).cycle().skip(number).take(1_000).collect::<Vec<_>>();
    match number % 5 {
        0 => ("application/json", format!(r#"{{"number":{number}}}"#).into()),
        1 => ("application/octet-stream", every_byte().into()),
        2 => ("text/plain; charset=utf-8", format!("Nummer {number}, größer als {}", number - 1).into()),
        3 => ("application/xml", format!("<number>{number}</number>").into()),
        // Nothing at all is something, too, where it need not be JSON.
        _ => ("image/png", Bytes::new()),
    }
}

async fn a_stream_delivers_whatever_it_is_given(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["p.event"]).await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/stream"), &["p.event"]).await?.revision;
    let (requests, receiver) = mpsc::unbounded();
    let mut responses = cluster.publisher()?.publishing().stream_messages(receiver).await?.into_inner();
    let numbers: Vec<usize> = (0..MESSAGES).collect();
    for some in numbers.chunks(100) {
        let message = |&number: &usize| {
            let (content_type, data) = content(number);
            NewMessage {
                message_id: format!("m-{number}"),
                event_type: "p.event".into(),
                content_type: content_type.into(),
                payload: Some(Payload::Data(data)),
                ordering_key: if number % 2 == 0 { "even".into() } else { String::new() },
                ..NewMessage::default()
            }
        };
        let messages = some.iter().map(message).collect();
        let request = StreamMessagesRequest { parent: tenant.clone(), messages, min_revision: revision };
        requests.unbounded_send(request)?;
    }
    let mut told = 0;
    while told < MESSAGES {
        let response = responses.message().await?.context("the stream goes on")?;
        ensure!(response.first == i64::try_from(told)?);
        for result in response.results {
            ensure!(result.error.is_none() && id_of(&result.name) == format!("m-{told}"), "{result:?}");
            told += 1;
        }
    }
    let arrived = cluster.receiver.wait("/stream", MESSAGES, LIMIT).await?;
    let arrived: HashMap<&str, _> = arrived.iter().map(|arrival| (arrival.id(), arrival)).collect();
    for number in numbers {
        let (content_type, data) = content(number);
        let arrival = arrived.get(format!("m-{number}").as_str()).context("it arrived")?;
        ensure!(arrival.body == data && arrival.header("content-type") == content_type, "{arrival:?}");
    }

    // A stream that is open keeps no node from ending.
    let process = match cluster.shape {
        Shape::Embedded => &mut cluster.control_planes[0].process,
        Shape::Production => &mut cluster.nodes[0].process,
    };
    ensure!(process.terminate(LIMIT).await?.success());
    let status = responses.message().await.err().context("the stream ends")?;
    let reason = status.get_details_error_info().map(|info| info.reason);
    ensure!(status.code() == Code::Unavailable && reason.as_deref() == Some("NOT_READY"), "{status:?}");
    Ok(())
}

async fn a_tenants_quota_holds_and_can_be_raised(cluster: &mut Cluster) -> Result<()> {
    let (control, publisher) = (cluster.control(0)?, cluster.publisher()?);
    let tenant = control.new_tenant(&["p.event"]).await?;
    let set = async |messages_per_second| {
        let publish_quota = Some(PublishQuota { messages_per_second, burst: 10 });
        let tenant = Some(Tenant { name: tenant.clone(), publish_quota, ..Tenant::default() });
        let request = UpdateTenantRequest { tenant, update_mask: None };
        Ok::<_, anyhow::Error>(control.tenants().update_tenant(request).await?.into_inner().revision)
    };
    let batch = || vec![message("p.event", "{}"); 20];
    let revision = set(0.01).await?;
    publisher.publish(&tenant, batch(), revision).await?;
    let status = publisher.publish(&tenant, batch(), revision).await.err().context("more than the quota")?;
    let reason = status.get_details_error_info().map(|info| info.reason);
    ensure!(status.code() == Code::ResourceExhausted && reason.as_deref() == Some("QUOTA_EXCEEDED"), "{status:?}");
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    ensure!(retry.is_some_and(|retry| retry > Duration::from_secs(60)), "{retry:?}");

    let revision = set(1_000.0).await?;
    let refused = publisher.publish(&tenant, batch(), revision).await.err();
    // What it owed by its old quota is not held against it beyond what the new one makes up for within a second or so.
    let retry = refused.and_then(|status| status.get_details_retry_info()?.retry_delay).unwrap_or_default();
    ensure!(retry <= Duration::from_millis(1_020), "{retry:?}");
    tokio::time::sleep(retry).await;
    publisher.publish(&tenant, batch(), revision).await?;
    Ok(())
}

on_both_shapes!(stream, Options::default(), a_stream_delivers_whatever_it_is_given);
on_both_shapes!(quota, Options::default(), a_tenants_quota_holds_and_can_be_raised);
