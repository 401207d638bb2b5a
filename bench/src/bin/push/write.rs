//! Writes through the API: what is there from the beginning, and the changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hookwire_bench::report::say;
use hookwire_proto::v1::event_type_service_client::EventTypeServiceClient;
use hookwire_proto::v1::subscription_service_client::SubscriptionServiceClient;
use hookwire_proto::v1::tenant_service_client::TenantServiceClient;
use hookwire_proto::v1::{
    CreateEventTypeRequest, CreateSubscriptionRequest, CreateTenantRequest, GetSubscriptionRequest, Subscription,
    Tenant,
};
use rand::Rng as _;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::plane::{KEY, Plane};

/// Calls at a time: a writer waits for the one before it in any case.
const CALLS: usize = 16;
const EVENT_TYPES: [&str; 2] = ["invoice.paid", "invoice.overdue"];

/// A change that was made.
pub struct Written {
    pub revision: i64,
    pub began: Instant,
    pub ended: Instant,
}

/// Makes tenants, their event types and subscriptions, unless they are there. How many writes it took, and how long.
pub async fn fill(planes: &[Plane; 2], tenants: usize, subscriptions: usize) -> Result<Option<(usize, Duration)>> {
    let channel = connect(&planes[0]).await?;
    let last = subscription_name(tenants, subscriptions - 1);
    let mut client = SubscriptionServiceClient::new(channel.clone());
    match client.get_subscription(authorized(GetSubscriptionRequest { name: last })?).await {
        Ok(_) => return Ok(None),
        Err(status) => ensure!(status.code() == Code::NotFound, "{status:?}"),
    }
    say("filling");
    let began = Instant::now();
    let writes = tenants * 3 + subscriptions;
    let next = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let (next, channel) = (next.clone(), channel.clone());
        // A tenant with all that lies below it is one caller's, and the last subscription the last of all but a few.
        calls.spawn(async move {
            loop {
                let tenant = next.fetch_add(1, Ordering::Relaxed);
                if tenant >= tenants {
                    return anyhow::Ok(());
                }
                fill_tenant(&channel, tenant, (tenant..subscriptions).step_by(tenants)).await?;
                if tenant > 0 && tenant.is_multiple_of(1_000) {
                    say(&format!("{tenant} tenants of {tenants}"));
                }
            }
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(Some((writes, began.elapsed())))
}

async fn fill_tenant(channel: &Channel, tenant: usize, subscriptions: impl Iterator<Item = usize>) -> Result<()> {
    let request = CreateTenantRequest {
        tenant_id: format!("t{tenant}"),
        tenant: Some(Tenant::default()),
        ..CreateTenantRequest::default()
    };
    TenantServiceClient::new(channel.clone()).create_tenant(authorized(request)?).await?;
    for event_type in EVENT_TYPES {
        let request = CreateEventTypeRequest {
            parent: format!("tenants/t{tenant}"),
            event_type_id: event_type.into(),
            ..CreateEventTypeRequest::default()
        };
        EventTypeServiceClient::new(channel.clone()).create_event_type(authorized(request)?).await?;
    }
    for subscription in subscriptions {
        subscribe(channel.clone(), tenant, subscription_id(subscription)).await?;
    }
    Ok(())
}

fn subscription_id(number: usize) -> String {
    format!("s{number}")
}

fn subscription_name(tenants: usize, number: usize) -> String {
    format!("tenants/t{}/subscriptions/{}", number % tenants, subscription_id(number))
}

/// Two event types, a URL of 80 bytes, one secret; the server chooses an id if it is empty.
async fn subscribe(channel: Channel, tenant: usize, id: String) -> Result<i64> {
    let url = format!("https://hooks.example.com/{:054}", rand::rng().random_range(0..1_000_000_000_u64));
    debug_assert_eq!(url.len(), 80);
    let subscription =
        Subscription { url, event_types: EVENT_TYPES.map(str::to_owned).to_vec(), ..Subscription::default() };
    let request = CreateSubscriptionRequest {
        parent: format!("tenants/t{tenant}"),
        subscription_id: id,
        subscription: Some(subscription),
        ..CreateSubscriptionRequest::default()
    };
    let made = SubscriptionServiceClient::new(channel).create_subscription(authorized(request)?).await?;
    Ok(made.into_inner().revision)
}

/// Makes changes at this pace, through each control plane in turn, whether the one before is done or not.
pub async fn changes(planes: &[Plane; 2], tenants: usize, count: usize, per_second: usize) -> Result<Vec<Written>> {
    let channels = [connect(&planes[0]).await?, connect(&planes[1]).await?];
    let mut pace = interval(Duration::from_secs_f64(1.0 / per_second as f64));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    for number in 0..count {
        pace.tick().await;
        let (channel, tenant) = (channels[number % 2].clone(), rand::rng().random_range(0..tenants));
        let began = Instant::now();
        calls.spawn(async move {
            let revision = subscribe(channel, tenant, String::new()).await?;
            anyhow::Ok(Written { revision, began, ended: Instant::now() })
        });
    }
    let mut written = Vec::new();
    while let Some(ended) = calls.join_next().await {
        written.push(ended??);
    }
    Ok(written)
}

async fn connect(plane: &Plane) -> Result<Channel> {
    Channel::from_shared(plane.api.clone())?.connect().await.context("the control plane's API")
}

fn authorized<T>(request: T) -> Result<Request<T>> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse()?);
    Ok(request)
}
