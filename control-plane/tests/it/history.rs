//! Random histories of calls against a model: the same answers, the same resources, one revision and one audit trail for each write.

use std::collections::{BTreeMap, BTreeSet};

use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::enable_subscription_request::Waiting;
use hookwire_proto::v1::subscription::State;
use hookwire_proto::v1::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::support::{Client, Database, Plane, new_subscription, on_both, start};

on_both!(histories_are_as_the_model_says);

const MAX_SECRETS: usize = 5;

/// What a caller knows of the resource that it changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    Nothing,
    Current,
    Older,
}

/// One call. Numbers stand for ids.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    CreateTenant { tenant: u8, request: Option<u8> },
    UpdateTenant { tenant: u8, title: u8, seen: Seen },
    DeleteTenant { tenant: u8, force: bool, seen: Seen },
    CreateEventType { tenant: u8, event_type: u8 },
    UpdateEventType { tenant: u8, event_type: u8, deprecated: bool, seen: Seen },
    DeleteEventType { tenant: u8, event_type: u8, seen: Seen },
    CreateSubscription { tenant: u8, subscription: u8, event_types: BTreeSet<u8>, request: Option<u8> },
    DeleteSubscription { tenant: u8, subscription: u8, seen: Seen },
    PauseSubscription { tenant: u8, subscription: u8, seen: Seen },
    EnableSubscription { tenant: u8, subscription: u8, drops: bool, seen: Seen },
    CreateSecret { tenant: u8, subscription: u8, secret: u8 },
    RotateSecret { tenant: u8, subscription: u8, secret: u8 },
    DeleteSecret { tenant: u8, subscription: u8, secret: u8 },
    CreateApiKey { tenant: u8 },
    DeleteApiKey { at: u8 },
    ListSubscriptions { tenant: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let (tenant, other) = (0..3u8, 0..3u8);
    let seen = prop_oneof![4 => Just(Seen::Nothing), 2 => Just(Seen::Current), 1 => Just(Seen::Older)];
    let request = prop_oneof![3 => Just(None), 1 => (0..3u8).prop_map(Some)];
    let ids = (tenant.clone(), other, 0..6u8);
    let event_types = prop::collection::btree_set(0..3u8, 0..3);
    prop_oneof![
        6 => (tenant.clone(), request.clone()).prop_map(|(tenant, request)| CreateTenant { tenant, request }),
        2 => (tenant.clone(), any::<u8>(), seen.clone())
            .prop_map(|(tenant, title, seen)| UpdateTenant { tenant, title, seen }),
        1 => (tenant.clone(), any::<bool>(), seen.clone())
            .prop_map(|(tenant, force, seen)| DeleteTenant { tenant, force, seen }),
        4 => ids.clone().prop_map(|(tenant, event_type, _)| CreateEventType { tenant, event_type }),
        2 => (ids.clone(), any::<bool>(), seen.clone()).prop_map(|((tenant, event_type, _), deprecated, seen)| {
            UpdateEventType { tenant, event_type, deprecated, seen }
        }),
        1 => (ids.clone(), seen.clone())
            .prop_map(|((tenant, event_type, _), seen)| DeleteEventType { tenant, event_type, seen }),
        6 => (ids.clone(), event_types, request).prop_map(|((tenant, subscription, _), event_types, request)| {
            CreateSubscription { tenant, subscription, event_types, request }
        }),
        1 => (ids.clone(), seen.clone())
            .prop_map(|((tenant, subscription, _), seen)| DeleteSubscription { tenant, subscription, seen }),
        3 => (ids.clone(), seen.clone())
            .prop_map(|((tenant, subscription, _), seen)| PauseSubscription { tenant, subscription, seen }),
        2 => (ids.clone(), any::<bool>(), seen).prop_map(|((tenant, subscription, _), drops, seen)| {
            EnableSubscription { tenant, subscription, drops, seen }
        }),
        4 => ids.clone().prop_map(|(tenant, subscription, secret)| CreateSecret { tenant, subscription, secret }),
        1 => ids.clone().prop_map(|(tenant, subscription, secret)| RotateSecret { tenant, subscription, secret }),
        3 => ids.prop_map(|(tenant, subscription, secret)| DeleteSecret { tenant, subscription, secret }),
        1 => tenant.clone().prop_map(|tenant| CreateApiKey { tenant }),
        1 => (0..3u8).prop_map(|at| DeleteApiKey { at }),
        1 => tenant.prop_map(|tenant| ListSubscriptions { tenant }),
    ]
}

/// A refusal: its code and reason.
type Refusal = (Code, &'static str);

const NOT_FOUND: Refusal = (Code::NotFound, "NOT_FOUND");
const ALREADY_EXISTS: Refusal = (Code::AlreadyExists, "ALREADY_EXISTS");
const ETAG_MISMATCH: Refusal = (Code::Aborted, "ETAG_MISMATCH");

#[derive(Debug, Default, PartialEq)]
struct TenantModel {
    title: String,
    revision: i64,
    /// Revision and whether it is deprecated.
    event_types: BTreeMap<u8, (i64, bool)>,
    subscriptions: BTreeMap<u8, SubscriptionModel>,
}

#[derive(Debug, Default, PartialEq)]
struct SubscriptionModel {
    revision: i64,
    /// Oldest first; the one that came with it has no number.
    secrets: Vec<Option<u8>>,
    is_paused: bool,
}

#[derive(Default)]
struct Model {
    revision: i64,
    tenants: BTreeMap<u8, TenantModel>,
    /// Names, and of which tenant.
    api_keys: Vec<(String, u8)>,
    answered: BTreeMap<u8, Step>,
    /// Writes that changed something of a tenant.
    trails: BTreeMap<u8, BTreeSet<i64>>,
}

fn check(revision: i64, seen: Seen) -> Result<(), Refusal> {
    if seen == Seen::Older && revision != OLDER { Err(ETAG_MISMATCH) } else { Ok(()) }
}

/// The revision of the bootstrap key: no resource of a history has it.
const OLDER: i64 = 1;

impl Model {
    fn tenant(&mut self, tenant: u8) -> Result<&mut TenantModel, Refusal> {
        self.tenants.get_mut(&tenant).ok_or(NOT_FOUND)
    }

    fn subscription(&mut self, tenant: u8, subscription: u8) -> Result<&mut SubscriptionModel, Refusal> {
        self.tenant(tenant)?.subscriptions.get_mut(&subscription).ok_or(NOT_FOUND)
    }

    /// What a call leads to: whether something is written.
    fn apply(&mut self, step: &Step) -> Result<bool, Refusal> {
        let next = self.revision + 1;
        if let Step::CreateTenant { request: Some(request), .. }
        | Step::CreateSubscription { request: Some(request), .. } = step
            && let Some(first) = self.answered.get(request)
        {
            let reused = (Code::InvalidArgument, "REQUEST_ID_REUSED");
            return if first == step { Ok(false) } else { Err(reused) };
        }
        let (of, request) = match step {
            Step::CreateTenant { tenant, request } => {
                if self.tenants.contains_key(tenant) {
                    return Err(ALREADY_EXISTS);
                }
                self.tenants.insert(*tenant, TenantModel { revision: next, ..Default::default() });
                (Some(*tenant), *request)
            }
            Step::UpdateTenant { tenant, title, seen } => {
                let known = self.tenant(*tenant)?;
                check(known.revision, *seen)?;
                (known.title, known.revision) = (format!("T{title}"), next);
                (Some(*tenant), None)
            }
            Step::DeleteTenant { tenant, force, seen } => {
                let has_keys = self.api_keys.iter().any(|(_, of)| of == tenant);
                let known = self.tenant(*tenant)?;
                check(known.revision, *seen)?;
                if !force && (has_keys || !known.event_types.is_empty() || !known.subscriptions.is_empty()) {
                    return Err((Code::FailedPrecondition, "HAS_CHILDREN"));
                }
                self.tenants.remove(tenant);
                self.api_keys.retain(|(_, of)| of != tenant);
                (Some(*tenant), None)
            }
            Step::CreateEventType { tenant, event_type } => {
                let known = self.tenant(*tenant)?;
                if known.event_types.contains_key(event_type) {
                    return Err(ALREADY_EXISTS);
                }
                known.event_types.insert(*event_type, (next, false));
                (Some(*tenant), None)
            }
            Step::UpdateEventType { tenant, event_type, deprecated, seen } => {
                let known = self.tenant(*tenant)?.event_types.get_mut(event_type).ok_or(NOT_FOUND)?;
                check(known.0, *seen)?;
                *known = (next, *deprecated);
                (Some(*tenant), None)
            }
            Step::DeleteEventType { tenant, event_type, seen } => {
                let known = self.tenant(*tenant)?;
                check(known.event_types.get(event_type).ok_or(NOT_FOUND)?.0, *seen)?;
                known.event_types.remove(event_type);
                (Some(*tenant), None)
            }
            Step::CreateSubscription { tenant, subscription, event_types, request } => {
                let known = self.tenant(*tenant)?;
                if known.subscriptions.contains_key(subscription) {
                    return Err(ALREADY_EXISTS);
                }
                if event_types.iter().any(|event_type| !known.event_types.contains_key(event_type)) {
                    return Err((Code::FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED"));
                }
                if event_types.iter().any(|event_type| known.event_types[event_type].1) {
                    return Err((Code::FailedPrecondition, "EVENT_TYPE_DEPRECATED"));
                }
                let made = SubscriptionModel { revision: next, secrets: vec![None], is_paused: false };
                known.subscriptions.insert(*subscription, made);
                (Some(*tenant), *request)
            }
            Step::DeleteSubscription { tenant, subscription, seen } => {
                let revision = self.subscription(*tenant, *subscription)?.revision;
                check(revision, *seen)?;
                self.tenant(*tenant)?.subscriptions.remove(subscription);
                (Some(*tenant), None)
            }
            Step::PauseSubscription { tenant, subscription, seen }
            | Step::EnableSubscription { tenant, subscription, seen, .. } => {
                let known = self.subscription(*tenant, *subscription)?;
                check(known.revision, *seen)?;
                let is_paused = matches!(step, Step::PauseSubscription { .. });
                if known.is_paused == is_paused {
                    return Ok(false);
                }
                (known.is_paused, known.revision) = (is_paused, next);
                (Some(*tenant), None)
            }
            Step::CreateSecret { tenant, subscription, secret } => {
                let known = self.subscription(*tenant, *subscription)?;
                if known.secrets.contains(&Some(*secret)) {
                    return Err(ALREADY_EXISTS);
                }
                if known.secrets.len() == MAX_SECRETS {
                    return Err((Code::FailedPrecondition, "TOO_MANY_SECRETS"));
                }
                known.secrets.push(Some(*secret));
                known.revision = next;
                (Some(*tenant), None)
            }
            Step::RotateSecret { tenant, subscription, secret } => {
                let known = self.subscription(*tenant, *subscription)?;
                if known.secrets.contains(&Some(*secret)) {
                    return Err(ALREADY_EXISTS);
                }
                (known.secrets, known.revision) = (vec![Some(*secret)], next);
                (Some(*tenant), None)
            }
            Step::DeleteSecret { tenant, subscription, secret } => {
                let known = self.subscription(*tenant, *subscription)?;
                let at = known.secrets.iter().position(|known| *known == Some(*secret)).ok_or(NOT_FOUND)?;
                if known.secrets.len() == 1 {
                    return Err((Code::FailedPrecondition, "LAST_SECRET"));
                }
                known.secrets.remove(at);
                known.revision = next;
                (Some(*tenant), None)
            }
            Step::CreateApiKey { tenant } => {
                self.tenant(*tenant)?;
                // Its name is the server's; the caller adds it.
                (None, None)
            }
            Step::DeleteApiKey { at } => {
                if usize::from(*at) >= self.api_keys.len() {
                    return Err(NOT_FOUND);
                }
                (None, None)
            }
            Step::ListSubscriptions { tenant } => {
                self.tenant(*tenant)?;
                return Ok(false);
            }
        };
        self.revision = next;
        if let Some(tenant) = of {
            self.trails.entry(tenant).or_default().insert(next);
        }
        if let Some(request) = request {
            self.answered.insert(request, step.clone());
        }
        Ok(true)
    }
}

/// One history against a control plane that has seen others: ids have the history's number.
struct History<'a> {
    client: Client,
    number: usize,
    model: Model,
    plane: &'a Plane,
}

impl History<'_> {
    fn tenant(&self, tenant: u8) -> String {
        format!("tenants/h{}-{tenant}", self.number)
    }

    fn subscription(&self, tenant: u8, subscription: u8) -> String {
        format!("{}/subscriptions/s{subscription}", self.tenant(tenant))
    }

    fn request_id(&self, request: Option<u8>) -> String {
        request.map(|request| format!("00000000-0000-4000-8000-{:010x}{request:02x}", self.number)).unwrap_or_default()
    }

    fn etag(seen: Seen, revision: Option<i64>) -> String {
        match seen {
            Seen::Nothing => String::new(),
            Seen::Current => revision.map(|revision| format!("\"{revision:x}\"")).unwrap_or_default(),
            Seen::Older => format!("\"{OLDER}\""),
        }
    }

    async fn run(&mut self, steps: &[Step]) {
        self.model.revision = self.plane.store.revision().await.unwrap();
        for (at, step) in steps.iter().enumerate() {
            let answer = self.call(step).await;
            let told = answer.as_ref().map(drop).map_err(|status| {
                (status.code(), status.get_details_error_info().expect("every refusal has a reason").reason)
            });
            let expected = self.model.apply(step).map(drop).map_err(|(code, reason)| (code, reason.to_owned()));
            assert_eq!(told, expected, "step {at}, {step:?}");
            match (step, answer) {
                (Step::CreateApiKey { tenant }, Ok(name)) => self.model.api_keys.push((name, *tenant)),
                (Step::DeleteApiKey { at }, Ok(_)) => drop(self.model.api_keys.remove((*at).into())),
                _ => {}
            }
            assert_eq!(self.plane.store.revision().await.unwrap(), self.model.revision, "step {at}, {step:?}");
        }
        self.compare().await;
    }

    /// Makes the call of a step. Returns the name of what it made, where the server chose it.
    async fn call(&mut self, step: &Step) -> Result<String, Status> {
        let model_revision = |tenant: &u8| self.model.tenants.get(tenant).map(|tenant| tenant.revision);
        let none = |_: Response<()>| String::new();
        match step {
            Step::CreateTenant { tenant, request } => {
                let request = CreateTenantRequest {
                    tenant_id: format!("h{}-{tenant}", self.number),
                    tenant: Some(Tenant::default()),
                    request_id: self.request_id(*request),
                };
                self.client.tenants.create_tenant(request).await.map(|_| String::new())
            }
            Step::UpdateTenant { tenant, title, seen } => {
                let etag = Self::etag(*seen, model_revision(tenant));
                let tenant = Tenant {
                    name: self.tenant(*tenant),
                    display_name: format!("T{title}"),
                    etag,
                    ..Default::default()
                };
                let request = UpdateTenantRequest { tenant: Some(tenant), update_mask: None };
                self.client.tenants.update_tenant(request).await.map(|_| String::new())
            }
            Step::DeleteTenant { tenant, force, seen } => {
                let etag = Self::etag(*seen, model_revision(tenant));
                let request = DeleteTenantRequest { name: self.tenant(*tenant), etag, force: *force };
                self.client.tenants.delete_tenant(request).await.map(none)
            }
            Step::CreateEventType { tenant, event_type } => {
                let request = CreateEventTypeRequest {
                    parent: self.tenant(*tenant),
                    event_type_id: format!("e{event_type}"),
                    ..Default::default()
                };
                self.client.event_types.create_event_type(request).await.map(|_| String::new())
            }
            Step::UpdateEventType { tenant, event_type, deprecated, seen } => {
                let known = self.model.tenants.get(tenant).and_then(|tenant| tenant.event_types.get(event_type));
                let event_type = EventType {
                    name: format!("{}/eventTypes/e{event_type}", self.tenant(*tenant)),
                    deprecated: *deprecated,
                    etag: Self::etag(*seen, known.map(|known| known.0)),
                    ..Default::default()
                };
                let update_mask = Some(prost_types::FieldMask { paths: vec!["deprecated".into()] });
                let request = UpdateEventTypeRequest { event_type: Some(event_type), update_mask };
                self.client.event_types.update_event_type(request).await.map(|_| String::new())
            }
            Step::DeleteEventType { tenant, event_type, seen } => {
                let known = self.model.tenants.get(tenant).and_then(|tenant| tenant.event_types.get(event_type));
                let etag = Self::etag(*seen, known.map(|known| known.0));
                let name = format!("{}/eventTypes/e{event_type}", self.tenant(*tenant));
                self.client.event_types.delete_event_type(DeleteEventTypeRequest { name, etag }).await.map(none)
            }
            Step::CreateSubscription { tenant, subscription, event_types, request } => {
                let mut new = new_subscription(&format!("h{}-{tenant}", self.number), &format!("s{subscription}"));
                if !event_types.is_empty() {
                    let event_types = event_types.iter().map(|event_type| format!("e{event_type}"));
                    new.subscription.as_mut().unwrap().event_types = event_types.collect();
                }
                new.request_id = self.request_id(*request);
                self.client.subscriptions.create_subscription(new).await.map(|made| {
                    let secret =
                        made.into_inner().initial_secret.expect("shown once, and to whoever repeats the request");
                    assert!(secret.key.starts_with("whsec_"));
                    String::new()
                })
            }
            Step::DeleteSubscription { tenant, subscription, seen } => {
                let known = self.model.tenants.get(tenant).and_then(|tenant| tenant.subscriptions.get(subscription));
                let etag = Self::etag(*seen, known.map(|known| known.revision));
                let name = self.subscription(*tenant, *subscription);
                self.client.subscriptions.delete_subscription(DeleteSubscriptionRequest { name, etag }).await.map(none)
            }
            Step::PauseSubscription { tenant, subscription, seen } => {
                let known = self.model.tenants.get(tenant).and_then(|tenant| tenant.subscriptions.get(subscription));
                let etag = Self::etag(*seen, known.map(|known| known.revision));
                let name = self.subscription(*tenant, *subscription);
                let request = PauseSubscriptionRequest { name, etag, ..Default::default() };
                self.client.subscriptions.pause_subscription(request).await.map(|_| String::new())
            }
            Step::EnableSubscription { tenant, subscription, drops, seen } => {
                let known = self.model.tenants.get(tenant).and_then(|tenant| tenant.subscriptions.get(subscription));
                let etag = Self::etag(*seen, known.map(|known| known.revision));
                let name = self.subscription(*tenant, *subscription);
                let waiting = if *drops { Waiting::Drop } else { Waiting::Deliver };
                let request = EnableSubscriptionRequest { name, etag, waiting: waiting.into(), ..Default::default() };
                self.client.subscriptions.enable_subscription(request).await.map(|_| String::new())
            }
            Step::CreateSecret { tenant, subscription, secret } => {
                let request = CreateSecretRequest {
                    parent: self.subscription(*tenant, *subscription),
                    secret_id: format!("k{secret}"),
                    ..Default::default()
                };
                self.client.subscriptions.create_secret(request).await.map(|_| String::new())
            }
            Step::RotateSecret { tenant, subscription, secret } => {
                let request = RotateSecretRequest {
                    parent: self.subscription(*tenant, *subscription),
                    secret_id: format!("k{secret}"),
                    overlap: Some(prost_types::Duration::default()),
                    ..Default::default()
                };
                self.client.subscriptions.rotate_secret(request).await.map(|_| String::new())
            }
            Step::DeleteSecret { tenant, subscription, secret } => {
                let name = format!("{}/secrets/k{secret}", self.subscription(*tenant, *subscription));
                let request = DeleteSecretRequest { name, ..Default::default() };
                self.client.subscriptions.delete_secret(request).await.map(none)
            }
            Step::CreateApiKey { tenant } => {
                let api_key = ApiKey { role: Role::Viewer.into(), tenant: self.tenant(*tenant), ..Default::default() };
                let request = CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
                self.client.api_keys.create_api_key(request).await.map(|made| made.into_inner().name)
            }
            Step::DeleteApiKey { at } => {
                let known = self.model.api_keys.get(usize::from(*at));
                let name = known.map_or_else(|| "apiKeys/none".to_owned(), |(name, _)| name.clone());
                let request = DeleteApiKeyRequest { name, ..Default::default() };
                self.client.api_keys.delete_api_key(request).await.map(none)
            }
            Step::ListSubscriptions { tenant } => {
                let listed = self.list_subscriptions(*tenant).await?;
                let known = self.model.tenants.get(tenant).expect("there is one if it can be listed");
                let names: Vec<_> = known.subscriptions.keys().map(|id| self.subscription(*tenant, *id)).collect();
                assert_eq!(
                    listed.iter().map(|listed| &listed.name).collect::<Vec<_>>(),
                    names.iter().collect::<Vec<_>>()
                );
                Ok(String::new())
            }
        }
    }

    /// All of them, in pages of two.
    async fn list_subscriptions(&mut self, tenant: u8) -> Result<Vec<Subscription>, Status> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListSubscriptionsRequest { parent: self.tenant(tenant), page_size: 2, page_token };
            let page = self.client.subscriptions.list_subscriptions(request).await?.into_inner();
            all.extend(page.subscriptions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// What is there is what the model has, and every write of a tenant has left a trail.
    async fn compare(&mut self) {
        let mut found = BTreeMap::new();
        for id in 0..3 {
            let name = self.tenant(id);
            let tenant = match self.client.tenants.get_tenant(GetTenantRequest { name: name.clone() }).await {
                Ok(tenant) => tenant.into_inner(),
                Err(status) => {
                    assert_eq!(status.code(), Code::NotFound);
                    continue;
                }
            };
            let request = ListEventTypesRequest { parent: name.clone(), ..Default::default() };
            let event_types = self.client.event_types.list_event_types(request).await.unwrap().into_inner().event_types;
            let last = |name: &str, letter| name.rsplit_once(letter).unwrap().1.parse().unwrap();
            let mut subscriptions = BTreeMap::new();
            for subscription in self.list_subscriptions(id).await.unwrap() {
                let request = ListSecretsRequest { parent: subscription.name.clone(), ..Default::default() };
                let secrets = self.client.subscriptions.list_secrets(request).await.unwrap().into_inner().secrets;
                let of = |secret: &Secret| secret.name.rsplit_once("/k").unwrap().1.parse().ok();
                let secrets = secrets.iter().map(of).collect();
                let model = SubscriptionModel {
                    revision: subscription.revision,
                    secrets,
                    is_paused: subscription.state() == State::Paused,
                };
                subscriptions.insert(last(&subscription.name, "/s"), model);
            }
            let event_types = event_types.iter().map(|it| (last(&it.name, "/e"), (it.revision, it.deprecated)));
            let model = TenantModel {
                title: tenant.display_name,
                revision: tenant.revision,
                event_types: event_types.collect(),
                subscriptions,
            };
            found.insert(id, model);
        }
        assert_eq!(found, self.model.tenants);
        for (tenant, revisions) in &self.model.trails {
            let filter = format!("below = {}", self.tenant(*tenant));
            let request = ListAuditEntriesRequest { filter, page_size: 1_000, ..Default::default() };
            let entries = self.client.audit.list_audit_entries(request).await.unwrap().into_inner().audit_entries;
            assert_eq!(entries.iter().map(|entry| entry.revision).collect::<BTreeSet<_>>(), *revisions);
        }
    }
}

async fn histories_are_as_the_model_says(database: Database) {
    let plane = start(database.control_plane()).await;
    let client = plane.admin().await;
    let histories = std::sync::atomic::AtomicUsize::new(0);
    let config = Config { cases: 24, max_shrink_iters: 300, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(), 20..60);
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&steps, |steps| {
            let number = histories.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut history = History { client: client.clone(), number, model: Model::default(), plane: &plane };
            Handle::current().block_on(history.run(&steps));
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
