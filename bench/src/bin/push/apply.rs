//! What one change costs a node that has so many subscriptions: the next snapshot made, and the one before let go. Beside it, what the
//! machine takes at least: the same subscription put into a map of the standard library, in place, where only the memory that it meets
//! is farther away the more there are.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookwire_data_plane::cache::Snapshot;
use hookwire_proto::config::{
    Change, ChangeSet, EventType, Resource, Sealed, Secret, Subscription, Tenant, change, resource,
};
use rand::Rng as _;

const CHANGES: usize = 20_000;
/// Subscriptions of a tenant.
const EACH: usize = 10;

/// The mean of many changes, each of one subscription.
pub fn mean(subscriptions: usize) -> Duration {
    let tenants = subscriptions / EACH;
    let all = (0..tenants)
        .flat_map(tenant)
        .chain((0..subscriptions).map(|number| resource(subscription(number, tenants, 1))));
    let mut snapshot = Arc::new(Snapshot::new(1, all));
    let set = |(revision, subscription)| ChangeSet {
        revision,
        changes: vec![Change { change: Some(change::Change::Put(resource(subscription))) }],
    };
    let mean = mean_of(changes(subscriptions, tenants).map(set).collect(), |set| {
        let mut next = Snapshot::clone(&snapshot);
        next.apply(set);
        snapshot = Arc::new(next);
    });
    black_box(&snapshot);
    mean
}

/// The mean of as many changes in place, which nobody else could read meanwhile.
pub fn mean_in_place(subscriptions: usize) -> Duration {
    let tenants = subscriptions / EACH;
    let named = |subscription: Subscription| (subscription.name.clone(), subscription);
    let mut all: HashMap<String, Subscription> =
        (0..subscriptions).map(|number| named(subscription(number, tenants, 1))).collect();
    let mean = mean_of(changes(subscriptions, tenants).map(|(_, new)| named(new)).collect(), |(name, subscription)| {
        all.insert(name, subscription);
    });
    black_box(&all);
    mean
}

/// Revisions, and in each another subscription by chance.
fn changes(subscriptions: usize, tenants: usize) -> impl Iterator<Item = (i64, Subscription)> {
    (2..)
        .take(CHANGES)
        .map(move |revision| (revision, subscription(rand::rng().random_range(0..subscriptions), tenants, revision)))
}

fn mean_of<T>(changes: Vec<T>, change: impl FnMut(T)) -> Duration {
    let began = Instant::now();
    changes.into_iter().for_each(change);
    began.elapsed() / u32::try_from(CHANGES).expect("small")
}

fn tenant(number: usize) -> impl Iterator<Item = Resource> {
    let name = format!("tenants/t{number}");
    let types = ["invoice.paid", "invoice.overdue"].map(|event_type| {
        let name = format!("{name}/eventTypes/{event_type}");
        resource::Resource::EventType(EventType { name, ..EventType::default() })
    });
    let tenant = resource::Resource::Tenant(Tenant { name, ..Tenant::default() });
    [tenant].into_iter().chain(types).map(|resource| Resource { resource: Some(resource) })
}

fn resource(subscription: Subscription) -> Resource {
    Resource { resource: Some(resource::Resource::Subscription(subscription)) }
}

fn subscription(number: usize, tenants: usize, revision: i64) -> Subscription {
    let name = format!("tenants/t{}/subscriptions/s{number}", number % tenants);
    let sealed = Sealed { key_id: "0011223344556677".into(), r#box: vec![7; 60].into() };
    let secret = Secret { name: format!("{name}/secrets/k{number}"), key: Some(sealed), ..Secret::default() };
    Subscription {
        name,
        url: format!("https://hooks.example.com/{revision:054}"),
        event_types: ["invoice.paid", "invoice.overdue"].map(str::to_owned).to_vec(),
        secrets: vec![secret],
        revision,
        ..Subscription::default()
    }
}
