//! Bad input gets its canonical code, a reason for machines and a word for people, and leaves nothing behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::{
    ApiKey, CreateApiKeyRequest, CreateEventTypeRequest, CreateSubscriptionRequest, CreateTenantRequest,
    DeleteApiKeyRequest, DeleteSecretRequest, DeleteTenantRequest, GetTenantRequest, ListEventTypesRequest,
    ListSecretsRequest, ListSubscriptionsRequest, ListTenantsRequest, NewMessage, Subscription, Tenant,
};
use hookwire_tests::api::{Api, message};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::{on_both_shapes, wait_until};
use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

/// What a refusal must say.
struct Refusal<'a> {
    code: Code,
    reason: &'a str,
    /// Field with a violation, or "" where no field is to blame.
    field: &'a str,
}

const fn refusal<'a>(code: Code, reason: &'a str, field: &'a str) -> Refusal<'a> {
    Refusal { code, reason, field }
}

/// Fails unless `answer` is this refusal.
fn refused<T>(what: &str, answer: Result<T, Status>, expected: &Refusal<'_>) -> Result<()> {
    let Err(status) = answer else { anyhow::bail!("{what}: accepted") };
    ensure!(status.code() == expected.code, "{what}: {status:?}, not {:?}", expected.code);
    ensure!(status.message().len() > 10, "{what}: nothing that a person can act on: {:?}", status.message());
    let details = status.get_error_details();
    let info = details.error_info();
    let (reason, domain) = info.map_or(("", ""), |info| (info.reason.as_str(), info.domain.as_str()));
    ensure!((reason, domain) == (expected.reason, "hookwire"), "{what}: ErrorInfo is {info:?}");
    if !expected.field.is_empty() {
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let violation = violations.iter().find(|violation| violation.field == expected.field);
        ensure!(violation.is_some_and(|it| it.description.len() > 10), "{what}: violations are {violations:?}");
    }
    Ok(())
}

/// Creates a key and waits until the nodes know it.
async fn new_key(cluster: &Cluster, role: Role, tenant: &str) -> Result<ApiKey> {
    let api_key = ApiKey { role: role.into(), tenant: tenant.into(), ..ApiKey::default() };
    let request = CreateApiKeyRequest { api_key: Some(api_key), ..CreateApiKeyRequest::default() };
    let key = cluster.control(0)?.api_keys().create_api_key(request).await?.into_inner();
    if role == Role::Publisher {
        let publisher = cluster.publisher()?.with_key(&key.key)?;
        wait_until("the new key is known to the node", Duration::from_secs(10), async || {
            let answer = publisher.publish(tenant, vec![message("b.event", "{}")], 0).await;
            Ok(answer.is_ok())
        })
        .await?;
    }
    Ok(key)
}

async fn keys_are_checked_first(cluster: &mut Cluster) -> Result<()> {
    let (control, node) = (cluster.control(0)?, cluster.publisher()?);
    let (ours, theirs) = (control.new_tenant(&["b.event"]).await?, control.new_tenant(&["b.event"]).await?);
    let publisher = new_key(cluster, Role::Publisher, &ours).await?;
    let viewer = new_key(cluster, Role::Viewer, &ours).await?;
    let get = |api: Api, name: &str| {
        let request = GetTenantRequest { name: name.into() };
        async move { api.tenants().get_tenant(request).await.map(Response::into_inner) }
    };
    // Once the node knows both keys.
    let revision = viewer.revision;
    let publish = |api: Api, tenant: &str| {
        let tenant = tenant.to_owned();
        async move { api.publish(&tenant, vec![message("b.event", "{}")], revision).await }
    };

    let missing = refusal(Unauthenticated, "API_KEY_MISSING", "");
    refused("no key", get(control.with_key("")?, &ours).await, &missing)?;
    refused("no key at a node", publish(node.with_key("")?, &ours).await, &missing)?;
    let invalid = refusal(Unauthenticated, "API_KEY_INVALID", "");
    refused("a key that is none", get(control.with_key("hwk_no_key")?, &ours).await, &invalid)?;
    refused("a key that is none, at a node", publish(node.with_key("hwk_no_key")?, &ours).await, &invalid)?;

    // Whether there is such a tenant, a stranger is not told.
    let denied = refusal(PermissionDenied, "PERMISSION_DENIED", "");
    let stranger = control.with_key(&publisher.key)?;
    refused("another's tenant", get(stranger.clone(), &theirs).await, &denied)?;
    refused("no tenant", get(stranger.clone(), "tenants/nobody").await, &denied)?;
    refused("another's tenant at a node", publish(node.with_key(&publisher.key)?, &theirs).await, &denied)?;
    refused("no tenant at a node", publish(node.with_key(&publisher.key)?, "tenants/nobody").await, &denied)?;
    refused("a publisher subscribes", subscribe(&stranger, &ours, "https://example.com/", "b.event").await, &denied)?;
    refused("a viewer publishes", publish(node.with_key(&viewer.key)?, &ours).await, &denied)?;
    let tenants = stranger.tenants().list_tenants(ListTenantsRequest::default()).await;
    refused("a publisher lists tenants", tenants, &denied)?;

    // Revoked, it is soon refused everywhere.
    control
        .api_keys()
        .delete_api_key(DeleteApiKeyRequest { name: publisher.name.clone(), ..DeleteApiKeyRequest::default() })
        .await?;
    refused("a revoked key", get(stranger, &ours).await, &invalid)?;
    wait_until("the node refuses the revoked key", Duration::from_secs(10), async || {
        Ok(publish(node.with_key(&publisher.key)?, &ours).await.is_err_and(|status| status.code() == Unauthenticated))
    })
    .await?;
    Ok(())
}

async fn subscribe(api: &Api, tenant: &str, url: &str, event_type: &str) -> Result<Subscription, Status> {
    let subscription =
        Subscription { url: url.into(), event_types: vec![event_type.into()], ..Subscription::default() };
    let request = CreateSubscriptionRequest {
        parent: tenant.into(),
        subscription_id: String::new(),
        subscription: Some(subscription),
        ..CreateSubscriptionRequest::default()
    };
    Ok(api.subscriptions().create_subscription(request).await?.into_inner())
}

async fn the_api_refuses_what_it_cannot_use(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["b.event"]).await?;
    let invalid = |field| refusal(InvalidArgument, "INVALID_ARGUMENT", field);

    for id in ["Upper", "-dash", "a.b", &"x".repeat(64)] {
        let request = CreateTenantRequest {
            tenant_id: id.into(),
            tenant: Some(Tenant::default()),
            ..CreateTenantRequest::default()
        };
        refused(id, control.tenants().create_tenant(request).await, &invalid("tenant_id"))?;
    }
    let taken = tenant.trim_start_matches("tenants/");
    let request = CreateTenantRequest {
        tenant_id: taken.into(),
        tenant: Some(Tenant::default()),
        ..CreateTenantRequest::default()
    };
    let exists = refusal(AlreadyExists, "ALREADY_EXISTS", "");
    refused("a taken id", control.tenants().create_tenant(request).await, &exists)?;
    let request = GetTenantRequest { name: "tenant/x".into() };
    refused("a malformed name", control.tenants().get_tenant(request).await, &invalid("name"))?;
    let request = GetTenantRequest { name: "tenants/nobody".into() };
    refused("no such tenant", control.tenants().get_tenant(request).await, &refusal(NotFound, "NOT_FOUND", ""))?;
    let request = DeleteTenantRequest { name: tenant.clone(), ..DeleteTenantRequest::default() };
    let children = refusal(FailedPrecondition, "HAS_CHILDREN", "");
    refused("a tenant with children", control.tenants().delete_tenant(request).await, &children)?;

    for id in ["a..b", "ümlaut", "", ".a", "a b"] {
        let request = CreateEventTypeRequest {
            parent: tenant.clone(),
            event_type_id: id.into(),
            event_type: None,
            ..CreateEventTypeRequest::default()
        };
        refused(id, control.event_types().create_event_type(request).await, &invalid("event_type_id"))?;
    }

    let urls = [
        "http://example.com/",
        "https://user:password@example.com/",
        "https://10.1.2.3/",
        "https://[fd00::1]/",
        "https://0x0a010203/",
        "https://169.254.169.254/latest/meta-data/",
        "ftp://example.com/",
        "example.com",
        "https://",
        "",
    ];
    for url in urls {
        // `hookwire dev` allows http and says so.
        if url.starts_with("http:") && cluster.shape == hookwire_tests::cluster::Shape::Embedded {
            continue;
        }
        refused(url, subscribe(&control, &tenant, url, "b.event").await, &invalid("subscription.url"))?;
    }
    let unknown = refusal(FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED", "");
    let answer = subscribe(&control, &tenant, "https://example.com/", "b.unknown").await;
    refused("an event type that isn't registered", answer, &unknown)?;
    let answer = subscribe(&control, "tenants/nobody", "https://example.com/", "b.event").await;
    refused("a tenant that isn't", answer, &refusal(NotFound, "NOT_FOUND", ""))?;
    let request = ListSubscriptionsRequest { parent: tenant.clone(), ..ListSubscriptionsRequest::default() };
    let left = control.subscriptions().list_subscriptions(request).await?.into_inner().subscriptions;
    ensure!(left.is_empty(), "a refused subscription was written: {left:?}");

    let subscription = subscribe(&control, &tenant, "https://example.com/", "b.event").await?;
    let request = ListSecretsRequest { parent: subscription.name, ..ListSecretsRequest::default() };
    let secrets = control.subscriptions().list_secrets(request).await?.into_inner().secrets;
    ensure!(secrets.len() == 1 && secrets[0].key.is_empty(), "a secret is shown once: {}", secrets.len());
    let request = DeleteSecretRequest { name: secrets[0].name.clone(), ..Default::default() };
    let last = refusal(FailedPrecondition, "LAST_SECRET", "");
    refused("the last secret", control.subscriptions().delete_secret(request).await, &last)?;
    Ok(())
}

async fn a_page_token_is_good_for_its_own_list_only(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["p.a", "p.b", "p.c"]).await?;
    let other = control.new_tenant(&["p.a", "p.b"]).await?;
    let list = |parent: &str, page_size: i32, page_token: &str| {
        let request = ListEventTypesRequest { parent: parent.into(), page_size, page_token: page_token.into() };
        let api = control.clone();
        async move { api.event_types().list_event_types(request).await.map(Response::into_inner) }
    };
    let first = list(&tenant, 2, "").await?;
    ensure!(first.event_types.len() == 2 && !first.next_page_token.is_empty());
    let second = list(&tenant, 2, &first.next_page_token).await?;
    ensure!(second.event_types.len() == 1 && second.next_page_token.is_empty());
    let token = refusal(InvalidArgument, "INVALID_ARGUMENT", "page_token");
    refused("a token of another tenant", list(&other, 2, &first.next_page_token).await, &token)?;
    refused("a token that is none", list(&tenant, 2, "2").await, &token)?;
    let request = ListTenantsRequest { page_token: first.next_page_token, ..ListTenantsRequest::default() };
    refused("a token of another list", control.tenants().list_tenants(request).await, &token)?;
    let size = refusal(InvalidArgument, "INVALID_ARGUMENT", "page_size");
    refused("a negative page", list(&tenant, -1, "").await, &size)
}

async fn a_batch_is_refused_as_a_whole(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let node = cluster.publisher()?;
    let tenant = control.new_tenant(&["b.event"]).await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/batch"), &["*"]).await?.revision;
    let with_id = |id: &str| NewMessage { message_id: id.into(), ..message("b.event", "{}") };
    let refuse = async |what: &str, bad: Vec<NewMessage>, expected: Refusal<'_>| {
        // Behind a good one, which must not be taken either.
        let messages = [vec![message("b.event", r#"{"good":true}"#)], bad].concat();
        refused(what, node.publish(&tenant, messages, revision).await, &expected)
    };
    let invalid = |field| refusal(InvalidArgument, "INVALID_ARGUMENT", field);
    let unknown = refusal(FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED", "");
    refuse("an event type that isn't registered", vec![message("b.unknown", "{}")], unknown).await?;
    refuse("an id with a dot", vec![with_id("a.b")], invalid("messages[1].message_id")).await?;
    refuse("an id that is too long", vec![with_id(&"x".repeat(65))], invalid("messages[1].message_id")).await?;
    refuse("an id twice", vec![with_id("a"), with_id("a")], invalid("messages[2].message_id")).await?;
    refuse("half of JSON", vec![message("b.event", "{")], invalid("messages[1].data")).await?;
    let large = format!("\"{}\"", "x".repeat(256 * 1024));
    refuse("more than 256 KiB", vec![message("b.event", large)], invalid("messages[1].data")).await?;
    let many = vec![message("b.event", "{}"); 1_000];
    refuse("1,001 messages", many, invalid("messages")).await?;
    refused("no message", node.publish(&tenant, Vec::new(), 0).await, &invalid("messages"))?;
    let nobody = node.publish("tenants/nobody", vec![message("b.event", "{}")], 0).await;
    refused("no such tenant", nobody, &refusal(NotFound, "NOT_FOUND", ""))?;

    let good = node.publish_one(&tenant, "b.event", r#"{"last":true}"#, revision).await?;
    let arrivals = cluster.receiver.wait("/batch", 1, Duration::from_secs(20)).await?;
    ensure!(arrivals.len() == 1 && arrivals[0].id() == good, "a part of a refused batch was taken: {arrivals:?}");
    Ok(())
}

on_both_shapes!(keys, Options::default(), keys_are_checked_first);
on_both_shapes!(api, Options::default(), the_api_refuses_what_it_cannot_use);
on_both_shapes!(pages, Options::default(), a_page_token_is_good_for_its_own_list_only);
on_both_shapes!(batches, Options::default(), a_batch_is_refused_as_a_whole);
