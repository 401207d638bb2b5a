//! What is wrong gets its code, its reason, and every wrong field; and leaves nothing behind.

use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::*;
use ipnet::IpNet;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{Database, invalid, new_subscription, on_both, refusal, refused, start};

on_both!(
    malformed_names_are_named,
    unknown_parents_are_not_found,
    what_exists_is_not_made_again,
    every_wrong_field_of_a_subscription_is_told_at_once,
    urls_that_are_not_public_are_refused_unless_allowed,
    event_types_must_be_registered,
    tokens_of_another_list_are_refused,
    wrong_fields_of_other_resources_are_told,
    a_header_that_is_no_bearer_key_is_none,
    requests_that_are_too_large_are_refused,
);

async fn malformed_names_are_named(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    for name in ["", "acme", "tenants/", "tenants/A", "tenants/a/b", "tenants/a\0"] {
        let get = client.tenants.get_tenant(GetTenantRequest { name: name.into() }).await;
        assert_eq!(refusal(get), invalid(["name"]), "{name:?}");
        let delete = client
            .tenants
            .delete_tenant(DeleteTenantRequest { name: name.into(), ..DeleteTenantRequest::default() })
            .await;
        assert_eq!(refusal(delete), invalid(["name"]), "{name:?}");
        let list = ListEventTypesRequest { parent: name.into(), page_size: -1, page_token: "x".into() };
        let list = client.event_types.list_event_types(list).await;
        assert_eq!(refusal(list), invalid(["parent", "page_size", "page_token"]), "{name:?}");
        let list = ListSubscriptionsRequest { parent: name.into(), ..Default::default() };
        assert_eq!(refusal(client.subscriptions.list_subscriptions(list).await), invalid(["parent"]), "{name:?}");
        let list = ListSecretsRequest { parent: name.into(), ..Default::default() };
        assert_eq!(refusal(client.subscriptions.list_secrets(list).await), invalid(["parent"]), "{name:?}");
        let get = client.event_types.get_event_type(GetEventTypeRequest { name: name.into() }).await;
        assert_eq!(refusal(get), invalid(["name"]), "{name:?}");
        let delete = client
            .event_types
            .delete_event_type(DeleteEventTypeRequest { name: name.into(), ..DeleteEventTypeRequest::default() })
            .await;
        assert_eq!(refusal(delete), invalid(["name"]), "{name:?}");
        let get = client.subscriptions.get_subscription(GetSubscriptionRequest { name: name.into() }).await;
        assert_eq!(refusal(get), invalid(["name"]), "{name:?}");
        let delete = DeleteSubscriptionRequest { name: name.into(), ..DeleteSubscriptionRequest::default() };
        assert_eq!(refusal(client.subscriptions.delete_subscription(delete).await), invalid(["name"]), "{name:?}");
        let delete =
            client.subscriptions.delete_secret(DeleteSecretRequest { name: name.into(), ..Default::default() }).await;
        assert_eq!(refusal(delete), invalid(["name"]), "{name:?}");
        let get = client.api_keys.get_api_key(GetApiKeyRequest { name: name.into() }).await;
        assert_eq!(refusal(get), invalid(["name"]), "{name:?}");
        let delete = client
            .api_keys
            .delete_api_key(DeleteApiKeyRequest { name: name.into(), ..DeleteApiKeyRequest::default() })
            .await;
        assert_eq!(refusal(delete), invalid(["name"]), "{name:?}");
    }
}

async fn unknown_parents_are_not_found(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    let before = plane.store.revision().await.unwrap();
    let not_found = refused(Code::NotFound, "NOT_FOUND");
    let parent = "tenants/nobody".to_owned();
    let subscription = format!("{parent}/subscriptions/s");
    let request = CreateEventTypeRequest {
        parent: parent.clone(),
        event_type_id: "e".into(),
        event_type: None,
        ..CreateEventTypeRequest::default()
    };
    let status = client.event_types.create_event_type(request).await;
    let info = status.as_ref().unwrap_err().get_details_resource_info().unwrap();
    assert_eq!((info.resource_type.as_str(), info.resource_name.as_str()), ("hookwire.dev/Tenant", "tenants/nobody"));
    assert_eq!(refusal(status), not_found);
    let status = client.subscriptions.create_subscription(new_subscription("nobody", "s")).await;
    assert_eq!(refusal(status), not_found);
    let request = CreateSecretRequest { parent: subscription.clone(), ..Default::default() };
    assert_eq!(refusal(client.subscriptions.create_secret(request).await), not_found);
    let request = ListEventTypesRequest { parent: parent.clone(), ..Default::default() };
    assert_eq!(refusal(client.event_types.list_event_types(request).await), not_found);
    let request = ListSubscriptionsRequest { parent: parent.clone(), ..Default::default() };
    assert_eq!(refusal(client.subscriptions.list_subscriptions(request).await), not_found);
    let request = ListSecretsRequest { parent: subscription.clone(), ..Default::default() };
    assert_eq!(refusal(client.subscriptions.list_secrets(request).await), not_found);
    let request = DeleteSecretRequest { name: format!("{subscription}/secrets/k"), ..Default::default() };
    assert_eq!(refusal(client.subscriptions.delete_secret(request).await), not_found);
    let api_key = Some(ApiKey { role: Role::Viewer.into(), tenant: parent, ..Default::default() });
    assert_eq!(
        refusal(
            client.api_keys.create_api_key(CreateApiKeyRequest { api_key, ..CreateApiKeyRequest::default() }).await
        ),
        not_found
    );
    assert_eq!(plane.store.revision().await.unwrap(), before);
}

async fn what_exists_is_not_made_again(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_event_type("acme", "e").await;
    client.create_subscription("acme", "s").await;
    let before = plane.store.revision().await.unwrap();
    let exists = refused(Code::AlreadyExists, "ALREADY_EXISTS");
    let request = CreateTenantRequest {
        tenant_id: "acme".into(),
        tenant: Some(Tenant::default()),
        ..CreateTenantRequest::default()
    };
    assert_eq!(refusal(client.tenants.create_tenant(request).await), exists);
    let request = CreateEventTypeRequest {
        parent: "tenants/acme".into(),
        event_type_id: "e".into(),
        event_type: None,
        ..CreateEventTypeRequest::default()
    };
    assert_eq!(refusal(client.event_types.create_event_type(request).await), exists);
    let status = client.subscriptions.create_subscription(new_subscription("acme", "s")).await;
    assert_eq!(refusal(status), exists);
    assert_eq!(plane.store.revision().await.unwrap(), before);
}

async fn every_wrong_field_of_a_subscription_is_told_at_once(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let request = CreateSubscriptionRequest {
        parent: "tenants/acme".into(),
        subscription_id: "Not-An-Id".into(),
        subscription: Some(Subscription {
            display_name: "x".repeat(201),
            url: "ftp://example.com/".into(),
            event_types: vec!["*".into(), "a b".into(), "*".into()],
            shared_key: Some(SharedKey { header: "Authorization".into(), value: "a\nb".into() }),
            max_concurrency: -1,
            initial_secret: Some(Secret { key: "whsec_short".into(), ..Default::default() }),
            ..Default::default()
        }),
        ..CreateSubscriptionRequest::default()
    };
    let status = client.subscriptions.create_subscription(request).await;
    let expected = invalid([
        "subscription_id",
        "subscription.display_name",
        "subscription.url",
        "subscription.event_types[1]",
        "subscription.event_types[2]",
        "subscription.shared_key.header",
        "subscription.shared_key.value",
        "subscription.max_concurrency",
        "subscription.initial_secret.key",
    ]);
    assert_eq!(refusal(status), expected);
    let request = CreateSubscriptionRequest { parent: "tenants/acme".into(), ..Default::default() };
    let status = client.subscriptions.create_subscription(request).await;
    let expected = invalid(["subscription", "subscription.url", "subscription.event_types"]);
    assert_eq!(refusal(status), expected);

    // However much is wrong, it fits into the headers that clients take.
    let mut request = new_subscription("acme", "s");
    request.subscription.as_mut().unwrap().event_types = vec!["ä".repeat(100); 100];
    let status = client.subscriptions.create_subscription(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.details().len() < 6 * 1024, "{}", status.details().len());
}

async fn urls_that_are_not_public_are_refused_unless_allowed(database: Database) {
    let urls = [
        "",
        "/hooks",
        "http://example.com/",
        "https://user:password@example.com/",
        "https://example.com/#fragment",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://example.com./",
        &format!("https://example.com/{}", "x".repeat(2_048)),
    ];
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let with_url = |url: &str| {
        let mut request = new_subscription("acme", "");
        request.subscription.as_mut().unwrap().url = url.into();
        request
    };
    for url in urls {
        let status = client.subscriptions.create_subscription(with_url(url)).await;
        assert_eq!(refusal(status), invalid(["subscription.url"]), "{url}");
    }
    drop(plane);

    let mut settings = database.control_plane();
    settings.egress.allow = vec!["127.0.0.0/8".parse::<IpNet>().unwrap()];
    settings.egress.allow_http = true;
    let plane = start(settings).await;
    let mut client = plane.admin().await;
    for url in ["http://127.0.0.1:8080/hooks", "https://localhost/", "http://example.com/"] {
        client.subscriptions.create_subscription(with_url(url)).await.unwrap();
    }
    let status = client.subscriptions.create_subscription(with_url("https://10.0.0.1/")).await;
    assert_eq!(refusal(status), invalid(["subscription.url"]));
}

async fn event_types_must_be_registered(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_tenant("other").await;
    client.create_event_type("acme", "invoice.paid").await;
    client.create_event_type("other", "user.created").await;
    let before = plane.store.revision().await.unwrap();
    let with = |event_types: &[&str]| {
        let mut request = new_subscription("acme", "s");
        request.subscription.as_mut().unwrap().event_types = event_types.iter().map(|&t| t.into()).collect();
        request
    };
    let status = client.subscriptions.create_subscription(with(&["invoice.paid", "user.created", "gone.*"])).await;
    let violations = status.as_ref().unwrap_err().get_details_precondition_failure().unwrap().violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].subject, "tenants/acme/eventTypes/user.created");
    assert_eq!(refusal(status), refused(Code::FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED"));
    assert_eq!(plane.store.revision().await.unwrap(), before);
    client.subscriptions.create_subscription(with(&["invoice.paid", "gone.*"])).await.unwrap();
}

async fn tokens_of_another_list_are_refused(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    for tenant in ["acme", "other"] {
        client.create_tenant(tenant).await;
        for n in 0..2 {
            client.create_event_type(tenant, &format!("e{n}")).await;
            client.create_subscription(tenant, &format!("s{n}")).await;
        }
    }
    let list = |parent: &str, page_token: &str| ListEventTypesRequest {
        parent: parent.into(),
        page_size: 1,
        page_token: page_token.into(),
    };
    let page = client.event_types.list_event_types(list("tenants/acme", "")).await.unwrap().into_inner();
    let token = page.next_page_token;
    assert!(!token.is_empty());
    client.event_types.list_event_types(list("tenants/acme", &token)).await.unwrap();
    let other_parent = client.event_types.list_event_types(list("tenants/other", &token)).await;
    assert_eq!(refusal(other_parent), invalid(["page_token"]));
    let request =
        ListSubscriptionsRequest { parent: "tenants/acme".into(), page_token: token.clone(), ..Default::default() };
    assert_eq!(refusal(client.subscriptions.list_subscriptions(request).await), invalid(["page_token"]));
    let request = ListTenantsRequest { page_token: token.clone(), page_size: -5 };
    assert_eq!(refusal(client.tenants.list_tenants(request).await), invalid(["page_size", "page_token"]));
    let request = ListApiKeysRequest { page_token: token.clone(), ..Default::default() };
    assert_eq!(refusal(client.api_keys.list_api_keys(request).await), invalid(["page_token"]));
    let request =
        ListSecretsRequest { parent: "tenants/acme/subscriptions/s0".into(), page_token: token, ..Default::default() };
    assert_eq!(refusal(client.subscriptions.list_secrets(request).await), invalid(["page_token"]));
}

async fn wrong_fields_of_other_resources_are_told(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_subscription("acme", "s").await;
    let tenant = Some(Tenant { display_name: "nul\0".into(), ..Default::default() });
    let request = CreateTenantRequest { tenant_id: "1".into(), tenant, ..CreateTenantRequest::default() };
    assert_eq!(refusal(client.tenants.create_tenant(request).await), invalid(["tenant_id", "tenant.display_name"]));
    let request = CreateTenantRequest::default();
    assert_eq!(refusal(client.tenants.create_tenant(request).await), invalid(["tenant"]));

    let event_type = Some(EventType { description: "x".repeat(2_001), ..Default::default() });
    let request = CreateEventTypeRequest {
        parent: "acme".into(),
        event_type_id: "a..b".into(),
        event_type,
        ..CreateEventTypeRequest::default()
    };
    let status = client.event_types.create_event_type(request).await;
    assert_eq!(refusal(status), invalid(["parent", "event_type_id", "event_type.description"]));
    for id in ["hookwire", "hookwire.ping"] {
        let request = CreateEventTypeRequest {
            parent: "tenants/acme".into(),
            event_type_id: id.into(),
            ..CreateEventTypeRequest::default()
        };
        let answer = client.event_types.create_event_type(request).await;
        assert_eq!(refusal(answer), invalid(["event_type_id"]), "{id}");
    }

    let request = CreateSecretRequest {
        parent: "tenants/acme/subscriptions/s".into(),
        secret_id: "-".into(),
        secret: Some(Secret { key: "whsec_".into(), ..Default::default() }),
        ..CreateSecretRequest::default()
    };
    let status = client.subscriptions.create_secret(request).await;
    assert_eq!(refusal(status), invalid(["secret_id", "secret.key"]));

    let create = |api_key| CreateApiKeyRequest { api_key, ..CreateApiKeyRequest::default() };
    let status = client.api_keys.create_api_key(create(None)).await;
    assert_eq!(refusal(status), invalid(["api_key", "api_key.role"]));
    let key = ApiKey { role: 99, tenant: "acme".into(), display_name: "x".repeat(300), ..Default::default() };
    let status = client.api_keys.create_api_key(create(Some(key))).await;
    assert_eq!(refusal(status), invalid(["api_key.role", "api_key.tenant", "api_key.display_name"]));
    let key = ApiKey { role: Role::TenantAdmin.into(), ..Default::default() };
    let status = client.api_keys.create_api_key(create(Some(key))).await;
    assert_eq!(refusal(status), invalid(["api_key.tenant"]));
}

async fn a_header_that_is_no_bearer_key_is_none(database: Database) {
    let plane = start(database.control_plane()).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", plane.api)).unwrap();
    let mut client = tenant_service_client::TenantServiceClient::new(channel.connect().await.unwrap());
    for (header, reason) in [
        ("Basic YTpi", "API_KEY_MISSING"),
        ("Bearer", "API_KEY_MISSING"),
        ("", "API_KEY_MISSING"),
        ("Bearer ", "API_KEY_INVALID"),
        ("Bearer hwk_x hwk_y", "API_KEY_INVALID"),
    ] {
        let mut request = tonic::Request::new(ListTenantsRequest::default());
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        assert_eq!(refusal(client.list_tenants(request).await), refused(Code::Unauthenticated, reason), "{header:?}");
    }
}

async fn requests_that_are_too_large_are_refused(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    let tenant = Some(Tenant { display_name: "x".repeat(300 * 1024), ..Default::default() });
    let request = CreateTenantRequest { tenant_id: "acme".into(), tenant, ..CreateTenantRequest::default() };
    assert_eq!(client.tenants.create_tenant(request).await.unwrap_err().code(), Code::OutOfRange);
}
