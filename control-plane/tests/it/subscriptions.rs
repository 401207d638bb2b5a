//! Subscriptions that change, alone and many at once.

use hookwire_control_plane::store::Changes;
use hookwire_proto::config::{self, change::Change, resource};
use hookwire_proto::seal;
use hookwire_proto::v1::subscription::Authentication;
use hookwire_proto::v1::*;
use prost::{Message as _, Name as _};
use prost_types::FieldMask;
use tonic::Code;

use crate::settings::everything;
use crate::support::{Client, Database, Plane, invalid, new_subscription, on_both, refusal, refused, start};

on_both!(
    an_update_changes_what_its_mask_names_and_secrets_that_are_left_out_stay,
    an_update_is_checked_as_a_new_subscription_is,
    event_types_that_it_has_already_are_no_obstacle,
    a_thousand_are_created_with_one_revision,
    a_thousand_are_changed_with_one_revision,
    of_a_batch_all_are_written_or_none,
    every_wrong_field_of_a_batch_is_told_with_its_place,
);

const NAME: &str = "tenants/acme/subscriptions/s";

async fn with_acme(database: &Database) -> (Plane, Client) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    (plane, client)
}

fn update(subscription: Subscription, paths: &[&str]) -> UpdateSubscriptionRequest {
    let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
    let update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
    UpdateSubscriptionRequest { subscription: Some(subscription), update_mask }
}

fn titled(name: &str, display_name: &str) -> Subscription {
    Subscription { name: name.into(), display_name: display_name.into(), ..Default::default() }
}

async fn get(client: &mut Client, name: &str) -> Subscription {
    let request = GetSubscriptionRequest { name: name.into() };
    client.subscriptions.get_subscription(request).await.unwrap().into_inner()
}

/// What a revision wrote, as nodes get it.
async fn pushed(plane: &Plane, revision: i64) -> Vec<config::Subscription> {
    let Changes::Sets(sets) = plane.store.changes_since(revision - 1, 1).await.unwrap() else { panic!("trimmed") };
    let changes = sets.into_iter().flat_map(|set| set.changes).filter_map(|change| match change.change {
        Some(Change::Put(config::Resource { resource: Some(resource::Resource::Subscription(pushed)) })) => {
            Some(pushed)
        }
        _ => None,
    });
    changes.collect()
}

/// The secrets among what is pushed of a subscription, opened, and how many sign for it.
fn secrets_of(database: &Database, mut pushed: config::Subscription) -> (Vec<(String, String)>, usize) {
    let (keys, mut opened) = (database.keys(), Vec::new());
    seal::visit(pushed.settings.as_mut().unwrap(), |part, sealed| {
        let plain = keys.open(&format!("{}{part}", pushed.name), sealed).unwrap();
        opened.push((part.to_owned(), String::from_utf8(plain.to_vec()).unwrap()));
    });
    let shared = pushed.shared_key.unwrap().value.unwrap();
    let plain = keys.open(&format!("{}/sharedKey", pushed.name), &shared).unwrap();
    opened.push(("/sharedKey".into(), String::from_utf8(plain.to_vec()).unwrap()));
    (opened, pushed.secrets.len())
}

async fn an_update_changes_what_its_mask_names_and_secrets_that_are_left_out_stay(database: Database) {
    let (plane, mut client) = with_acme(&database).await;
    let (set, _) = everything();
    let request = CreateSubscriptionRequest { subscription: Some(set), ..new_subscription("acme", "s") };
    let made = client.subscriptions.create_subscription(request).await.unwrap().into_inner();
    let before = secrets_of(&database, pushed(&plane, made.revision).await.remove(0));
    assert_eq!((before.0.len(), before.1), (4, 1));
    let made = Subscription { initial_secret: None, ..made };

    // What was read is sent back, with another URL of the same origin and as the whole of it.
    let url = url::Url::parse(&made.url).unwrap().join("/elsewhere").unwrap().to_string();
    assert_ne!(url, made.url);
    let request = update(Subscription { url: url.clone(), ..made.clone() }, &["*"]);
    let changed = client.subscriptions.update_subscription(request).await.unwrap().into_inner();
    assert_eq!(changed, get(&mut client, NAME).await);
    let expected = Subscription {
        url,
        update_time: changed.update_time,
        revision: made.revision + 1,
        etag: changed.etag.clone(),
        ..made.clone()
    };
    assert_eq!(changed, expected);
    assert_eq!(secrets_of(&database, pushed(&plane, changed.revision).await.remove(0)), before);

    // Secrets do not go elsewhere by themselves, and what is refused changes nothing.
    let elsewhere = "https://elsewhere.example.org/".to_owned();
    let answer = client
        .subscriptions
        .update_subscription(update(Subscription { url: elsewhere, ..titled(NAME, "") }, &["url"]))
        .await;
    let fields = [
        "subscription.shared_key.value",
        "subscription.headers[1].secret_value",
        "subscription.oauth_client.client_secret",
    ];
    assert_eq!(refusal(answer), invalid(fields));
    assert_eq!(get(&mut client, NAME).await, changed);

    // A new secret for one header; a stale etag; what the mask does not name.
    let mut again = Subscription { display_name: "not named".into(), ..changed.clone() };
    again.headers[1].secret_value = "another-s3cret".into();
    again.etag = made.etag.clone();
    let stale = client.subscriptions.update_subscription(update(again.clone(), &["headers"])).await;
    assert_eq!(refusal(stale), refused(Code::Aborted, "ETAG_MISMATCH"));
    again.etag = changed.etag.clone();
    let other = client.subscriptions.update_subscription(update(again, &["headers"])).await.unwrap().into_inner();
    assert_eq!((other.display_name.as_str(), &other.headers), ("", &changed.headers));
    let mut expected = before.clone();
    expected.0[0].1 = "another-s3cret".into();
    assert_eq!(secrets_of(&database, pushed(&plane, other.revision).await.remove(0)), expected);

    // Basic authentication instead of OAuth needs its password, and takes the place of the other.
    let basic = |password: &str| Subscription {
        name: NAME.into(),
        authentication: Some(Authentication::BasicAuth(BasicAuth { username: "me".into(), password: password.into() })),
        ..Default::default()
    };
    let without = client.subscriptions.update_subscription(update(basic(""), &["basic_auth"])).await;
    assert_eq!(refusal(without), invalid(["subscription.basic_auth.password"]));
    let with = client.subscriptions.update_subscription(update(basic("s3same"), &[])).await.unwrap().into_inner();
    assert_eq!(with.authentication, basic("").authentication);
    let parts: Vec<_> = secrets_of(&database, pushed(&plane, with.revision).await.remove(0)).0;
    assert!(parts.contains(&(seal::BASIC.to_owned(), "s3same".to_owned())), "{parts:?}");
    assert!(parts.iter().all(|(part, _)| part != seal::OAUTH));

    // Its audit trail shows it as the API does.
    let request = ListAuditEntriesRequest { filter: "method = \"UpdateSubscription\"".into(), ..Default::default() };
    let entries = client.audit.list_audit_entries(request).await.unwrap().into_inner().audit_entries;
    assert_eq!(entries.len(), 3);
    let unpack = |any: &prost_types::Any| {
        assert_eq!(any.type_url, Subscription::type_url());
        Subscription::decode(&*any.value).unwrap()
    };
    assert_eq!(unpack(entries[2].before.as_ref().unwrap()), made);
    assert_eq!(unpack(entries[2].after.as_ref().unwrap()), changed);
    assert_eq!(unpack(entries[0].after.as_ref().unwrap()), with);
}

async fn an_update_is_checked_as_a_new_subscription_is(database: Database) {
    let (plane, mut client) = with_acme(&database).await;
    client.create_subscription("acme", "s").await;
    let revision = plane.store.revision().await.unwrap();
    let named = || Subscription { name: NAME.into(), ..Default::default() };
    let cases = [
        (update(Subscription { url: "http://10.0.0.1/".into(), ..named() }, &["url"]), "subscription.url"),
        (update(named(), &["event_types"]), "subscription.event_types"),
        (update(named(), &["nonsense"]), "update_mask"),
        (
            update(Subscription { initial_secret: Some(Secret::default()), ..named() }, &[]),
            "subscription.initial_secret",
        ),
        (update(Subscription { name: "s".into(), ..named() }, &[]), "subscription.name"),
        (UpdateSubscriptionRequest::default(), "subscription.name"),
    ];
    for (request, field) in cases {
        assert_eq!(refusal(client.subscriptions.update_subscription(request).await), invalid([field]));
    }
    let absent = update(titled("tenants/acme/subscriptions/other", "x"), &[]);
    let absent = client.subscriptions.update_subscription(absent).await;
    assert_eq!(refusal(absent), refused(Code::NotFound, "NOT_FOUND"));
    assert_eq!(plane.store.revision().await.unwrap(), revision, "nothing was written");
}

async fn event_types_that_it_has_already_are_no_obstacle(database: Database) {
    let (_plane, mut client) = with_acme(&database).await;
    for event_type in ["old", "new"] {
        client.create_event_type("acme", event_type).await;
    }
    let mut request = new_subscription("acme", "s");
    request.subscription.as_mut().unwrap().event_types = vec!["old".into()];
    client.subscriptions.create_subscription(request).await.unwrap();
    for event_type in ["old", "new"] {
        let name = format!("tenants/acme/eventTypes/{event_type}");
        let event_type = Some(EventType { name, deprecated: true, ..Default::default() });
        let request = UpdateEventTypeRequest { event_type, update_mask: None };
        client.event_types.update_event_type(request).await.unwrap();
    }
    client.subscriptions.update_subscription(update(titled(NAME, "Renamed"), &[])).await.unwrap();
    let with = |event_types: &[&str]| {
        let event_types = event_types.iter().map(ToString::to_string).collect();
        update(Subscription { event_types, ..titled(NAME, "") }, &["event_types"])
    };
    let deprecated = client.subscriptions.update_subscription(with(&["old", "new"])).await;
    assert_eq!(refusal(deprecated), refused(Code::FailedPrecondition, "EVENT_TYPE_DEPRECATED"));
    let unknown = client.subscriptions.update_subscription(with(&["old", "unknown"])).await;
    assert_eq!(refusal(unknown), refused(Code::FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED"));
    assert_eq!(get(&mut client, NAME).await.event_types, ["old"]);
}

fn many(count: usize) -> BatchCreateSubscriptionsRequest {
    let requests = (0..count).map(|n| CreateSubscriptionRequest {
        // A parent may be left out.
        parent: if n % 2 == 0 { "tenants/acme".into() } else { String::new() },
        ..new_subscription("acme", &format!("s{n}"))
    });
    let parent = "tenants/acme".into();
    BatchCreateSubscriptionsRequest { parent, requests: requests.collect(), ..Default::default() }
}

async fn a_thousand_are_created_with_one_revision(database: Database) {
    let (plane, mut client) = with_acme(&database).await;
    let before = plane.store.revision().await.unwrap();
    let request_id = "5e6e0b0a-8f6e-4c56-9a0b-0d6a2b8a9f31".into();
    let request = BatchCreateSubscriptionsRequest { request_id, ..many(1_000) };
    let made = client.subscriptions.batch_create_subscriptions(request.clone()).await.unwrap().into_inner();
    assert_eq!(made.subscriptions.len(), 1_000);
    let keys: std::collections::HashSet<_> =
        made.subscriptions.iter().map(|made| made.initial_secret.as_ref().unwrap().key.clone()).collect();
    assert_eq!(keys.len(), 1_000, "a secret each");
    for (n, made) in made.subscriptions.iter().enumerate() {
        assert_eq!((made.name.clone(), made.revision), (format!("tenants/acme/subscriptions/s{n}"), before + 1));
    }
    let last = Subscription { initial_secret: None, ..made.subscriptions[999].clone() };
    assert_eq!(get(&mut client, &last.name).await, last);
    let nodes = pushed(&plane, before + 1).await;
    assert_eq!((nodes.len(), nodes[999].secrets.len()), (1_000, 1));

    let again = client.subscriptions.batch_create_subscriptions(request).await.unwrap().into_inner();
    assert_eq!(again, made, "a repeat gets the first answer");
    assert_eq!(plane.store.revision().await.unwrap(), before + 1);
    assert_eq!(audited(&mut client, "BatchCreateSubscriptions").await, 1_000);
}

async fn audited(client: &mut Client, method: &str) -> usize {
    let filter = format!("method = \"{method}\"");
    let request = ListAuditEntriesRequest { filter, page_size: 1_000, ..Default::default() };
    client.audit.list_audit_entries(request).await.unwrap().into_inner().audit_entries.len()
}

fn all_of(updates: Vec<UpdateSubscriptionRequest>) -> BatchUpdateSubscriptionsRequest {
    BatchUpdateSubscriptionsRequest { parent: "tenants/acme".into(), requests: updates }
}

async fn a_thousand_are_changed_with_one_revision(database: Database) {
    let (plane, mut client) = with_acme(&database).await;
    let made = client.subscriptions.batch_create_subscriptions(many(1_000)).await.unwrap().into_inner().subscriptions;
    // Backwards, each as it is known.
    let updates = made.iter().rev().map(|made| {
        let etag = made.etag.clone();
        update(Subscription { etag, ..titled(&made.name, &format!("of {}", made.name)) }, &["display_name"])
    });
    let request = all_of(updates.collect());
    let changed = client.subscriptions.batch_update_subscriptions(request.clone()).await.unwrap().into_inner();
    let revision = made[0].revision + 1;
    assert_eq!(changed.subscriptions.len(), 1_000);
    for (changed, made) in changed.subscriptions.iter().zip(made.iter().rev()) {
        let expected = Subscription {
            display_name: format!("of {}", made.name),
            initial_secret: None,
            update_time: changed.update_time,
            etag: changed.etag.clone(),
            revision,
            ..made.clone()
        };
        assert_eq!(*changed, expected);
    }
    let nodes = pushed(&plane, revision).await;
    assert_eq!(nodes.len(), 1_000);
    assert!(nodes.iter().all(|node| node.secrets.len() == 1), "each keeps its secret");
    assert_eq!(audited(&mut client, "BatchUpdateSubscriptions").await, 1_000);
    let stale = client.subscriptions.batch_update_subscriptions(request).await;
    assert_eq!(refusal(stale), refused(Code::Aborted, "ETAG_MISMATCH"));
}

async fn of_a_batch_all_are_written_or_none(database: Database) {
    let (plane, mut client) = with_acme(&database).await;
    client.create_subscription("acme", "s").await;
    client.create_subscription("acme", "s2").await;
    let before = plane.store.revision().await.unwrap();
    let create =
        async |client: &mut Client, request| refusal(client.subscriptions.batch_create_subscriptions(request).await);
    assert_eq!(create(&mut client, many(3)).await, refused(Code::AlreadyExists, "ALREADY_EXISTS"));
    let mut unregistered = many(2);
    unregistered.requests[1].subscription.as_mut().unwrap().event_types = vec!["unknown".into()];
    let expected = refused(Code::FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED");
    assert_eq!(create(&mut client, unregistered).await, expected);
    let mut nobodys = many(2);
    nobodys.parent = "tenants/nobody".into();
    nobodys.requests.iter_mut().for_each(|request| request.parent.clear());
    assert_eq!(create(&mut client, nobodys).await, refused(Code::NotFound, "NOT_FOUND"));

    let with = |last: UpdateSubscriptionRequest| all_of(vec![update(titled(NAME, "changed"), &[]), last]);
    let absent = with(update(titled("tenants/acme/subscriptions/absent", "x"), &[]));
    let stale =
        with(update(Subscription { etag: "\"stale\"".into(), ..titled("tenants/acme/subscriptions/s2", "x") }, &[]));
    let absent = client.subscriptions.batch_update_subscriptions(absent).await;
    assert_eq!(refusal(absent), refused(Code::NotFound, "NOT_FOUND"));
    let stale = client.subscriptions.batch_update_subscriptions(stale).await;
    assert_eq!(refusal(stale), refused(Code::Aborted, "ETAG_MISMATCH"));

    assert_eq!(plane.store.revision().await.unwrap(), before, "nothing was written");
    assert_eq!(get(&mut client, NAME).await.display_name, "");
    let request = ListSubscriptionsRequest { parent: "tenants/acme".into(), ..Default::default() };
    assert_eq!(client.subscriptions.list_subscriptions(request).await.unwrap().into_inner().subscriptions.len(), 2);
}

async fn every_wrong_field_of_a_batch_is_told_with_its_place(database: Database) {
    let (plane, mut client) = with_acme(&database).await;
    let before = plane.store.revision().await.unwrap();
    let mut request = many(5);
    request.requests[0].subscription.as_mut().unwrap().url.clear();
    request.requests[1].subscription = None;
    request.requests[2].parent = "tenants/other".into();
    request.requests[2].request_id = "b5c3c9d1-7b63-4d0e-a3d0-3a8f8f1a9a00".into();
    request.requests[4].subscription_id = "s3".into();
    let expected = invalid([
        "requests[0].subscription.url",
        "requests[1].subscription",
        "requests[1].subscription.url",
        "requests[1].subscription.event_types",
        "requests[2].parent",
        "requests[2].request_id",
        "requests[4].subscription_id",
    ]);
    assert_eq!(refusal(client.subscriptions.batch_create_subscriptions(request).await), expected);
    for count in [0, 1_001] {
        let answer = client.subscriptions.batch_create_subscriptions(many(count)).await;
        assert_eq!(refusal(answer), invalid(["requests"]), "{count}");
    }
    assert_eq!(plane.store.revision().await.unwrap(), before);

    client.subscriptions.batch_create_subscriptions(many(3)).await.unwrap();
    let name = |n: usize| format!("tenants/acme/subscriptions/s{n}");
    let names = all_of(vec![
        update(titled(&name(0), "a"), &[]),
        update(titled(&name(0), "b"), &[]),
        update(titled("tenants/other/subscriptions/s", "c"), &[]),
        update(titled("s", "d"), &[]),
        UpdateSubscriptionRequest::default(),
    ]);
    let places = [1, 2, 3, 4].map(|at| format!("requests[{at}].subscription.name"));
    let expected = invalid(places.each_ref().map(String::as_str));
    assert_eq!(refusal(client.subscriptions.batch_update_subscriptions(names).await), expected);
    let fields = all_of(vec![
        update(titled(&name(0), "a"), &[]),
        update(titled(&name(1), &"b".repeat(300)), &["display_name"]),
        update(titled(&name(2), "c"), &["nonsense"]),
    ]);
    let expected = invalid(["requests[1].subscription.display_name", "requests[2].update_mask"]);
    assert_eq!(refusal(client.subscriptions.batch_update_subscriptions(fields).await), expected);
    let none = client.subscriptions.batch_update_subscriptions(all_of(vec![])).await;
    assert_eq!(refusal(none), invalid(["requests"]));
    assert_eq!(get(&mut client, &name(0)).await.display_name, "");
}
