//! Master keys are replaced while everything runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use hookwire_control_plane::signing_key::SigningKey;
use hookwire_control_plane::store::{Changes, Error, NewSubscription, Once, Resealed, Store};
use hookwire_proto::config::subscription_settings::Authentication;
use hookwire_proto::config::{self, Sealed, change, resource};
use hookwire_proto::name;
use hookwire_proto::seal::{self, MasterKeys};
use hookwire_proto::v1::{self, secret::Algorithm};
use sea_orm::ConnectionTrait as _;

use crate::store::new_subscription;
use crate::support::{Database, on_both};

on_both!(
    every_sealed_value_moves_to_the_newest_key_and_nodes_are_told,
    what_others_write_meanwhile_is_neither_lost_nor_left_behind,
    a_missing_key_is_named_and_what_does_not_open_too,
    changes_that_are_forgotten_are_a_gap,
);

fn subscription(id: impl ToString) -> name::Subscription {
    name::Subscription { tenant: "a".into(), subscription: id.to_string() }
}

fn secret(of: &name::Subscription, id: &str) -> name::Secret {
    name::Secret { tenant: of.tenant.clone(), subscription: of.subscription.clone(), secret: id.into() }
}

/// The same database under other master keys, the newest first.
async fn with_keys(database: &Database, keys: &[&str]) -> (Store, Arc<MasterKeys>) {
    let keys = Arc::new(MasterKeys::parse(&keys.join("\n")).unwrap());
    (Store::open(&database.settings(), keys.clone()).await.unwrap(), keys)
}

async fn pass(store: &Store) -> Result<Resealed, Error> {
    let (mut all, mut place) = (Resealed::default(), None);
    loop {
        let (done, next) = store.reseal(place.as_ref()).await?;
        all.moved += done.moved;
        all.broken.extend(done.broken);
        match next {
            Some(next) => place = Some(next),
            None => return Ok(all),
        }
    }
}

/// A subscription with a secret of every place: signing, pre-shared, among its settings.
fn with_password() -> NewSubscription {
    let mut new = new_subscription();
    let basic = config::BasicAuth { username: "user".into(), password: None };
    new.fields.settings.settings.authentication = Some(Authentication::BasicAuth(basic));
    new.fields.settings.secrets.insert(seal::BASIC.into(), "password".to_owned().into());
    new
}

/// Every sealed value that nodes are told, with the name that it is sealed for.
fn sealed(resources: &[config::Resource]) -> Vec<(String, Sealed)> {
    let mut all = Vec::new();
    for resource in resources {
        let Some(resource::Resource::Subscription(subscription)) = &resource.resource else { continue };
        all.extend(subscription.secrets.iter().map(|secret| (secret.name.clone(), secret.key.clone().unwrap())));
        let value = subscription.shared_key.as_ref().unwrap().value.clone().unwrap();
        all.push((format!("{}/sharedKey", subscription.name), value));
        if let Some(settings) = &subscription.settings {
            seal::visit(&mut settings.clone(), |part, sealed| {
                all.push((format!("{}{part}", subscription.name), sealed.clone()));
            });
        }
    }
    all
}

async fn every_sealed_value_moves_to_the_newest_key_and_nodes_are_told(database: Database) {
    const SUBSCRIPTIONS: usize = 120;
    // More than are read at a time.
    const ANSWERS: usize = 510;
    let old_text = database.master_keys.clone();
    let (old, old_keys) = with_keys(&database, &[&old_text]).await;
    for tenant in ["a", "b"] {
        old.create_tenant(&name::Tenant { tenant: tenant.into() }, &v1::Tenant::default()).await.unwrap();
    }
    for n in 0..SUBSCRIPTIONS {
        let tenant = if n % 3 == 0 { "b" } else { "a" };
        let name = name::Subscription { tenant: tenant.into(), ..subscription(format!("s{n}")) };
        old.create_subscription(&name, with_password()).await.unwrap();
        old.create_secret(&secret(&name, "pair"), &SigningKey::generate(Algorithm::Ed25519)).await.unwrap();
    }
    let (before, plain) = (old.get_subscription(&subscription("s1")).await.unwrap(), old.snapshot().await.unwrap());
    let opened: BTreeMap<_, _> = sealed(&plain.1)
        .into_iter()
        .map(|(name, sealed)| (name.clone(), old_keys.open(&name, &sealed).unwrap().to_vec()))
        .collect();
    assert_eq!(opened.len(), 4 * SUBSCRIPTIONS);
    let create_once = async |store: &Store, n: usize| {
        let once = Once::new(&format!("00000000-0000-4000-8000-{n:012}"), "CreateTenant", &v1::Tenant::default());
        let tenant = name::Tenant { tenant: format!("t{n}") };
        store.once(Some(once)).create_tenant(&tenant, &v1::Tenant::default()).await.unwrap()
    };
    let mut answers = Vec::new();
    for n in 0..ANSWERS {
        answers.push(create_once(&old, n).await);
    }
    let all = (4 * SUBSCRIPTIONS + ANSWERS) as u64;

    let new_text = MasterKeys::generate();
    let (store, keys) = with_keys(&database, &[&new_text, &old_text]).await;
    let counts = store.count_sealed().await.unwrap();
    assert_eq!(counts, BTreeMap::from([(old_keys.newest().to_owned(), all)]));
    // Ended half-way, and begun anew.
    let (some, _) = store.reseal(None).await.unwrap();
    assert!(some.moved > 0);
    let rest = pass(&store).await.unwrap();
    assert_eq!(some.moved + rest.moved, all);
    assert!(some.broken.is_empty() && rest.broken.is_empty());
    let counts = store.count_sealed().await.unwrap();
    assert_eq!(counts, BTreeMap::from([(keys.newest().to_owned(), all)]));
    let revision = store.revision().await.unwrap();
    assert_eq!(pass(&store).await.unwrap(), Resealed::default());
    assert_eq!(store.revision().await.unwrap(), revision, "nothing is written for nothing");
    assert_eq!(store.get_subscription(&subscription("s1")).await.unwrap(), before, "nobody sees it but nodes");

    // The new key alone opens everything, in the snapshot and in what the changes since have made of the old one.
    let (with_new, only_new) = with_keys(&database, &[&new_text]).await;
    let (_, resources) = store.snapshot().await.unwrap();
    let Changes::Sets(sets) = store.changes_since(plain.0, 1_000_000).await.unwrap() else { panic!("a gap") };
    let told: BTreeMap<_, _> = sets
        .into_iter()
        .flat_map(|set| set.changes)
        .flat_map(|change| match change.change.unwrap() {
            change::Change::Put(resource) => sealed(&[resource]),
            change::Change::Delete(name) => panic!("{name} deleted"),
        })
        .collect();
    assert_eq!(told, sealed(&resources).into_iter().collect(), "a node that follows has the same boxes");
    for (name, sealed) in told {
        assert_eq!(only_new.open(&name, &sealed).unwrap().to_vec(), opened[&name], "{name}");
    }
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(create_once(&with_new, n).await, *answer, "a repeat gets the first answer");
    }
    assert_eq!(with_new.revision().await.unwrap(), revision, "and nothing was carried out again");
}

async fn what_others_write_meanwhile_is_neither_lost_nor_left_behind(database: Database) {
    let old_text = database.master_keys.clone();
    let new_text = MasterKeys::generate();
    // A control plane that was not started again yet: it seals with the old key.
    let (other, _) = with_keys(&database, &[&old_text, &new_text]).await;
    other.create_tenant(&name::Tenant { tenant: "a".into() }, &v1::Tenant::default()).await.unwrap();
    for n in 0..60 {
        other.create_subscription(&subscription(format!("s{n:02}")), new_subscription()).await.unwrap();
    }
    let (store, keys) = with_keys(&database, &[&new_text, &old_text]).await;
    let writing = tokio::spawn(async move {
        let mut made = Vec::new();
        for n in 0..60 {
            let of = subscription(format!("s{:02}", (n * 7) % 60));
            let shown =
                other.create_secret(&secret(&of, "more"), &SigningKey::generate(Algorithm::HmacSha256)).await.unwrap();
            made.push((shown.name, shown.key));
            if n % 10 == 0 {
                other.delete_subscription(&of, "").await.unwrap();
            }
        }
        made
    });
    while !writing.is_finished() {
        pass(&store).await.unwrap();
    }
    let made = writing.await.unwrap();
    let last = pass(&store).await.unwrap();
    assert!(last.broken.is_empty());
    assert_eq!(store.count_sealed().await.unwrap().into_keys().collect::<Vec<_>>(), [keys.newest()]);
    let (_, resources) = store.snapshot().await.unwrap();
    let boxes: BTreeMap<_, _> = sealed(&resources).into_iter().collect();
    let mut found = 0;
    for (name, text) in made {
        if let Some(sealed) = boxes.get(&name) {
            found += 1;
            assert_eq!(*SigningKey::parse(&text).unwrap().bytes(), **keys.open(&name, sealed).unwrap(), "{name}");
        }
    }
    assert!(found >= 50, "{found}");
}

async fn a_missing_key_is_named_and_what_does_not_open_too(database: Database) {
    let old_text = database.master_keys.clone();
    let (old, old_keys) = with_keys(&database, &[&old_text]).await;
    old.create_tenant(&name::Tenant { tenant: "a".into() }, &v1::Tenant::default()).await.unwrap();
    for id in ["one", "two"] {
        old.create_subscription(&subscription(id), new_subscription()).await.unwrap();
    }
    let new_text = MasterKeys::generate();
    let (without, _) = with_keys(&database, &[&new_text]).await;
    let revision = without.revision().await.unwrap();
    let error = without.reseal(None).await.unwrap_err();
    assert!(matches!(&error, Error::MasterKeyMissing { key_id } if key_id == old_keys.newest()), "{error}");
    assert_eq!(without.revision().await.unwrap(), revision, "nothing was changed");

    // A box that was taken from another row.
    let connection = sea_orm::Database::connect(&database.url).await.unwrap();
    let swap =
        "UPDATE secrets SET key = (SELECT key FROM secrets WHERE subscription = 'two') WHERE subscription = 'one'";
    connection.execute_unprepared(swap).await.unwrap();
    connection.close().await.unwrap();
    let (store, keys) = with_keys(&database, &[&new_text, &old_text]).await;
    let done = pass(&store).await.unwrap();
    assert_eq!((done.moved, done.broken), (3, vec!["tenants/a/subscriptions/one/secrets/first".to_owned()]));
    let counts = store.count_sealed().await.unwrap();
    assert_eq!(counts, BTreeMap::from([(keys.newest().to_owned(), 3), (old_keys.newest().to_owned(), 1)]));
}

async fn changes_that_are_forgotten_are_a_gap(database: Database) {
    let store = database.store().await;
    for n in 1..=5 {
        store.create_tenant(&name::Tenant { tenant: format!("t{n}") }, &v1::Tenant::default()).await.unwrap();
    }
    assert_eq!(store.forget_changes(3).await.unwrap(), 3);
    assert_eq!(store.changes_since(2, 10).await.unwrap(), Changes::Gap);
    let Changes::Sets(sets) = store.changes_since(3, 10).await.unwrap() else { panic!("a gap") };
    assert_eq!(sets.iter().map(|set| set.revision).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(store.forget_changes(5).await.unwrap(), 2);
    assert_eq!(store.changes_since(4, 10).await.unwrap(), Changes::Gap);
    assert_eq!(store.changes_since(5, 10).await.unwrap(), Changes::Sets(vec![]));
    store.create_tenant(&name::Tenant { tenant: "t6".into() }, &v1::Tenant::default()).await.unwrap();
    assert!(matches!(store.changes_since(5, 10).await.unwrap(), Changes::Sets(sets) if sets[0].revision == 6));
}
