//! The services over gRPC: what callers get when they ask rightly, and who may ask.

use hookwire_control_plane::api::REVISION_METADATA;
use hookwire_control_plane::auth::{Caller, Rpc};
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::*;
use tonic::{Code, Response, Status};

use crate::support::{Client, Database, Plane, new_subscription, on_both, refusal, refused, start};

on_both!(
    tenants_are_created_read_listed_and_deleted,
    event_types_are_created_read_listed_and_deleted,
    subscriptions_are_created_read_listed_and_deleted,
    secrets_are_shown_once_listed_and_rotated,
    api_keys_are_shown_once_and_refused_when_revoked,
    every_write_says_its_revision,
    pages_show_everything_once,
    every_rpc_keeps_to_the_table_of_roles,
    a_bound_admin_sees_and_makes_only_keys_of_its_tenant,
);

async fn tenants_are_created_read_listed_and_deleted(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    let tenant = Tenant { display_name: "Acme ✓".into(), name: "ignored".into(), ..Default::default() };
    let request =
        CreateTenantRequest { tenant_id: "acme".into(), tenant: Some(tenant), ..CreateTenantRequest::default() };
    let made = client.tenants.create_tenant(request).await.unwrap().into_inner();
    assert_eq!((made.name.as_str(), made.display_name.as_str()), ("tenants/acme", "Acme ✓"));
    assert!(made.create_time.is_some() && made.create_time == made.update_time);
    let chosen = client.create_tenant("").await;
    assert!(chosen.name.starts_with("tenants/t"), "{}", chosen.name);

    let request = GetTenantRequest { name: "tenants/acme".into() };
    assert_eq!(client.tenants.get_tenant(request.clone()).await.unwrap().into_inner(), made);
    let listed = client.tenants.list_tenants(ListTenantsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.tenants, [made, chosen]);
    assert_eq!(listed.next_page_token, "");

    client
        .tenants
        .delete_tenant(DeleteTenantRequest { name: "tenants/acme".into(), ..DeleteTenantRequest::default() })
        .await
        .unwrap();
    let gone = client.tenants.get_tenant(request).await;
    assert_eq!(refusal(gone), refused(Code::NotFound, "NOT_FOUND"));
}

async fn event_types_are_created_read_listed_and_deleted(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let request = CreateEventTypeRequest {
        parent: "tenants/acme".into(),
        event_type_id: "Invoice.paid_2".into(),
        event_type: Some(EventType { description: "An invoice\nwas paid".into(), ..Default::default() }),
        ..CreateEventTypeRequest::default()
    };
    let made = client.event_types.create_event_type(request).await.unwrap().into_inner();
    assert_eq!(made.name, "tenants/acme/eventTypes/Invoice.paid_2");
    assert_eq!(made.description, "An invoice\nwas paid");
    let name = made.name.clone();
    let got = client.event_types.get_event_type(GetEventTypeRequest { name: name.clone() }).await.unwrap();
    assert_eq!(got.into_inner(), made);
    let list = ListEventTypesRequest { parent: "tenants/acme".into(), ..Default::default() };
    let listed = client.event_types.list_event_types(list.clone()).await.unwrap().into_inner();
    assert_eq!(listed.event_types, [made]);
    client
        .event_types
        .delete_event_type(DeleteEventTypeRequest { name, ..DeleteEventTypeRequest::default() })
        .await
        .unwrap();
    assert!(client.event_types.list_event_types(list).await.unwrap().into_inner().event_types.is_empty());
}

async fn subscriptions_are_created_read_listed_and_deleted(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_event_type("acme", "invoice.paid").await;
    let mut request = new_subscription("acme", "s1");
    request.subscription = Some(Subscription {
        display_name: "Books".into(),
        url: "https://example.com/hooks?a=b".into(),
        event_types: vec!["invoice.paid".into(), "user.*".into()],
        shared_key: Some(SharedKey { header: "X-Api-Key".into(), value: "pre-shared".into() }),
        max_concurrency: 3,
        ..Default::default()
    });
    let made = client.subscriptions.create_subscription(request).await.unwrap().into_inner();
    assert_eq!(made.name, "tenants/acme/subscriptions/s1");
    assert_eq!(made.state(), subscription::State::Enabled);
    let secret = made.initial_secret.clone().unwrap();
    assert!(secret.key.starts_with("whsec_"), "shown this once");
    assert!(secret.name.starts_with("tenants/acme/subscriptions/s1/secrets/k"));
    assert_eq!(secret.revision, made.revision);

    let get = GetSubscriptionRequest { name: made.name.clone() };
    let got = client.subscriptions.get_subscription(get.clone()).await.unwrap().into_inner();
    assert_eq!(got.initial_secret, None);
    assert_eq!(got.shared_key, Some(SharedKey { header: "x-api-key".into(), value: String::new() }));
    assert_eq!(Subscription { initial_secret: None, ..made.clone() }, got);
    let list = ListSubscriptionsRequest { parent: "tenants/acme".into(), ..Default::default() };
    let listed = client.subscriptions.list_subscriptions(list).await.unwrap().into_inner();
    assert_eq!(listed.subscriptions, [got]);

    let has_children = client
        .tenants
        .delete_tenant(DeleteTenantRequest { name: "tenants/acme".into(), ..DeleteTenantRequest::default() })
        .await;
    assert_eq!(refusal(has_children), refused(Code::FailedPrecondition, "HAS_CHILDREN"));
    client
        .subscriptions
        .delete_subscription(DeleteSubscriptionRequest { name: made.name, ..DeleteSubscriptionRequest::default() })
        .await
        .unwrap();
    let gone = client.subscriptions.get_subscription(get).await;
    assert_eq!(refusal(gone), refused(Code::NotFound, "NOT_FOUND"));
}

async fn secrets_are_shown_once_listed_and_rotated(database: Database) {
    const OWN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let mut request = new_subscription("acme", "s");
    request.subscription.as_mut().unwrap().initial_secret = Some(Secret { key: OWN.into(), ..Default::default() });
    let made = client.subscriptions.create_subscription(request).await.unwrap().into_inner();
    let first = made.initial_secret.unwrap();
    assert_eq!(first.key, OWN);

    let parent = made.name.clone();
    let mut names = vec![first.name.clone()];
    for secret_id in ["z", "a", ""] {
        let request = CreateSecretRequest {
            parent: parent.clone(),
            secret_id: secret_id.into(),
            secret: None,
            ..CreateSecretRequest::default()
        };
        let secret = client.subscriptions.create_secret(request).await.unwrap().into_inner();
        assert!(secret.key.starts_with("whsec_"));
        let get = GetSubscriptionRequest { name: parent.clone() };
        let subscription = client.subscriptions.get_subscription(get).await.unwrap().into_inner();
        assert_eq!(subscription.revision, secret.revision, "a secret is a write of its subscription");
        names.push(secret.name);
    }
    // Oldest first, and in pages.
    let mut list = ListSecretsRequest { parent: parent.clone(), page_size: 3, ..Default::default() };
    let page = client.subscriptions.list_secrets(list.clone()).await.unwrap().into_inner();
    list.page_token = page.next_page_token;
    let last = client.subscriptions.list_secrets(list).await.unwrap().into_inner();
    let listed: Vec<_> = page.secrets.into_iter().chain(last.secrets).collect();
    assert_eq!(listed.iter().map(|secret| &secret.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    assert!(listed.iter().all(|secret| secret.key.is_empty()));

    let create = |id: &str| CreateSecretRequest {
        parent: parent.clone(),
        secret_id: id.into(),
        secret: None,
        ..CreateSecretRequest::default()
    };
    let taken = client.subscriptions.create_secret(create("z")).await;
    assert_eq!(refusal(taken), refused(Code::AlreadyExists, "ALREADY_EXISTS"));
    client.subscriptions.create_secret(create("fifth")).await.unwrap();
    let sixth = client.subscriptions.create_secret(create("sixth")).await;
    assert_eq!(refusal(sixth), refused(Code::FailedPrecondition, "TOO_MANY_SECRETS"));
    for name in names {
        client.subscriptions.delete_secret(DeleteSecretRequest { name, ..Default::default() }).await.unwrap();
    }
    let name = format!("{parent}/secrets/fifth");
    let last = client.subscriptions.delete_secret(DeleteSecretRequest { name, ..Default::default() }).await;
    assert_eq!(refusal(last), refused(Code::FailedPrecondition, "LAST_SECRET"));
}

async fn api_keys_are_shown_once_and_refused_when_revoked(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let made = client.create_api_key(Role::Viewer, "acme").await;
    assert!(made.key.starts_with(&format!("hwk_{}_", made.name.strip_prefix("apiKeys/").unwrap())));
    let get = GetApiKeyRequest { name: made.name.clone() };
    let got = client.api_keys.get_api_key(get.clone()).await.unwrap().into_inner();
    assert_eq!(got, ApiKey { key: String::new(), ..made.clone() });
    let listed = client.api_keys.list_api_keys(ListApiKeysRequest::default()).await.unwrap().into_inner().api_keys;
    assert_eq!(listed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["apiKeys/bootstrap", &made.name]);
    assert!(listed.iter().all(|key| key.key.is_empty()));

    let mut viewer = plane.client(&made.key).await;
    let tenant = GetTenantRequest { name: "tenants/acme".into() };
    viewer.tenants.get_tenant(tenant.clone()).await.unwrap();
    client
        .api_keys
        .delete_api_key(DeleteApiKeyRequest { name: made.name.clone(), ..DeleteApiKeyRequest::default() })
        .await
        .unwrap();
    let revoked = viewer.tenants.get_tenant(tenant).await;
    assert_eq!(refusal(revoked), refused(Code::Unauthenticated, "API_KEY_INVALID"));
    let gone = client.api_keys.get_api_key(get).await;
    assert_eq!(refusal(gone), refused(Code::NotFound, "NOT_FOUND"));
}

async fn every_write_says_its_revision(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    fn revision<T>(response: &Response<T>) -> i64 {
        response.metadata().get(REVISION_METADATA).unwrap().to_str().unwrap().parse().unwrap()
    }
    // The bootstrap key is the first.
    let tenant = CreateTenantRequest {
        tenant_id: "acme".into(),
        tenant: Some(Tenant::default()),
        ..CreateTenantRequest::default()
    };
    let response = client.tenants.create_tenant(tenant).await.unwrap();
    assert_eq!((revision(&response), response.into_inner().revision), (2, 2));
    let event_type = CreateEventTypeRequest {
        parent: "tenants/acme".into(),
        event_type_id: "e".into(),
        event_type: None,
        ..CreateEventTypeRequest::default()
    };
    let response = client.event_types.create_event_type(event_type).await.unwrap();
    assert_eq!((revision(&response), response.into_inner().revision), (3, 3));
    let response = client.subscriptions.create_subscription(new_subscription("acme", "s")).await.unwrap();
    assert_eq!((revision(&response), response.into_inner().revision), (4, 4));
    let name = "tenants/acme/subscriptions/s".to_owned();
    let secret = CreateSecretRequest {
        parent: name.clone(),
        secret_id: "k".into(),
        secret: None,
        ..CreateSecretRequest::default()
    };
    let response = client.subscriptions.create_secret(secret).await.unwrap();
    assert_eq!((revision(&response), response.into_inner().revision), (5, 5));
    let secret = DeleteSecretRequest { name: format!("{name}/secrets/k"), ..Default::default() };
    assert_eq!(revision(&client.subscriptions.delete_secret(secret).await.unwrap()), 6);
    let subscription = DeleteSubscriptionRequest { name, ..DeleteSubscriptionRequest::default() };
    assert_eq!(revision(&client.subscriptions.delete_subscription(subscription).await.unwrap()), 7);
    let event_type =
        DeleteEventTypeRequest { name: "tenants/acme/eventTypes/e".into(), ..DeleteEventTypeRequest::default() };
    assert_eq!(revision(&client.event_types.delete_event_type(event_type).await.unwrap()), 8);
    let api_key = Some(ApiKey { role: Role::Viewer.into(), ..Default::default() });
    let response = client
        .api_keys
        .create_api_key(CreateApiKeyRequest { api_key, ..CreateApiKeyRequest::default() })
        .await
        .unwrap();
    assert_eq!(revision(&response), 9);
    let api_key = DeleteApiKeyRequest { name: response.into_inner().name, ..DeleteApiKeyRequest::default() };
    assert_eq!(revision(&client.api_keys.delete_api_key(api_key).await.unwrap()), 10);
    let tenant = DeleteTenantRequest { name: "tenants/acme".into(), ..DeleteTenantRequest::default() };
    assert_eq!(revision(&client.tenants.delete_tenant(tenant).await.unwrap()), 11);
    assert_eq!(plane.store.revision().await.unwrap(), 11);
}

async fn pages_show_everything_once(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    client.create_tenant("other").await;
    for n in 0..7 {
        client.create_subscription("acme", &format!("s{n}")).await;
        client.create_subscription("other", &format!("s{n}")).await;
    }
    let (mut seen, mut sizes, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = ListSubscriptionsRequest { parent: "tenants/acme".into(), page_size: 3, page_token };
        let page = client.subscriptions.list_subscriptions(request).await.unwrap().into_inner();
        sizes.push(page.subscriptions.len());
        seen.extend(page.subscriptions.into_iter().map(|subscription| subscription.name));
        // What is written meanwhile neither repeats nor hides what was there.
        if sizes.len() == 1 {
            client.create_subscription("acme", "s0a").await;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..7).map(|n| format!("tenants/acme/subscriptions/s{n}")).collect::<Vec<_>>());
    assert_eq!(sizes, [3, 3, 1]);
}

/// Calls an RPC for a tenant with requests that are otherwise right or name what does not exist.
pub async fn call(rpc: Rpc, client: &mut Client, tenant: &str) -> Result<(), Status> {
    let parent = format!("tenants/{tenant}");
    let subscription = format!("{parent}/subscriptions/none");
    let message = format!("{parent}/messages/none");
    let replay = format!("{parent}/replays/none");
    let zeros = "0".repeat(32);
    let Client {
        tenants,
        event_types,
        subscriptions,
        api_keys,
        audit,
        messages,
        deliveries,
        attempts,
        dead_letters,
        nodes,
        egress,
        replays,
    } = client;
    match rpc {
        Rpc::CreateTenant => {
            let request = CreateTenantRequest {
                tenant_id: String::new(),
                tenant: Some(Tenant::default()),
                ..CreateTenantRequest::default()
            };
            tenants.create_tenant(request).await.map(drop)
        }
        Rpc::GetTenant => tenants.get_tenant(GetTenantRequest { name: parent }).await.map(drop),
        Rpc::ListTenants => tenants.list_tenants(ListTenantsRequest::default()).await.map(drop),
        Rpc::DeleteTenant => tenants
            .delete_tenant(DeleteTenantRequest { name: parent, ..DeleteTenantRequest::default() })
            .await
            .map(drop),
        Rpc::CreateEventType => {
            let request = CreateEventTypeRequest {
                parent,
                event_type_id: "e".into(),
                event_type: None,
                ..CreateEventTypeRequest::default()
            };
            event_types.create_event_type(request).await.map(drop)
        }
        Rpc::GetEventType => {
            let request = GetEventTypeRequest { name: format!("{parent}/eventTypes/none") };
            event_types.get_event_type(request).await.map(drop)
        }
        Rpc::ListEventTypes => {
            let request = ListEventTypesRequest { parent, ..Default::default() };
            event_types.list_event_types(request).await.map(drop)
        }
        Rpc::DeleteEventType => {
            let request = DeleteEventTypeRequest {
                name: format!("{parent}/eventTypes/none"),
                ..DeleteEventTypeRequest::default()
            };
            event_types.delete_event_type(request).await.map(drop)
        }
        Rpc::CreateSubscription => subscriptions.create_subscription(new_subscription(tenant, "")).await.map(drop),
        Rpc::GetSubscription => {
            subscriptions.get_subscription(GetSubscriptionRequest { name: subscription }).await.map(drop)
        }
        Rpc::ListSubscriptions => {
            let request = ListSubscriptionsRequest { parent, ..Default::default() };
            subscriptions.list_subscriptions(request).await.map(drop)
        }
        Rpc::DeleteSubscription => subscriptions
            .delete_subscription(DeleteSubscriptionRequest {
                name: subscription,
                ..DeleteSubscriptionRequest::default()
            })
            .await
            .map(drop),
        Rpc::UpdateSubscription => {
            let subscription = Some(Subscription { name: subscription, ..Default::default() });
            let request = UpdateSubscriptionRequest { subscription, update_mask: None };
            subscriptions.update_subscription(request).await.map(drop)
        }
        Rpc::BatchCreateSubscriptions => {
            let requests = vec![new_subscription(tenant, "")];
            let request = BatchCreateSubscriptionsRequest { parent, requests, ..Default::default() };
            subscriptions.batch_create_subscriptions(request).await.map(drop)
        }
        Rpc::BatchUpdateSubscriptions => {
            let subscription = Some(Subscription { name: subscription, ..Default::default() });
            let requests = vec![UpdateSubscriptionRequest { subscription, update_mask: None }];
            let request = BatchUpdateSubscriptionsRequest { parent, requests };
            subscriptions.batch_update_subscriptions(request).await.map(drop)
        }
        Rpc::CreateSecret => {
            let request = CreateSecretRequest { parent: subscription, ..Default::default() };
            subscriptions.create_secret(request).await.map(drop)
        }
        Rpc::ListSecrets => {
            let request = ListSecretsRequest { parent: subscription, ..Default::default() };
            subscriptions.list_secrets(request).await.map(drop)
        }
        Rpc::DeleteSecret => {
            let request = DeleteSecretRequest { name: format!("{subscription}/secrets/none"), ..Default::default() };
            subscriptions.delete_secret(request).await.map(drop)
        }
        Rpc::GetSecret => {
            let request = GetSecretRequest { name: format!("{subscription}/secrets/none") };
            subscriptions.get_secret(request).await.map(drop)
        }
        Rpc::RotateSecret => {
            let request = RotateSecretRequest { parent: subscription, ..Default::default() };
            subscriptions.rotate_secret(request).await.map(drop)
        }
        Rpc::PromoteSecret => {
            let request = PromoteSecretRequest { name: format!("{subscription}/secrets/none"), ..Default::default() };
            subscriptions.promote_secret(request).await.map(drop)
        }
        Rpc::ListPublicKeys => {
            let request = ListPublicKeysRequest { parent: subscription, ..Default::default() };
            subscriptions.list_public_keys(request).await.map(drop)
        }
        Rpc::PingSubscription => {
            let request = PingSubscriptionRequest { name: subscription, timeout: None };
            subscriptions.ping_subscription(request).await.map(drop)
        }
        Rpc::CreateApiKey => {
            let api_key = Some(ApiKey { role: Role::Viewer.into(), tenant: parent, ..Default::default() });
            api_keys.create_api_key(CreateApiKeyRequest { api_key, ..CreateApiKeyRequest::default() }).await.map(drop)
        }
        Rpc::GetApiKey => api_keys.get_api_key(GetApiKeyRequest { name: "apiKeys/none".into() }).await.map(drop),
        Rpc::ListApiKeys => api_keys.list_api_keys(ListApiKeysRequest::default()).await.map(drop),
        Rpc::DeleteApiKey => api_keys
            .delete_api_key(DeleteApiKeyRequest { name: "apiKeys/none".into(), ..DeleteApiKeyRequest::default() })
            .await
            .map(drop),
        Rpc::UpdateTenant => {
            let tenant = Some(Tenant { name: parent, display_name: "Renamed".into(), ..Default::default() });
            tenants.update_tenant(UpdateTenantRequest { tenant, update_mask: None }).await.map(drop)
        }
        Rpc::GetMessage => {
            messages.get_message(GetMessageRequest { name: message, ..Default::default() }).await.map(drop)
        }
        Rpc::ListMessages => {
            messages.list_messages(ListMessagesRequest { parent, ..Default::default() }).await.map(drop)
        }
        Rpc::GetDelivery => {
            let request = GetDeliveryRequest { name: format!("{message}/deliveries/dlv_{zeros}") };
            deliveries.get_delivery(request).await.map(drop)
        }
        Rpc::ListDeliveries => {
            let request = ListDeliveriesRequest { parent: format!("{parent}/messages/-"), ..Default::default() };
            deliveries.list_deliveries(request).await.map(drop)
        }
        Rpc::GetAttempt => {
            let request = GetAttemptRequest { name: format!("{message}/attempts/att_{zeros}") };
            attempts.get_attempt(request).await.map(drop)
        }
        Rpc::ListAttempts => {
            let request = ListAttemptsRequest { parent: format!("{parent}/messages/-"), ..Default::default() };
            attempts.list_attempts(request).await.map(drop)
        }
        Rpc::GetDeadLetter => {
            let request = GetDeadLetterRequest { name: format!("{subscription}/deadLetters/dlt_{zeros}") };
            dead_letters.get_dead_letter(request).await.map(drop)
        }
        Rpc::ListDeadLetters => {
            let request = ListDeadLettersRequest { parent: subscription, ..Default::default() };
            dead_letters.list_dead_letters(request).await.map(drop)
        }
        Rpc::UpdateEventType => {
            let event_type = Some(EventType { name: format!("{parent}/eventTypes/none"), ..Default::default() });
            event_types.update_event_type(UpdateEventTypeRequest { event_type, update_mask: None }).await.map(drop)
        }
        Rpc::UpdateApiKey => {
            let api_key = Some(ApiKey { name: "apiKeys/none".into(), ..Default::default() });
            api_keys.update_api_key(UpdateApiKeyRequest { api_key, update_mask: None }).await.map(drop)
        }
        Rpc::CreateTenantToken => {
            let request =
                CreateTenantTokenRequest { parent, role: Role::Viewer.into(), ..CreateTenantTokenRequest::default() };
            api_keys.create_tenant_token(request).await.map(drop)
        }
        Rpc::GetAuditEntry => {
            let name = "auditEntries/a000000000000-000000".into();
            audit.get_audit_entry(GetAuditEntryRequest { name }).await.map(drop)
        }
        Rpc::ListAuditEntries => audit.list_audit_entries(ListAuditEntriesRequest::default()).await.map(drop),
        Rpc::PauseSubscription => {
            let request = PauseSubscriptionRequest { name: subscription, ..Default::default() };
            subscriptions.pause_subscription(request).await.map(drop)
        }
        Rpc::EnableSubscription => {
            let request = EnableSubscriptionRequest { name: subscription, ..Default::default() };
            subscriptions.enable_subscription(request).await.map(drop)
        }
        Rpc::CreateReplay => {
            let selection = replay::DeadLetters { subscription, ..Default::default() };
            let selection = Some(replay::Selection::DeadLetters(selection));
            let replay = Some(Replay { selection, ..Default::default() });
            replays.create_replay(CreateReplayRequest { parent, replay, ..Default::default() }).await.map(drop)
        }
        Rpc::GetReplay => replays.get_replay(GetReplayRequest { name: replay }).await.map(drop),
        Rpc::ListReplays => replays.list_replays(ListReplaysRequest { parent, ..Default::default() }).await.map(drop),
        Rpc::PauseReplay => {
            replays.pause_replay(PauseReplayRequest { name: replay, ..Default::default() }).await.map(drop)
        }
        Rpc::ResumeReplay => {
            replays.resume_replay(ResumeReplayRequest { name: replay, ..Default::default() }).await.map(drop)
        }
        Rpc::CancelReplay => {
            replays.cancel_replay(CancelReplayRequest { name: replay, ..Default::default() }).await.map(drop)
        }
        Rpc::WatchReplay => {
            replays.watch_replay(WatchReplayRequest { name: replay, ..Default::default() }).await.map(drop)
        }
        Rpc::GetNode => nodes.get_node(GetNodeRequest { name: "nodes/none".into() }).await.map(drop),
        Rpc::ListNodes => nodes.list_nodes(ListNodesRequest::default()).await.map(drop),
        Rpc::GetEgressAddresses => egress.get_egress_addresses(GetEgressAddressesRequest::default()).await.map(drop),
    }
}

pub const RPCS: [Rpc; 53] = [
    Rpc::GetNode,
    Rpc::ListNodes,
    Rpc::GetEgressAddresses,
    Rpc::UpdateSubscription,
    Rpc::BatchCreateSubscriptions,
    Rpc::BatchUpdateSubscriptions,
    Rpc::UpdateTenant,
    Rpc::UpdateEventType,
    Rpc::UpdateApiKey,
    Rpc::CreateTenantToken,
    Rpc::GetAuditEntry,
    Rpc::ListAuditEntries,
    Rpc::PauseSubscription,
    Rpc::EnableSubscription,
    Rpc::CreateReplay,
    Rpc::GetReplay,
    Rpc::ListReplays,
    Rpc::PauseReplay,
    Rpc::ResumeReplay,
    Rpc::CancelReplay,
    Rpc::WatchReplay,
    Rpc::GetTenant,
    Rpc::ListTenants,
    Rpc::CreateEventType,
    Rpc::GetEventType,
    Rpc::ListEventTypes,
    Rpc::DeleteEventType,
    Rpc::CreateSubscription,
    Rpc::GetSubscription,
    Rpc::ListSubscriptions,
    Rpc::DeleteSubscription,
    Rpc::CreateSecret,
    Rpc::ListSecrets,
    Rpc::DeleteSecret,
    Rpc::GetSecret,
    Rpc::RotateSecret,
    Rpc::PromoteSecret,
    Rpc::ListPublicKeys,
    Rpc::PingSubscription,
    Rpc::CreateApiKey,
    Rpc::GetApiKey,
    Rpc::ListApiKeys,
    Rpc::DeleteApiKey,
    Rpc::GetMessage,
    Rpc::ListMessages,
    Rpc::GetDelivery,
    Rpc::ListDeliveries,
    Rpc::GetAttempt,
    Rpc::ListAttempts,
    Rpc::GetDeadLetter,
    Rpc::ListDeadLetters,
    Rpc::CreateTenant,
    Rpc::DeleteTenant,
];

/// The table itself is tested in `auth`; this shows that every RPC asks it, for the tenant in its request, before anything
/// else.
async fn every_rpc_keeps_to_the_table_of_roles(database: Database) {
    let plane: Plane = start(database.control_plane()).await;
    let mut admin = plane.admin().await;
    for tenant in ["own", "other"] {
        admin.create_tenant(tenant).await;
    }
    let mut callers = Vec::new();
    for role in [Role::Admin, Role::TenantAdmin, Role::Publisher, Role::Viewer] {
        for bound in ["", "own"] {
            if role == Role::TenantAdmin && bound.is_empty() {
                continue;
            }
            let key = admin.create_api_key(role, bound).await;
            callers.push((plane.client(&key.key).await, Caller::from(key)));
        }
    }
    let mut nobody = plane.client("").await;
    let mut unknown = plane.client("hwk_unknown").await;
    for rpc in RPCS {
        let missing = call(rpc, &mut nobody, "own").await.map(Response::new);
        assert_eq!(refusal(missing), refused(Code::Unauthenticated, "API_KEY_MISSING"), "{rpc:?}");
        let invalid = call(rpc, &mut unknown, "own").await.map(Response::new);
        assert_eq!(refusal(invalid), refused(Code::Unauthenticated, "API_KEY_INVALID"), "{rpc:?}");
        for (client, caller) in &mut callers {
            for tenant in ["own", "other", "none"] {
                let answer = call(rpc, client, tenant).await;
                let denied = answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied);
                // A bound key does not learn of keys that are not its tenant's, not even that they don't exist.
                let hidden = matches!(rpc, Rpc::GetApiKey | Rpc::UpdateApiKey | Rpc::DeleteApiKey | Rpc::GetAuditEntry)
                    && caller.tenant.is_some();
                let others = rpc == Rpc::CreateApiKey && caller.tenant.is_some() && tenant != "own";
                let may = caller.may(rpc, Some(&format!("tenants/{tenant}"))).is_ok() && !hidden && !others;
                assert_eq!(denied, !may, "{rpc:?} by {caller:?} for {tenant}: {answer:?}");
                if denied {
                    assert_eq!(
                        refusal(answer.map(Response::new)),
                        refused(Code::PermissionDenied, "PERMISSION_DENIED")
                    );
                }
            }
        }
    }
}

async fn a_bound_admin_sees_and_makes_only_keys_of_its_tenant(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut admin = plane.admin().await;
    for tenant in ["own", "other"] {
        admin.create_tenant(tenant).await;
    }
    let bound = admin.create_api_key(Role::Admin, "own").await;
    let others = admin.create_api_key(Role::Viewer, "other").await;
    let mut client = plane.client(&bound.key).await;
    let made = client.create_api_key(Role::Publisher, "own").await;
    let listed = client.api_keys.list_api_keys(ListApiKeysRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.api_keys.iter().map(|key| &key.name).collect::<Vec<_>>(), [&bound.name, &made.name]);
    for tenant in ["", "tenants/other", "tenants/none"] {
        let api_key = Some(ApiKey { role: Role::Viewer.into(), tenant: tenant.into(), ..Default::default() });
        let answer =
            client.api_keys.create_api_key(CreateApiKeyRequest { api_key, ..CreateApiKeyRequest::default() }).await;
        assert_eq!(refusal(answer), refused(Code::PermissionDenied, "PERMISSION_DENIED"), "{tenant}");
    }
    // The same whether it exists or not.
    for name in [others.name.as_str(), "apiKeys/none"] {
        let answer = client.api_keys.get_api_key(GetApiKeyRequest { name: name.into() }).await;
        assert_eq!(refusal(answer), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
        let answer = client
            .api_keys
            .delete_api_key(DeleteApiKeyRequest { name: name.into(), ..DeleteApiKeyRequest::default() })
            .await;
        assert_eq!(refusal(answer), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
    }
    admin.api_keys.get_api_key(GetApiKeyRequest { name: others.name }).await.unwrap();
    client
        .api_keys
        .delete_api_key(DeleteApiKeyRequest { name: made.name, ..DeleteApiKeyRequest::default() })
        .await
        .unwrap();
}
