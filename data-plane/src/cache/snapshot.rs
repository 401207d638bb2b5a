//! The configuration as a node sees it: immutable, indexed, cheap to change into the next one. Pure.
//!
//! Maps share structure (`imbl`), so that the next snapshot costs the change and not the whole. A stage takes one snapshot
//! for each record and uses it to the end: it never sees half a change.

use std::net::IpAddr;
use std::sync::Arc;

use hookwire_proto::config::{self, Role, change, replay, resource, subscription::State};
use hookwire_proto::schema::Schema;
use hookwire_proto::{name, pattern};
use ipnet::IpNet;
use prost::Message as _;
use twox_hash::XxHash3_64;
use url::Url;

use super::settings::Settings;
use crate::publish::quota::Quota;

/// A subscription, ready for use.
#[derive(Debug)]
pub struct Subscription {
    /// `tenants/{tenant}/subscriptions/{subscription}`.
    pub name: Arc<str>,
    /// Where requests are sent; `None` if the control plane sent what this version takes for no URL.
    pub url: Option<Url>,
    /// Event types, prefixes (`invoice.*`) or `*`.
    pub event_types: Vec<String>,
    /// Signing secrets, sealed, oldest first.
    pub secrets: Vec<config::Secret>,
    /// The pre-shared key, its value sealed.
    pub shared_key: Option<config::SharedKey>,
    /// Requests under way at a time, if the subscription says.
    pub max_concurrency: Option<usize>,
    /// What else it says, if anything.
    pub settings: Option<Box<Settings>>,
    /// The revision that paused or disabled it, so that its deliveries wait; `None` while they are made.
    pub waits_since: Option<i64>,
    /// Configuration revision of its last write: with the name it identifies this state of the subscription.
    pub revision: i64,
}

impl Subscription {
    /// `tenants/{tenant}`.
    pub fn tenant(&self) -> &str {
        name::tenant_of(&self.name).unwrap_or_default()
    }
}

impl From<config::Subscription> for Subscription {
    fn from(subscription: config::Subscription) -> Self {
        let url = Url::parse(&subscription.url).ok();
        if url.is_none() {
            tracing::error!(subscription = subscription.name, "the control plane sent a URL that is none");
        }
        // A state that this version does not know is none in which requests are made.
        let waits_since = match State::try_from(subscription.state) {
            Ok(State::Unspecified | State::Enabled) => None,
            Ok(State::Paused | State::Disabled) | Err(_) => Some(subscription.state_revision),
        };
        Self {
            name: subscription.name.into(),
            url,
            waits_since,
            event_types: subscription.event_types,
            secrets: subscription.secrets,
            shared_key: subscription.shared_key,
            max_concurrency: usize::try_from(subscription.max_concurrency).ok().filter(|limit| *limit > 0),
            settings: subscription.settings.map(|settings| Box::new(settings.into())),
            revision: subscription.revision,
        }
    }
}

/// An API key, as it is found by its hash.
#[derive(Debug)]
pub struct ApiKey {
    /// `apiKeys/{api_key}`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenant that it is bound to, `tenants/{tenant}`; `None` for every tenant.
    pub tenant: Option<String>,
    /// From then on it is refused, in milliseconds since 1970.
    pub expire_time_ms: Option<i64>,
    /// Where it is taken from; empty: from everywhere.
    pub source_cidrs: Vec<IpNet>,
    /// Scopes that narrow its role; empty: none do.
    pub scopes: Vec<String>,
}

impl From<config::ApiKey> for ApiKey {
    fn from(key: config::ApiKey) -> Self {
        let role = key.role();
        let nowhere = || IpNet::from(IpAddr::from([0, 0, 0, 0]));
        Self {
            name: key.name,
            role,
            tenant: Some(key.tenant).filter(|tenant| !tenant.is_empty()),
            expire_time_ms: Some(key.expire_time_ms).filter(|time| *time > 0),
            // What can't be read lets nobody in.
            source_cidrs: key.source_cidrs.iter().map(|cidr| cidr.parse().unwrap_or_else(|_| nowhere())).collect(),
            scopes: key.scopes,
        }
    }
}

/// A tenant.
#[derive(Debug, Clone, Copy)]
struct Tenant {
    validate_payloads: bool,
    publish_quota: Option<Quota>,
}

/// Subscriptions that a pattern of a tenant selects: usually one or two, so a slice, copied when it changes.
type Matches = Arc<[Arc<Subscription>]>;

/// The whole configuration at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: i64,
    tenants: imbl::HashMap<Arc<str>, Tenant>,
    /// With their schemas, where they have one.
    event_types: imbl::HashMap<Arc<str>, Option<Arc<Schema>>>,
    subscriptions: imbl::HashMap<Arc<str>, Arc<Subscription>>,
    /// By tenant and pattern, see [`match_key`].
    matches: imbl::HashMap<Box<str>, Matches>,
    /// By the SHA-256 of the key.
    api_keys: imbl::HashMap<Vec<u8>, Arc<ApiKey>>,
    /// Hashes by name, for removal.
    api_key_hashes: imbl::HashMap<String, Vec<u8>>,
    /// Names of replays whose deliveries are dropped.
    cancelled_replays: imbl::HashSet<String>,
    /// The checksum of each resource by the hash of its name, to be taken away from the whole when the resource goes.
    checksums: imbl::HashMap<u64, u64>,
    checksum: u64,
}

impl Snapshot {
    /// All resources of a revision.
    pub fn new(revision: i64, resources: impl IntoIterator<Item = config::Resource>) -> Self {
        let mut snapshot = Self { revision, ..Self::default() };
        for resource in resources {
            snapshot.put(resource);
        }
        snapshot
    }

    /// The revision of the last write that is in here.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A checksum over every resource, see `hookwire.config.v1.Acknowledgement`: the same however this came about. It costs a change and not
    /// the whole.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Makes this the snapshot after a change set.
    pub fn apply(&mut self, set: config::ChangeSet) {
        for change in set.changes {
            match change.change {
                Some(change::Change::Put(resource)) => self.put(resource),
                Some(change::Change::Delete(name)) => self.delete(&name),
                // A later version's; what it means this version can't act on.
                None => tracing::warn!(revision = set.revision, "change of an unknown kind passed over"),
            }
        }
        self.revision = set.revision;
    }

    /// Whether a tenant exists; `tenants/{tenant}`.
    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// Whether an event type is registered; `tenants/{tenant}` and the type.
    pub fn has_event_type(&self, tenant: &str, event_type: &str) -> bool {
        self.event_types.contains_key(event_type_name(tenant, event_type).as_str())
    }

    /// What payloads of an event type must fit, if the tenant wants them to be checked.
    pub fn schema(&self, tenant: &str, event_type: &str) -> Option<Arc<Schema>> {
        self.tenants.get(tenant).filter(|tenant| tenant.validate_payloads)?;
        self.event_types.get(event_type_name(tenant, event_type).as_str())?.clone()
    }

    /// How much may be published for a tenant, if it has a quota of its own.
    pub fn publish_quota(&self, tenant: &str) -> Option<Quota> {
        self.tenants.get(tenant)?.publish_quota
    }

    /// The API key with this SHA-256.
    pub fn api_key(&self, hash: &[u8]) -> Option<&Arc<ApiKey>> {
        self.api_keys.get(hash)
    }

    /// A subscription by its name.
    pub fn subscription(&self, name: &str) -> Option<&Arc<Subscription>> {
        self.subscriptions.get(name)
    }

    /// Whether a replay was cancelled; `tenants/{tenant}/replays/{replay}`, or empty for none.
    pub fn is_cancelled(&self, replay: &str) -> bool {
        !replay.is_empty() && self.cancelled_replays.contains(replay)
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// The subscriptions of a tenant that want an event type, each once: one look-up for the type, one for each of its
    /// prefixes and one for `*`, which does not mean system events.
    pub fn matching(&self, tenant: &str, event_type: &str) -> Vec<Arc<Subscription>> {
        let mut found: Vec<Arc<Subscription>> = Vec::new();
        let mut patterns = 0;
        for (beginning, end) in pattern::selecting(event_type) {
            if let Some(matches) = self.matches.get(match_key(tenant, beginning, end).as_str()) {
                found.extend(matches.iter().cloned());
                patterns += 1;
            }
        }
        if patterns > 1 {
            // A subscription may name a type and a prefix of it.
            found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            found.dedup_by(|a, b| a.name == b.name);
        }
        found
    }

    fn put(&mut self, resource: config::Resource) {
        let encoded = resource.encode_to_vec();
        self.count(&resource, &encoded);
        // Read anew: what is sealed lies in the response that it came in, and would keep the whole of that in memory.
        let resource = config::Resource::decode(&*encoded).expect("it was encoded here");
        match resource.resource {
            Some(resource::Resource::Tenant(tenant)) => {
                let validate_payloads = tenant.validate_payloads;
                let quota = |quota: config::PublishQuota| Quota::new(quota.messages_per_second, quota.burst);
                let publish_quota = tenant.publish_quota.map(quota);
                self.tenants.insert(tenant.name.into(), Tenant { validate_payloads, publish_quota });
            }
            Some(resource::Resource::EventType(event_type)) => {
                let schema = (!event_type.schema.is_empty()).then(|| Schema::compile(&event_type.schema)).transpose();
                let schema = schema.unwrap_or_else(|error| {
                    // The control plane compiled it with another version. Taking what is published is better than refusing all.
                    tracing::error!(event_type = event_type.name, %error, "its schema is not checked");
                    None
                });
                self.event_types.insert(event_type.name.into(), schema.map(Arc::new));
            }
            Some(resource::Resource::Subscription(subscription)) => {
                self.delete_subscription(&subscription.name);
                let subscription = Arc::new(Subscription::from(subscription));
                for pattern in &subscription.event_types {
                    let key = match_key(subscription.tenant(), pattern, "").into_boxed_str();
                    let matches = self.matches.get(&key).map_or(&[][..], |matches| matches);
                    let matches = matches.iter().chain([&subscription]).cloned().collect();
                    self.matches.insert(key, matches);
                }
                self.subscriptions.insert(subscription.name.clone(), subscription);
            }
            Some(resource::Resource::ApiKey(key)) => {
                self.delete_api_key(&key.name);
                let hash = key.hash.to_vec();
                self.api_key_hashes.insert(key.name.clone(), hash.clone());
                self.api_keys.insert(hash, Arc::new(ApiKey::from(key)));
            }
            Some(resource::Resource::Replay(replay)) => {
                if replay.state() == replay::State::Cancelled {
                    self.cancelled_replays.insert(replay.name);
                }
            }
            None => tracing::warn!("resource of an unknown kind passed over"),
        }
    }

    /// Lets the checksum have this resource in the place of the one of its name.
    fn count(&mut self, resource: &config::Resource, encoded: &[u8]) {
        let name = match &resource.resource {
            Some(resource::Resource::Tenant(tenant)) => &tenant.name,
            Some(resource::Resource::EventType(event_type)) => &event_type.name,
            Some(resource::Resource::Subscription(subscription)) => &subscription.name,
            Some(resource::Resource::ApiKey(key)) => &key.name,
            Some(resource::Resource::Replay(replay)) => &replay.name,
            None => return,
        };
        let checksum = hash(encoded);
        let before = self.checksums.insert(hash(name.as_bytes()), checksum).unwrap_or_default();
        self.checksum = self.checksum.wrapping_sub(before).wrapping_add(checksum);
    }

    fn delete(&mut self, name: &str) {
        if let Some(gone) = self.checksums.remove(&hash(name.as_bytes())) {
            self.checksum = self.checksum.wrapping_sub(gone);
        }
        // Names of different kinds differ, so at most one of these finds it.
        self.tenants.remove(name);
        self.event_types.remove(name);
        self.cancelled_replays.remove(name);
        self.delete_subscription(name);
        self.delete_api_key(name);
    }

    fn delete_subscription(&mut self, name: &str) {
        let Some(subscription) = self.subscriptions.remove(name) else { return };
        for pattern in &subscription.event_types {
            let key = match_key(subscription.tenant(), pattern, "");
            let Some(matches) = self.matches.get(key.as_str()) else { continue };
            let rest: Matches = matches.iter().filter(|other| other.name != subscription.name).cloned().collect();
            if rest.is_empty() {
                self.matches.remove(key.as_str());
            } else {
                self.matches.insert(key.into_boxed_str(), rest);
            }
        }
    }

    fn delete_api_key(&mut self, name: &str) {
        if let Some(hash) = self.api_key_hashes.remove(name) {
            self.api_keys.remove(&hash);
        }
    }
}

fn event_type_name(tenant: &str, event_type: &str) -> String {
    format!("{tenant}/eventTypes/{event_type}")
}

/// The same on every machine and in every process.
fn hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// A line feed is in neither part, so that they can't run into each other.
fn match_key(tenant: &str, pattern: &str, suffix: &str) -> String {
    format!("{tenant}\n{pattern}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::settings::Authentication;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn subscription(name: &str, event_types: &[&str]) -> config::Resource {
        config::Resource {
            resource: Some(resource::Resource::Subscription(config::Subscription {
                name: name.into(),
                url: "https://example.com/".into(),
                event_types: event_types.iter().map(|&event_type| event_type.into()).collect(),
                ..Default::default()
            })),
        }
    }

    fn put(revision: i64, resource: config::Resource) -> config::ChangeSet {
        config::ChangeSet { revision, changes: vec![config::Change { change: Some(change::Change::Put(resource)) }] }
    }

    fn matching(snapshot: &Snapshot, tenant: &str, event_type: &str) -> Vec<String> {
        let mut names: Vec<_> =
            snapshot.matching(tenant, event_type).iter().map(|s| name::last_id(&s.name).to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn types_prefixes_and_all_match_once_and_within_the_tenant() {
        let snapshot = Snapshot::new(
            1,
            [
                subscription("tenants/a/subscriptions/exact", &["invoice.paid"]),
                subscription("tenants/a/subscriptions/prefix", &["invoice.*"]),
                subscription("tenants/a/subscriptions/all", &["*"]),
                subscription("tenants/a/subscriptions/every-way", &["invoice.paid", "invoice.*", "*"]),
                subscription("tenants/a/subscriptions/other", &["user.created"]),
                subscription("tenants/b/subscriptions/exact", &["invoice.paid"]),
            ],
        );
        assert_eq!(matching(&snapshot, "tenants/a", "invoice.paid"), ["all", "every-way", "exact", "prefix"]);
        assert_eq!(matching(&snapshot, "tenants/a", "invoice.paid.late"), ["all", "every-way", "prefix"]);
        assert_eq!(matching(&snapshot, "tenants/a", "invoice"), ["all", "every-way"]);
        assert_eq!(matching(&snapshot, "tenants/b", "invoice.paid"), ["exact"]);
    }

    #[test]
    fn a_change_makes_the_next_snapshot_and_leaves_the_one_before() {
        let name = "tenants/a/subscriptions/s";
        let before = Snapshot::new(1, [subscription(name, &["a"])]);
        let mut after = before.clone();
        after.apply(put(2, subscription(name, &["b"])));
        assert_eq!((before.revision(), after.revision()), (1, 2));
        assert_eq!(matching(&before, "tenants/a", "a"), ["s"]);
        assert!(matching(&after, "tenants/a", "a").is_empty());
        assert_eq!(matching(&after, "tenants/a", "b"), ["s"]);
        after.apply(config::ChangeSet {
            revision: 3,
            changes: vec![config::Change { change: Some(change::Change::Delete(name.into())) }],
        });
        assert!(matching(&after, "tenants/a", "b").is_empty());
        assert!(after.subscription(name).is_none());
        assert!(before.subscription(name).is_some());
    }

    #[test]
    fn a_revoked_key_is_not_found() {
        let key = config::ApiKey { name: "apiKeys/k".into(), hash: vec![7; 32].into(), ..Default::default() };
        let key = config::Resource { resource: Some(resource::Resource::ApiKey(key)) };
        let mut snapshot = Snapshot::new(1, [key]);
        assert!(snapshot.api_key(&[7; 32]).is_some());
        snapshot.apply(config::ChangeSet {
            revision: 2,
            changes: vec![config::Change { change: Some(change::Change::Delete("apiKeys/k".into())) }],
        });
        assert!(snapshot.api_key(&[7; 32]).is_none());
    }

    #[test]
    fn a_snapshot_does_not_keep_the_responses_that_it_came_in() {
        let sealed = || Some(config::Sealed { key_id: "k".into(), r#box: vec![7; 60].into() });
        let content = sealed().map(config::custom_header::Content::SecretValue);
        let password = config::BasicAuth { username: "me".into(), password: sealed() };
        let client = config::OAuthClient { client_secret: sealed(), ..Default::default() };
        for authentication in [Authentication::BasicAuth(password), Authentication::OauthClient(client)] {
            let certificate = config::ClientCertificate { certificate: "c".into(), private_key: sealed() };
            let settings = config::SubscriptionSettings {
                headers: vec![config::CustomHeader { name: "x-secret".into(), content: content.clone() }],
                authentication: Some(authentication),
                client_certificate: Some(certificate),
                ..Default::default()
            };
            let subscription = config::Subscription {
                name: "tenants/a/subscriptions/s".into(),
                url: "https://example.com/".into(),
                secrets: vec![config::Secret { key: sealed(), ..Default::default() }],
                shared_key: Some(config::SharedKey { header: "x-key".into(), value: sealed() }),
                settings: Some(settings),
                ..Default::default()
            };
            let resource = config::Resource { resource: Some(resource::Resource::Subscription(subscription)) };
            let response = Bytes::from(resource.encode_to_vec());
            let came = config::Resource::decode(response.clone()).unwrap();
            assert!(!response.is_unique(), "what is sealed lies in it");
            let snapshot = Snapshot::new(1, [came]);
            let kept = snapshot.subscription("tenants/a/subscriptions/s").unwrap();
            assert_eq!(kept.secrets[0].key, sealed());
            assert!(kept.settings.as_ref().unwrap().client_certificate.as_ref().unwrap().private_key == sealed());
            assert!(response.is_unique());
        }
    }

    proptest! {
        #[test]
        fn the_checksum_is_of_what_is_there_and_not_of_how_it_got_there(
            history in prop::collection::vec((0..6_u8, 0..3_u8, any::<bool>()), 1..40),
        ) {
            let name = |id: u8| format!("tenants/a/subscriptions/s{id}");
            let types = [&["a"][..], &["b", "c.*"], &["*"]];
            let mut state = std::collections::BTreeMap::new();
            let mut snapshot = Snapshot::new(0, []);
            for (revision, (id, version, delete)) in (1..).zip(history) {
                let change = if delete {
                    state.remove(&id);
                    change::Change::Delete(name(id))
                } else {
                    let resource = subscription(&name(id), types[usize::from(version)]);
                    state.insert(id, resource.clone());
                    change::Change::Put(resource)
                };
                let changes = vec![config::Change { change: Some(change) }];
                snapshot.apply(config::ChangeSet { revision, changes });
                let fresh = Snapshot::new(revision, state.values().rev().cloned());
                prop_assert_eq!(snapshot.checksum(), fresh.checksum());
            }
            let other = Snapshot::new(9, [subscription("tenants/b/subscriptions/other", &["a"])]);
            prop_assert_ne!(snapshot.checksum(), other.checksum());
        }
    }
}
