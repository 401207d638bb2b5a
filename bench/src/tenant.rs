//! Tenants and their recipients.

use anyhow::{Context as _, Result, ensure};
use hookwire_proto::v1::{BatchCreateSubscriptionsRequest, CreateSubscriptionRequest, Subscription};
use hookwire_tests::api::Api;

/// Subscriptions of a batch.
const BATCH: usize = 1_000;

/// A tenant of its own with the event types of these recipients, which are given by URL and event type.
///
/// # Errors
/// What the server answers.
pub async fn new_tenant(api: &Api, recipients: &[(String, String)]) -> Result<String> {
    let tenant = api.new_tenant(&[]).await?;
    let mut types: Vec<_> = recipients.iter().map(|(_, event_type)| event_type).collect();
    types.sort_unstable();
    types.dedup();
    for event_type in types {
        api.new_event_type(&tenant, event_type).await?;
    }
    Ok(tenant)
}

/// These recipients, by URL and event type; returns the revision from which all are there.
///
/// # Errors
/// What the server answers.
pub async fn subscribe(api: &Api, tenant: &str, recipients: &[(String, String)]) -> Result<i64> {
    let mut revision = 0;
    for recipients in recipients.chunks(BATCH) {
        let request = |(url, event_type): &(String, String)| CreateSubscriptionRequest {
            parent: tenant.to_owned(),
            subscription: Some(Subscription {
                url: url.clone(),
                event_types: vec![event_type.clone()],
                ..Subscription::default()
            }),
            ..CreateSubscriptionRequest::default()
        };
        let requests = recipients.iter().map(request).collect();
        let request = BatchCreateSubscriptionsRequest { parent: tenant.to_owned(), requests, ..Default::default() };
        let created = api.subscriptions().batch_create_subscriptions(request).await?.into_inner().subscriptions;
        ensure!(created.len() == recipients.len(), "all are created");
        revision = created.iter().map(|subscription| subscription.revision).max().context("one")?;
    }
    Ok(revision)
}
