//! What administrators and auditors rely on: updates, etags, repeats, the audit log, keys that are narrowed, tenant tokens.

use hookwire_control_plane::api::LOG_RETAINED_UNTIL_METADATA;
use hookwire_proto::seal::MasterKeys;
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::*;
use prost::Name;
use prost_types::{Any, Duration, FieldMask};
use tonic::Code;

use crate::support::{ADMIN_KEY, Client, Database, invalid, new_subscription, on_both, refusal, refused, start};

on_both!(
    an_update_changes_what_its_mask_names,
    an_update_of_something_else_is_refused,
    a_repeat_gets_the_first_answer,
    a_repeat_without_its_master_key_is_told_so_and_not_carried_out,
    every_write_has_an_audit_entry,
    deleting_with_force_takes_everything_below,
    keys_are_narrowed_by_scope_source_and_time,
    tenant_tokens_end_with_the_key_that_minted_them,
    a_subscription_needs_an_event_type_that_is_not_deprecated,
);

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|&path| path.into()).collect() })
}

async fn create_tenant(client: &mut Client) -> Tenant {
    let tenant = Tenant {
        display_name: "Acme".into(),
        labels: [("plan".into(), "gold".into()), ("region".into(), "eu".into())].into(),
        ..Default::default()
    };
    let request = CreateTenantRequest { tenant_id: "acme".into(), tenant: Some(tenant), ..Default::default() };
    client.tenants.create_tenant(request).await.unwrap().into_inner()
}

async fn an_update_changes_what_its_mask_names(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    let made = create_tenant(&mut client).await;
    let name = made.name.clone();

    // No mask: what is not empty. What the server sets is ignored.
    let update = Tenant {
        name: name.clone(),
        display_name: "Acme Ltd".into(),
        revision: 99,
        create_time: None,
        ..Default::default()
    };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: None };
    let changed = client.tenants.update_tenant(request).await.unwrap().into_inner();
    assert_eq!((&*changed.display_name, &changed.labels), ("Acme Ltd", &made.labels));
    assert_eq!(changed.create_time, made.create_time);
    assert!(changed.revision > made.revision && changed.revision != 99);
    assert_ne!(changed.etag, made.etag);

    // One path, to its default.
    let update = Tenant { name: name.clone(), display_name: "ignored".into(), ..Default::default() };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: mask(&["labels"]) };
    let changed = client.tenants.update_tenant(request).await.unwrap().into_inner();
    assert_eq!((&*changed.display_name, changed.labels.len()), ("Acme Ltd", 0));

    // All of them.
    let update = Tenant { name: name.clone(), validate_payloads: true, ..Default::default() };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: mask(&["*"]) };
    let changed = client.tenants.update_tenant(request).await.unwrap().into_inner();
    assert_eq!((&*changed.display_name, changed.validate_payloads), ("", true));
    let got = client.tenants.get_tenant(GetTenantRequest { name: name.clone() }).await.unwrap().into_inner();
    assert_eq!(got, changed);

    // A quota, a part of it, none.
    let quota = |messages_per_second, burst| Some(PublishQuota { messages_per_second, burst });
    for (publish_quota, paths, expected) in [
        (quota(0.5, 20), vec!["publish_quota"], quota(0.5, 20)),
        (quota(0.0, 0), vec!["publish_quota.burst"], quota(0.5, 0)),
        (quota(1e6, 1_000_000), vec![], quota(1e6, 1_000_000)),
        (None, vec!["display_name"], quota(1e6, 1_000_000)),
        (None, vec!["publish_quota"], None),
    ] {
        let update = Tenant { name: name.clone(), publish_quota, ..Default::default() };
        let request = UpdateTenantRequest { tenant: Some(update), update_mask: mask(&paths) };
        let changed = client.tenants.update_tenant(request).await.unwrap().into_inner();
        assert_eq!(changed.publish_quota, expected);
        let got = client.tenants.get_tenant(GetTenantRequest { name: name.clone() }).await.unwrap().into_inner();
        assert_eq!(got, changed);
    }
    for (publish_quota, field) in [
        (quota(0.0, 1), "messages_per_second"),
        (quota(f64::NAN, 1), "messages_per_second"),
        (quota(1e6 + 1.0, 1), "messages_per_second"),
        (quota(1.0, -1), "burst"),
        (quota(1.0, 1_000_001), "burst"),
    ] {
        let update = Tenant { name: name.clone(), publish_quota, ..Default::default() };
        let request = UpdateTenantRequest { tenant: Some(update), update_mask: None };
        let field = format!("tenant.publish_quota.{field}");
        assert_eq!(refusal(client.tenants.update_tenant(request).await), invalid([field.as_str()]));
    }

    let update = Tenant { name: name.clone(), display_name: "x".into(), ..Default::default() };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: mask(&["display_nam", "display_name"]) };
    assert_eq!(refusal(client.tenants.update_tenant(request).await), invalid(["update_mask"]));
    let update = Tenant { name, display_name: "x".repeat(1_000), ..Default::default() };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: None };
    assert_eq!(refusal(client.tenants.update_tenant(request).await), invalid(["tenant.display_name"]));
    let update = Tenant { name: "tenants/none".into(), ..Default::default() };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: None };
    assert_eq!(refusal(client.tenants.update_tenant(request).await), refused(Code::NotFound, "NOT_FOUND"));

    client.create_event_type("acme", "invoice.paid").await;
    let event_type = EventType {
        name: "tenants/acme/eventTypes/invoice.paid".into(),
        schema: r#"{"type":"object","required":["id"]}"#.into(),
        ..Default::default()
    };
    let request = UpdateEventTypeRequest { event_type: Some(event_type.clone()), update_mask: None };
    let changed = client.event_types.update_event_type(request).await.unwrap().into_inner();
    assert_eq!(changed.schema, event_type.schema);
    for schema in ["{", r#"{"type":"no such type"}"#, r#"{"$ref":"https://example.com/schema"}"#] {
        let event_type = EventType { schema: schema.into(), ..event_type.clone() };
        let request = UpdateEventTypeRequest { event_type: Some(event_type), update_mask: None };
        let answer = client.event_types.update_event_type(request).await;
        assert_eq!(refusal(answer), invalid(["event_type.schema"]), "{schema}");
    }
}

async fn an_update_of_something_else_is_refused(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    let made = create_tenant(&mut client).await;
    let update = |etag: &str, display_name: &str| UpdateTenantRequest {
        tenant: Some(Tenant {
            name: made.name.clone(),
            etag: etag.into(),
            display_name: display_name.into(),
            ..Default::default()
        }),
        update_mask: None,
    };
    let changed = client.tenants.update_tenant(update(&made.etag, "second")).await.unwrap().into_inner();
    let stale = client.tenants.update_tenant(update(&made.etag, "third")).await;
    assert_eq!(refusal(stale), refused(Code::Aborted, "ETAG_MISMATCH"));
    let delete = |etag: &str| DeleteTenantRequest { name: made.name.clone(), etag: etag.into(), force: false };
    let stale = client.tenants.delete_tenant(delete(&made.etag)).await;
    assert_eq!(refusal(stale), refused(Code::Aborted, "ETAG_MISMATCH"));
    let got = client.tenants.get_tenant(GetTenantRequest { name: made.name.clone() }).await.unwrap().into_inner();
    assert_eq!(got.display_name, "second");
    client.tenants.delete_tenant(delete(&changed.etag)).await.unwrap();
}

async fn a_repeat_gets_the_first_answer(database: Database) {
    const REQUEST_ID: &str = "5e6e0b0a-8f6e-4c56-9a0b-0d6a2b8a9f31";
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let request = CreateSubscriptionRequest { request_id: REQUEST_ID.into(), ..new_subscription("acme", "") };
    let first = client.subscriptions.create_subscription(request.clone()).await.unwrap().into_inner();
    assert!(first.initial_secret.as_ref().unwrap().key.starts_with("whsec_"));
    let revision = plane.store.revision().await.unwrap();
    let again = client.subscriptions.create_subscription(request.clone()).await.unwrap().into_inner();
    assert_eq!(again, first, "with the secret, which is shown to nobody else");
    assert_eq!(plane.store.revision().await.unwrap(), revision, "nothing was written");

    let mut other = request.clone();
    other.subscription.as_mut().unwrap().url = "https://example.org/".into();
    let answer = client.subscriptions.create_subscription(other).await;
    assert_eq!(refusal(answer), (Code::InvalidArgument, "REQUEST_ID_REUSED".into(), ["request_id".into()].into()));
    // Another caller's request ids are its own.
    let key = client.create_api_key(Role::TenantAdmin, "acme").await;
    let mut tenant_admin = plane.client(&key.key).await;
    let others = tenant_admin.subscriptions.create_subscription(request).await.unwrap().into_inner();
    assert_ne!(others.name, first.name);

    let request = CreateTenantRequest {
        request_id: "not a UUID".into(),
        tenant: Some(Tenant::default()),
        ..CreateTenantRequest::default()
    };
    assert_eq!(refusal(client.tenants.create_tenant(request).await), invalid(["request_id"]));

    // At once, from many: one of them is carried out.
    let request = CreateApiKeyRequest {
        api_key: Some(ApiKey { role: Role::Viewer.into(), ..Default::default() }),
        request_id: "b5c3c9d1-7b63-4d0e-a3d0-3a8f8f1a9a00".into(),
    };
    let answers = futures::future::join_all((0..8).map(|_| {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.api_keys.create_api_key(request).await.unwrap().into_inner() }
    }))
    .await;
    assert!(!answers[0].key.is_empty() && answers.iter().all(|answer| *answer == answers[0]));
}

async fn a_repeat_without_its_master_key_is_told_so_and_not_carried_out(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let request_id = "5e6e0b0a-8f6e-4c56-9a0b-0d6a2b8a9f32".into();
    let request = CreateSubscriptionRequest { request_id, ..new_subscription("acme", "") };
    let first = client.subscriptions.create_subscription(request.clone()).await.unwrap().into_inner();
    let revision = plane.store.revision().await.unwrap();
    drop(plane);

    let mut settings = database.control_plane();
    settings.secrets.master_keys = Some(MasterKeys::generate().to_string().into());
    let plane = start(settings).await;
    let mut client = plane.admin().await;
    let again = client.subscriptions.create_subscription(request).await;
    assert_eq!(refusal(again), refused(Code::FailedPrecondition, "ANSWER_LOST"));
    assert_eq!(plane.store.revision().await.unwrap(), revision, "nothing was written");
    let get = GetSubscriptionRequest { name: first.name.clone() };
    assert_eq!(client.subscriptions.get_subscription(get).await.unwrap().get_ref().name, first.name);
}

fn unpack<M: Name + Default>(any: &Any) -> M {
    assert_eq!(any.type_url, M::type_url());
    M::decode(&*any.value).unwrap()
}

async fn audit(client: &mut Client) -> Vec<AuditEntry> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAuditEntriesRequest { page_size: 3, page_token, ..Default::default() };
        let page = client.audit.list_audit_entries(request).await.unwrap().into_inner();
        all.extend(page.audit_entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

async fn every_write_has_an_audit_entry(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    let made = create_tenant(&mut client).await;
    let update = Tenant { name: made.name.clone(), display_name: "Acme Ltd".into(), ..Default::default() };
    let request = UpdateTenantRequest { tenant: Some(update), update_mask: None };
    let changed = client.tenants.update_tenant(request).await.unwrap().into_inner();
    client.create_event_type("acme", "invoice.paid").await;
    let subscription = client.create_subscription("acme", "s").await;
    let request = CreateSecretRequest { parent: subscription.name.clone(), ..Default::default() };
    let secret = client.subscriptions.create_secret(request).await.unwrap().into_inner();
    client
        .subscriptions
        .delete_secret(DeleteSecretRequest { name: secret.name.clone(), ..DeleteSecretRequest::default() })
        .await
        .unwrap();
    let key = client.create_api_key(Role::Admin, "acme").await;
    // Neither reads nor what is refused.
    client.tenants.get_tenant(GetTenantRequest { name: made.name.clone() }).await.unwrap();
    client
        .tenants
        .delete_tenant(DeleteTenantRequest { name: made.name.clone(), ..Default::default() })
        .await
        .unwrap_err();

    let entries = audit(&mut client).await;
    let said: Vec<_> = entries.iter().rev().map(|entry| (&*entry.method, &*entry.resource)).collect();
    assert_eq!(
        said,
        [
            ("start", "apiKeys/bootstrap"),
            ("CreateTenant", "tenants/acme"),
            ("UpdateTenant", "tenants/acme"),
            ("CreateEventType", "tenants/acme/eventTypes/invoice.paid"),
            ("CreateSubscription", "tenants/acme/subscriptions/s"),
            ("CreateSecret", &*secret.name),
            ("DeleteSecret", &*secret.name),
            ("CreateApiKey", &*key.name),
        ]
    );
    let entry = &entries[entries.len() - 3];
    assert_eq!((&*entry.caller, &*entry.source_address), ("apiKeys/bootstrap", "127.0.0.1"));
    assert_eq!(unpack::<Tenant>(entry.before.as_ref().unwrap()), made);
    assert_eq!(unpack::<Tenant>(entry.after.as_ref().unwrap()), changed);
    assert_eq!((entry.revision, entry.create_time), (changed.revision, changed.update_time));
    let got = client.audit.get_audit_entry(GetAuditEntryRequest { name: entry.name.clone() }).await.unwrap();
    assert_eq!(got.into_inner(), *entry);

    // By what they are of, by whom, and when.
    let filtered = async |client: &mut Client, filter: &str| {
        let request = ListAuditEntriesRequest { filter: filter.into(), ..Default::default() };
        client
            .audit
            .list_audit_entries(request)
            .await
            .map(|page| page.into_inner().audit_entries.into_iter().map(|entry| entry.method).collect::<Vec<_>>())
    };
    for (filter, found) in [
        ("resource = tenants/acme", &["UpdateTenant", "CreateTenant"][..]),
        ("below = tenants/acme/subscriptions/s", &["DeleteSecret", "CreateSecret", "CreateSubscription"]),
        (r#"method = "CreateApiKey" AND caller = apiKeys/bootstrap"#, &["CreateApiKey"]),
        ("caller = apiKeys/other", &[]),
        (r#"create_time < "2020-01-01T00:00:00Z""#, &[]),
        (r#"below = tenants/acme/eventTypes AND create_time >= "2020-01-01T00:00:00Z""#, &["CreateEventType"]),
    ] {
        assert_eq!(filtered(&mut client, filter).await.unwrap(), found, "{filter}");
    }
    for filter in ["nothing = 1", "method = a AND method = b", "create_time = now", "method"] {
        let answer = filtered(&mut client, filter).await.map(tonic::Response::new);
        assert_eq!(refusal(answer), invalid(["filter"]), "{filter}");
    }

    // Nothing that was shown once is in there.
    let shown = [&subscription.initial_secret.unwrap().key, &secret.key, &key.key];
    for bytes in entries.iter().map(prost::Message::encode_to_vec) {
        for secret in shown {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }

    // A bound admin sees what is its tenant's.
    let mut bound = plane.client(&key.key).await;
    let seen = audit(&mut bound).await;
    assert_eq!(
        seen,
        entries[..entries.len() - 1]
            .iter()
            .filter(|entry| entry.resource.starts_with("tenants/"))
            .cloned()
            .collect::<Vec<_>>()
    );
    let name = entries.last().unwrap().name.clone();
    let answer = bound.audit.get_audit_entry(GetAuditEntryRequest { name }).await;
    assert_eq!(refusal(answer), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
}

async fn deleting_with_force_takes_everything_below(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    for tenant in ["acme", "acme2"] {
        client.create_tenant(tenant).await;
        client.create_event_type(tenant, "invoice.paid").await;
        client.create_subscription(tenant, "s").await;
        client.create_api_key(Role::Publisher, tenant).await;
    }
    let delete = DeleteTenantRequest { name: "tenants/acme".into(), force: true, ..Default::default() };
    let response = client.tenants.delete_tenant(delete).await.unwrap();
    let until = response.metadata().get(LOG_RETAINED_UNTIL_METADATA).unwrap().to_str().unwrap().to_owned();
    assert!(until.ends_with('Z'), "{until}");
    let (_, left) = plane.store.snapshot().await.unwrap();
    let left = left.iter().filter(|resource| format!("{resource:?}").contains("tenants/acme\"")).count();
    assert_eq!(left, 0);
    let entry = audit(&mut client).await.swap_remove(0);
    assert_eq!((&*entry.method, &*entry.resource), ("DeleteTenant", "tenants/acme"));
    assert!(entry.detail.contains(&until), "{}", entry.detail);
    let name = "tenants/acme2/subscriptions/s".to_owned();
    client.subscriptions.get_subscription(GetSubscriptionRequest { name }).await.unwrap();
}

async fn keys_are_narrowed_by_scope_source_and_time(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let create = |key: ApiKey| CreateApiKeyRequest {
        api_key: Some(ApiKey { role: Role::TenantAdmin.into(), tenant: "tenants/acme".into(), ..key }),
        ..Default::default()
    };
    let scopes = vec!["subscriptions.read".into()];
    let scoped = client.api_keys.create_api_key(create(ApiKey { scopes, ..Default::default() })).await.unwrap();
    let mut scoped = plane.client(&scoped.into_inner().key).await;
    let list = ListSubscriptionsRequest { parent: "tenants/acme".into(), ..Default::default() };
    scoped.subscriptions.list_subscriptions(list.clone()).await.unwrap();
    let denied = scoped.subscriptions.create_subscription(new_subscription("acme", "s")).await;
    assert_eq!(refusal(denied), refused(Code::PermissionDenied, "PERMISSION_DENIED"));

    let source_cidrs = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
    let elsewhere =
        client.api_keys.create_api_key(create(ApiKey { source_cidrs, ..Default::default() })).await.unwrap();
    let elsewhere = elsewhere.into_inner();
    let mut from_here = plane.client(&elsewhere.key).await;
    let denied = from_here.subscriptions.list_subscriptions(list.clone()).await;
    assert_eq!(refusal(denied), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
    let api_key = ApiKey { name: elsewhere.name, source_cidrs: vec!["127.0.0.0/8".into()], ..Default::default() };
    let request = UpdateApiKeyRequest { api_key: Some(api_key), update_mask: None };
    client.api_keys.update_api_key(request).await.unwrap();
    from_here.subscriptions.list_subscriptions(list).await.unwrap();

    let wrong = ApiKey {
        scopes: vec!["everything".into()],
        source_cidrs: vec!["127.0.0.1/33".into()],
        expire_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let answer = client.api_keys.create_api_key(create(wrong)).await;
    assert_eq!(refusal(answer), invalid(["api_key.scopes[0]", "api_key.source_cidrs[0]", "api_key.expire_time"]));
}

async fn tenant_tokens_end_with_the_key_that_minted_them(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_tenant("other").await;
    let minter = client.create_api_key(Role::Admin, "").await;
    let mut portal = plane.client(&minter.key).await;
    let request = CreateTenantTokenRequest {
        parent: "tenants/acme".into(),
        role: Role::TenantAdmin.into(),
        ttl: Some(Duration { seconds: 600, nanos: 0 }),
        ..Default::default()
    };
    let token = portal.api_keys.create_tenant_token(request.clone()).await.unwrap().into_inner();
    let mut visitor = plane.client(&token.token).await;
    let made = visitor.create_subscription("acme", "s").await;
    let other = visitor.subscriptions.create_subscription(new_subscription("other", "s")).await;
    assert_eq!(refusal(other), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
    let more = visitor.api_keys.create_tenant_token(request.clone()).await;
    assert_eq!(refusal(more), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
    let entries = audit(&mut client).await;
    assert_eq!(entries[0].resource, made.name);
    assert!(entries[0].caller.starts_with("tenantTokens/"), "{}", entries[0].caller);
    assert_eq!(entries[0].minted_by, minter.name);
    assert!(entries[1].detail.contains(&entries[0].caller), "{}", entries[1].detail);

    for (request, field) in [
        (CreateTenantTokenRequest { role: Role::Admin.into(), ..request.clone() }, "role"),
        (CreateTenantTokenRequest { ttl: Some(Duration { seconds: 86_401, nanos: 0 }), ..request.clone() }, "ttl"),
        (CreateTenantTokenRequest { ttl: Some(Duration { seconds: 59, nanos: 0 }), ..request.clone() }, "ttl"),
    ] {
        assert_eq!(refusal(portal.api_keys.create_tenant_token(request).await), invalid([field]));
    }
    let none = CreateTenantTokenRequest { parent: "tenants/none".into(), ..request };
    assert_eq!(refusal(portal.api_keys.create_tenant_token(none).await), refused(Code::NotFound, "NOT_FOUND"));

    let mut changed = token.token.clone();
    let last = changed.pop().unwrap();
    changed.push(if last == 'A' { 'B' } else { 'A' });
    let get = GetSubscriptionRequest { name: made.name };
    let forged = plane.client(&changed).await.subscriptions.get_subscription(get.clone()).await;
    assert_eq!(refusal(forged).0, Code::Unauthenticated);
    visitor.subscriptions.get_subscription(get.clone()).await.unwrap();
    client.api_keys.delete_api_key(DeleteApiKeyRequest { name: minter.name, ..Default::default() }).await.unwrap();
    let ended = visitor.subscriptions.get_subscription(get).await;
    assert_eq!(refusal(ended), refused(Code::Unauthenticated, "API_KEY_INVALID"));
}

async fn a_subscription_needs_an_event_type_that_is_not_deprecated(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.client(ADMIN_KEY).await;
    client.create_tenant("acme").await;
    client.create_event_type("acme", "invoice.paid").await;
    let mut request = new_subscription("acme", "before");
    request.subscription.as_mut().unwrap().event_types = vec!["invoice.paid".into()];
    client.subscriptions.create_subscription(request.clone()).await.unwrap();
    let name = "tenants/acme/eventTypes/invoice.paid".to_owned();
    let event_type = Some(EventType { name, deprecated: true, ..Default::default() });
    client.event_types.update_event_type(UpdateEventTypeRequest { event_type, update_mask: None }).await.unwrap();
    request.subscription_id = "after".into();
    let answer = client.subscriptions.create_subscription(request).await;
    assert_eq!(refusal(answer).0, Code::FailedPrecondition);
    // Those that were there stay.
    let name = "tenants/acme/subscriptions/before".to_owned();
    client.subscriptions.get_subscription(GetSubscriptionRequest { name }).await.unwrap();
}
