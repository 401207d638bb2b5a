//! The store: revisions, change sets, snapshots, sealing.

use std::collections::BTreeMap;
use std::time::Duration;

use hookwire_control_plane::signing_key::SigningKey;
use hookwire_control_plane::store::{Changes, Error, Fields, NewApiKey, NewSubscription, Store, StoreSettings};
use hookwire_proto::config::{self, change, resource};
use hookwire_proto::name;
use hookwire_proto::v1::secret::Algorithm;
use hookwire_proto::v1::{self, api_key::Role};
use zeroize::Zeroizing;

use crate::support::{Database, on_both};

on_both!(
    writes_take_revisions_in_order_without_a_gap,
    no_reader_skips_a_write_of_another_process,
    a_refused_write_leaves_nothing,
    changes_that_were_trimmed_are_a_gap,
    changes_rebuild_what_the_snapshot_says,
    secrets_are_sealed_for_their_resource,
    a_store_keeps_its_identity_and_its_data,
    several_processes_may_open_a_new_store_at_once,
    a_store_of_a_newer_version_is_refused_with_a_word,
    lists_are_in_the_order_of_bytes,
    the_bootstrap_key_is_made_once_and_replaced_when_it_changes,
);

fn tenant(id: &str) -> name::Tenant {
    name::Tenant { tenant: id.into() }
}

fn titled(display_name: &str) -> v1::Tenant {
    v1::Tenant { display_name: display_name.into(), ..Default::default() }
}

fn subscription(tenant: &str, id: &str) -> name::Subscription {
    name::Subscription { tenant: tenant.into(), subscription: id.into() }
}

pub fn new_subscription() -> NewSubscription {
    NewSubscription {
        fields: Fields {
            url: "https://example.com/".into(),
            event_types: vec!["*".into()],
            shared_key: Some(("x-api-key".into(), Some(Zeroizing::new("shared".into())))),
            max_concurrency: 7,
            ..Fields::default()
        },
        secret_id: "first".into(),
        secret: SigningKey::hmac(vec![1; 32].into()),
    }
}

async fn sets(store: &Store, revision: i64) -> Vec<config::ChangeSet> {
    match store.changes_since(revision, 1_000_000).await.unwrap() {
        Changes::Sets(sets) => sets,
        Changes::Gap => panic!("a gap after {revision}"),
    }
}

async fn writes_take_revisions_in_order_without_a_gap(database: Database) {
    let store = database.store().await;
    let mut written = store.written();
    assert_eq!(store.revision().await.unwrap(), 0);
    for revision in 1..=5 {
        let made = store.create_tenant(&tenant(&format!("t{revision}")), &titled("T")).await.unwrap();
        assert_eq!(made.revision, revision);
        assert_eq!(store.revision().await.unwrap(), revision);
        written.changed().await.unwrap();
        assert_eq!(*written.borrow_and_update(), revision);
    }
    let revisions: Vec<_> = sets(&store, 2).await.iter().map(|set| set.revision).collect();
    assert_eq!(revisions, [3, 4, 5]);
    assert_eq!(store.changes_since(0, 2).await.unwrap(), Changes::Sets(sets(&store, 0).await[..2].to_vec()));
    assert!(sets(&store, 5).await.is_empty());
    assert_eq!(store.changes_since(6, 10).await.unwrap(), Changes::Gap, "revisions that this store never made");
}

/// Writers and a reader with stores of their own, as in several control planes.
async fn no_reader_skips_a_write_of_another_process(database: Database) {
    const WRITES: i64 = 120;
    let reader = database.store().await;
    let writers: Vec<_> = futures::future::join_all((0..3).map(|_| database.store())).await;
    let writing = writers.into_iter().enumerate().map(|(n, store)| {
        tokio::spawn(async move {
            for i in 0..WRITES / 3 {
                store.create_tenant(&tenant(&format!("t{n}-{i}")), &v1::Tenant::default()).await.unwrap();
            }
        })
    });
    let writing = futures::future::join_all(writing);
    let reading = async {
        let mut seen = 0;
        while seen < WRITES {
            for set in sets(&reader, seen).await {
                assert_eq!(set.revision, seen + 1);
                seen = set.revision;
            }
            tokio::task::yield_now().await;
        }
    };
    let reading = tokio::time::timeout(Duration::from_secs(60), reading);
    let (written, read) = tokio::join!(writing, reading);
    read.expect("every write is seen");
    written.into_iter().for_each(|writer| writer.unwrap());
}

async fn a_refused_write_leaves_nothing(database: Database) {
    let store = database.store().await;
    store.create_tenant(&tenant("a"), &v1::Tenant::default()).await.unwrap();
    let event_type = name::EventType { tenant: "nobody".into(), event_type: "e".into() };
    assert!(
        matches!(store.create_event_type(&event_type, &v1::EventType::default()).await, Err(Error::NotFound { name }) if name == "tenants/nobody")
    );
    assert!(matches!(
        store.create_tenant(&tenant("a"), &v1::Tenant::default()).await,
        Err(Error::AlreadyExists { .. })
    ));
    let mut unregistered = new_subscription();
    unregistered.fields.event_types = vec!["*".into(), "x".into(), "y.*".into()];
    let refused = store.create_subscription(&subscription("a", "s"), unregistered).await;
    assert!(matches!(refused, Err(Error::EventTypesNotRegistered { event_types, .. }) if event_types == ["x"]));
    let nobody = tenant("nobody");
    let key = NewApiKey::unlimited("", Role::Viewer, Some(&nobody), "k");
    let refused = store.create_api_key(&name::ApiKey { api_key: "k".into() }, key).await;
    assert!(matches!(refused, Err(Error::NotFound { name }) if name == "tenants/nobody"));
    assert!(matches!(store.delete_tenant(&tenant("b"), "", false, "").await, Err(Error::NotFound { .. })));
    let secret = name::Secret { tenant: "a".into(), subscription: "s".into(), secret: "k".into() };
    assert!(matches!(
        store.create_secret(&secret, &SigningKey::generate(Algorithm::HmacSha256)).await,
        Err(Error::NotFound { .. })
    ));

    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(sets(&store, 0).await.len(), 1);
    assert_eq!(store.snapshot().await.unwrap().1.len(), 1);
    // The next write goes on where the last good one was.
    assert_eq!(store.create_tenant(&tenant("b"), &v1::Tenant::default()).await.unwrap().revision, 2);
}

async fn changes_that_were_trimmed_are_a_gap(database: Database) {
    let store = database.store_with(StoreSettings { keep_changes: 3, ..database.settings() }).await;
    for n in 1..=5 {
        store.create_tenant(&tenant(&format!("t{n}")), &v1::Tenant::default()).await.unwrap();
    }
    assert_eq!(store.changes_since(0, 10).await.unwrap(), Changes::Gap);
    assert_eq!(store.changes_since(1, 10).await.unwrap(), Changes::Gap);
    assert_eq!(sets(&store, 2).await.len(), 3);
}

async fn changes_rebuild_what_the_snapshot_says(database: Database) {
    let store = database.store().await;
    for id in ["a", "b"] {
        store.create_tenant(&tenant(id), &v1::Tenant::default()).await.unwrap();
        let event_type = name::EventType { tenant: id.into(), event_type: "invoice.paid".into() };
        store.create_event_type(&event_type, &v1::EventType::default()).await.unwrap();
        for n in 0..3 {
            store.create_subscription(&subscription(id, &format!("s{n}")), new_subscription()).await.unwrap();
        }
    }
    let owner = tenant("a");
    let key = NewApiKey::unlimited("", Role::Publisher, Some(&owner), "text");
    store.create_api_key(&name::ApiKey { api_key: "k1".into() }, key).await.unwrap();
    let second = name::Secret { tenant: "a".into(), subscription: "s0".into(), secret: "second".into() };
    store.create_secret(&second, &SigningKey::hmac(vec![2; 24].into())).await.unwrap();
    store.delete_secret(&name::Secret { secret: "first".into(), ..second.clone() }, "").await.unwrap();
    store.delete_subscription(&subscription("a", "s1"), "").await.unwrap();
    store
        .delete_event_type(&name::EventType { tenant: "b".into(), event_type: "invoice.paid".into() }, "")
        .await
        .unwrap();

    let mut rebuilt = BTreeMap::new();
    for change in sets(&store, 0).await.into_iter().flat_map(|set| set.changes) {
        match change.change.unwrap() {
            change::Change::Put(resource) => drop(rebuilt.insert(name_of(&resource), resource)),
            change::Change::Delete(name) => assert!(rebuilt.remove(&name).is_some(), "{name}"),
        }
    }
    let (revision, resources) = store.snapshot().await.unwrap();
    assert_eq!(revision, store.revision().await.unwrap());
    assert_eq!(rebuilt, resources.into_iter().map(|resource| (name_of(&resource), resource)).collect());
}

fn name_of(resource: &config::Resource) -> String {
    match resource.resource.as_ref().unwrap() {
        resource::Resource::Tenant(tenant) => tenant.name.clone(),
        resource::Resource::EventType(event_type) => event_type.name.clone(),
        resource::Resource::Subscription(subscription) => subscription.name.clone(),
        resource::Resource::ApiKey(key) => key.name.clone(),
        resource::Resource::Replay(replay) => replay.name.clone(),
    }
}

async fn secrets_are_sealed_for_their_resource(database: Database) {
    let store = database.store().await;
    store.create_tenant(&tenant("a"), &v1::Tenant::default()).await.unwrap();
    let made = store.create_subscription(&subscription("a", "s"), new_subscription()).await.unwrap();
    assert!(made.initial_secret.unwrap().key.starts_with("whsec_AQEB"), "shown this once");
    let listed = store.list_secrets(&subscription("a", "s"), 0, 10).await.unwrap();
    assert_eq!(listed[0].key, "");
    let (_, resources) = store.snapshot().await.unwrap();
    let Some(resource::Resource::Subscription(pushed)) = &resources[1].resource else { panic!("{resources:?}") };
    assert_eq!((pushed.max_concurrency, pushed.revision), (7, 2));

    let keys = database.keys();
    let secret = &pushed.secrets[0];
    assert_eq!(secret.name, "tenants/a/subscriptions/s/secrets/first");
    assert_eq!(*keys.open(&secret.name, secret.key.as_ref().unwrap()).unwrap(), vec![1; 32]);
    let shared_key = pushed.shared_key.as_ref().unwrap();
    assert_eq!(shared_key.header, "x-api-key");
    let sealed_for = format!("{}/sharedKey", pushed.name);
    assert_eq!(*keys.open(&sealed_for, shared_key.value.as_ref().unwrap()).unwrap(), b"shared");
}

async fn a_store_keeps_its_identity_and_its_data(database: Database) {
    let store = database.store().await;
    let made = store.create_tenant(&tenant("a"), &titled("Acme ✓")).await.unwrap();
    let id = store.store_id().to_owned();
    store.close().await;
    let again = database.store().await;
    assert_eq!(again.store_id(), id);
    assert_eq!(*again.written().borrow(), 1);
    assert_eq!(again.get_tenant(&tenant("a")).await.unwrap(), made);
}

async fn several_processes_may_open_a_new_store_at_once(database: Database) {
    let stores = futures::future::join_all((0..4).map(|_| database.store())).await;
    assert!(stores.iter().all(|store| store.store_id() == stores[0].store_id()));
    // Each step was made once.
    let steps = database.query("SELECT version FROM seaql_migrations ORDER BY version").await;
    let mut once = steps.clone();
    once.dedup();
    assert!(steps.len() >= 4 && steps == once, "{steps:?}");
    assert_eq!(database.query("SELECT store_id FROM store").await.len(), 1);
}

async fn a_store_of_a_newer_version_is_refused_with_a_word(database: Database) {
    let store = database.store().await;
    store.create_tenant(&tenant("a"), &titled("Acme")).await.unwrap();
    let version = "m9999_of_a_later_version";
    database.execute(&format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{version}', 0)")).await;
    let error = Store::open(&database.settings(), database.keys()).await.unwrap_err();
    assert!(matches!(error, Error::NewerSchema { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("newer version") && text.contains(version) && text.contains("restore a backup"), "{text}");
    // Who runs already goes on: versions are rolled out one process at a time.
    store.create_tenant(&tenant("b"), &titled("Beta")).await.unwrap();
}

async fn lists_are_in_the_order_of_bytes(database: Database) {
    let store = database.store().await;
    store.create_tenant(&tenant("a"), &v1::Tenant::default()).await.unwrap();
    for id in ["b", "B", "a_b", "a.b", "a2", "A", "_"] {
        store
            .create_event_type(
                &name::EventType { tenant: "a".into(), event_type: id.into() },
                &v1::EventType::default(),
            )
            .await
            .unwrap();
    }
    let listed = store.list_event_types(&tenant("a"), "", 100).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|event_type| name::last_id(&event_type.name)).collect();
    assert_eq!(ids, ["A", "B", "_", "a.b", "a2", "a_b", "b"]);
    let after = store.list_event_types(&tenant("a"), "a.b", 2).await.unwrap();
    let ids: Vec<_> = after.iter().map(|event_type| name::last_id(&event_type.name)).collect();
    assert_eq!(ids, ["a2", "a_b"]);
}

async fn the_bootstrap_key_is_made_once_and_replaced_when_it_changes(database: Database) {
    let store = database.store().await;
    let name = name::ApiKey { api_key: "bootstrap".into() };
    let key = |key| NewApiKey::unlimited("", Role::Admin, None, key);
    let hash = hookwire_control_plane::auth::hash;
    store.ensure_api_key(&name, key("one")).await.unwrap();
    store.ensure_api_key(&name, key("one")).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 1);
    assert!(store.api_key_by_hash(&hash("one")).await.unwrap().is_some());
    store.ensure_api_key(&name, key("two")).await.unwrap();
    assert!(store.api_key_by_hash(&hash("one")).await.unwrap().is_none());
    assert_eq!(store.api_key_by_hash(&hash("two")).await.unwrap().unwrap().name, "apiKeys/bootstrap");
}
