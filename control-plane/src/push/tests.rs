//! Nodes over real connections, against a store in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use async_trait::async_trait;
use hookwire_proto::config::ChangeSet;
use hookwire_proto::config::config_service_client::ConfigServiceClient;
use hookwire_proto::config::watch_response::Response as Said;
use hookwire_proto::config::{Acknowledgement, Change, Hello, Resource, Welcome, change, resource};
use proptest::prelude::*;
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_types::StatusExt as _;

use super::*;
use crate::store::{self, Changes};

const DEADLINE: Duration = Duration::from_secs(20);

/// A store in memory.
struct Memory {
    id: String,
    state: std::sync::Mutex<State>,
    written: watch::Sender<i64>,
}

#[derive(Default)]
struct State {
    revision: i64,
    sets: Vec<ChangeSet>,
    resources: BTreeMap<String, Resource>,
    down: bool,
    reads: usize,
    snapshots: usize,
    refusals: usize,
}

impl Memory {
    fn new(id: &str) -> Arc<Self> {
        Arc::new(Self { id: id.into(), state: std::sync::Mutex::default(), written: watch::Sender::new(0) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes as another control plane would: nobody here is told.
    fn write_elsewhere(&self, change: change::Change) -> i64 {
        let mut state = self.state();
        match &change {
            change::Change::Put(resource) => state.resources.insert(name_of(resource), resource.clone()),
            change::Change::Delete(name) => state.resources.remove(name),
        };
        state.revision += 1;
        let revision = state.revision;
        state.sets.push(ChangeSet { revision, changes: vec![Change { change: Some(change) }] });
        revision
    }

    fn write(&self, change: change::Change) -> i64 {
        let revision = self.write_elsewhere(change);
        self.written.send_replace(revision);
        revision
    }

    fn write_many(&self, count: usize) -> i64 {
        (0..count).map(|n| self.write(put(&format!("s{n}"), 10))).last().unwrap()
    }

    /// Drops change sets up to a revision.
    fn trim(&self, revision: i64) {
        self.state().sets.retain(|set| set.revision > revision);
    }

    fn answer<T>(&self, f: impl FnOnce(&mut State) -> T) -> Result<T, store::Error> {
        let mut state = self.state();
        if state.down {
            state.refusals += 1;
            return Err(store::Error::Corrupt { detail: "down".into() });
        }
        Ok(f(&mut state))
    }
}

#[async_trait]
impl Source for Memory {
    fn store_id(&self) -> &str {
        &self.id
    }

    async fn revision(&self) -> Result<i64, store::Error> {
        self.answer(|state| state.revision)
    }

    async fn changes_since(&self, revision: i64, limit: u64) -> Result<Changes, store::Error> {
        self.answer(|state| {
            state.reads += 1;
            let first = state.sets.first().map_or(state.revision, |set| set.revision - 1);
            if revision < first || revision > state.revision {
                return Changes::Gap;
            }
            let after = state.sets.iter().filter(|set| set.revision > revision);
            Changes::Sets(after.take(usize::try_from(limit).unwrap()).cloned().collect())
        })
    }

    async fn snapshot(&self) -> Result<(i64, Vec<Resource>), store::Error> {
        self.answer(|state| {
            state.snapshots += 1;
            (state.revision, state.resources.values().cloned().collect())
        })
    }

    fn written(&self) -> watch::Receiver<i64> {
        self.written.subscribe()
    }
}

fn put(id: &str, url_bytes: usize) -> change::Change {
    let subscription = config::Subscription {
        name: format!("tenants/a/subscriptions/{id}"),
        url: format!("https://example.com/{:x<url_bytes$}", rand::random::<u32>()),
        ..Default::default()
    };
    change::Change::Put(Resource { resource: Some(resource::Resource::Subscription(subscription)) })
}

fn delete(id: &str) -> change::Change {
    change::Change::Delete(format!("tenants/a/subscriptions/{id}"))
}

fn name_of(resource: &Resource) -> String {
    match resource.resource.as_ref().unwrap() {
        resource::Resource::Subscription(subscription) => subscription.name.clone(),
        resource::Resource::Tenant(tenant) => tenant.name.clone(),
        other => panic!("not used in these tests: {other:?}"),
    }
}

/// A control plane on a port of its own.
struct Plane {
    push: Push,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Plane {
    async fn start(source: &Arc<Memory>, settings: Settings) -> Self {
        Self::start_on(source.clone(), settings).await
    }

    async fn start_on(source: Arc<dyn Source>, settings: Settings) -> Self {
        settings.validate().unwrap();
        let shutdown = CancellationToken::new();
        let layout = hookwire_proto::log::Layout { generation: 3, ..Default::default() };
        let node_settings = config::Settings { layout: Some(layout) };
        let push = Push::start(source, settings, node_settings, shutdown.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .add_service(push.clone().into_server())
            .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
        let served = tokio::spawn(async move { server.await.unwrap() });
        Self { push, address, shutdown, served }
    }

    async fn connect(&self, hello: Hello) -> Result<Connection, Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(WatchRequest { request: Some(watch_request::Request::Hello(hello)) }).await.unwrap();
        let mut client = ConfigServiceClient::connect(format!("http://{}", self.address)).await.unwrap();
        let responses = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Connection { requests, responses })
    }

    fn applied(&self) -> Vec<(String, i64)> {
        self.push.nodes().list().into_iter().map(|node| (node.id, node.revision)).collect()
    }
}

struct Connection {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Connection {
    async fn said(&mut self) -> Result<Said, Status> {
        let response = timeout(DEADLINE, self.responses.message()).await.expect("says something in time")?;
        Ok(response.expect("a stream ends with a status").response.unwrap())
    }

    async fn acknowledge(&self, revision: i64) {
        let request = watch_request::Request::Acknowledgement(Acknowledgement { revision, checksum: 0 });
        self.requests.send(WatchRequest { request: Some(request) }).await.unwrap();
    }
}

/// A node that keeps what it is told.
#[derive(Default)]
struct Copy {
    id: String,
    store_id: String,
    revision: i64,
    resources: BTreeMap<String, Resource>,
    snapshots: usize,
    welcome: Welcome,
    connection: Option<Connection>,
}

impl Copy {
    fn new(id: &str) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    async fn connect(&mut self, plane: &Plane) {
        let hello = Hello {
            node: self.id.clone(),
            version: "1".into(),
            store_id: self.store_id.clone(),
            revision: self.revision,
            ..Hello::default()
        };
        let mut connection = plane.connect(hello).await.unwrap();
        let Said::Welcome(welcome) = connection.said().await.unwrap() else { panic!("begins with a welcome") };
        self.store_id.clone_from(&welcome.store_id);
        self.welcome = welcome;
        self.connection = Some(connection);
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Reads and acknowledges until it has a revision.
    async fn reach(&mut self, revision: i64) {
        let connection = self.connection.as_mut().unwrap();
        let mut coming = BTreeMap::new();
        let fresh = self.welcome.snapshot_follows && self.snapshots == 0;
        while self.revision < revision || (fresh && self.snapshots == 0) {
            match connection.said().await.unwrap() {
                Said::SnapshotPart(part) => {
                    coming.extend(part.resources.into_iter().map(|resource| (name_of(&resource), resource)));
                    if part.last {
                        self.snapshots += 1;
                        self.revision = part.revision;
                        self.resources = std::mem::take(&mut coming);
                    }
                }
                Said::Changes(changes) => {
                    assert!(!changes.change_sets.is_empty());
                    for set in changes.change_sets {
                        assert_eq!(set.revision, self.revision + 1, "no gap and no repeat");
                        self.revision = set.revision;
                        for change in set.changes {
                            match change.change.unwrap() {
                                change::Change::Put(resource) => {
                                    self.resources.insert(name_of(&resource), resource);
                                }
                                change::Change::Delete(name) => {
                                    self.resources.remove(&name);
                                }
                            }
                        }
                    }
                }
                Said::Welcome(_) => panic!("a second welcome"),
            }
            connection.acknowledge(self.revision).await;
        }
    }
}

/// Waits for a condition, with a deadline.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}, in time"));
}

#[tokio::test]
async fn a_new_node_gets_a_snapshot_then_changes_and_is_listed_with_what_it_applied() {
    let store = Memory::new("one");
    store.write_many(3);
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n-1");
    node.connect(&plane).await;
    assert!(node.welcome.snapshot_follows);
    assert_eq!((node.welcome.store_id.as_str(), node.welcome.revision), ("one", 3));
    assert_eq!(node.welcome.settings.as_ref().unwrap().layout.as_ref().unwrap().generation, 3);
    node.reach(3).await;
    store.write(put("s0", 20));
    let revision = store.write(delete("s1"));
    node.reach(revision).await;
    assert_eq!((node.snapshots, &node.resources), (1, &store.state().resources));
    until("the acknowledgement arrives", || plane.applied() == [("n-1".to_owned(), revision)]).await;
    node.disconnect();
    until("the node is no longer listed", || plane.applied().is_empty()).await;
}

#[tokio::test]
async fn a_store_without_anything_makes_an_empty_snapshot() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(0).await;
    assert_eq!((node.snapshots, node.revision, node.resources.len()), (1, 0, 0));
    node.reach(store.write_many(1)).await;
    assert_eq!((node.snapshots, node.resources.len()), (1, 1));
}

#[tokio::test]
async fn a_node_that_comes_back_gets_only_what_it_missed() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(store.write_many(5)).await;
    node.disconnect();
    let revision = store.write_many(7);
    node.connect(&plane).await;
    assert!(!node.welcome.snapshot_follows);
    node.reach(revision).await;
    assert_eq!((node.snapshots, &node.resources), (1, &store.state().resources));
}

#[tokio::test]
async fn another_control_plane_of_the_same_store_carries_on() {
    let store = Memory::new("one");
    let first = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&first).await;
    node.reach(store.write_many(5)).await;
    // It has not seen the revision that the node has when the node comes.
    let second = Plane::start(&store, Settings { poll_interval: Duration::from_secs(5), ..Settings::default() }).await;
    second.push.feed.head().await;
    let revision = store.write_elsewhere(put("s", 1));
    node.reach(revision).await;
    node.connect(&second).await;
    assert!(!node.welcome.snapshot_follows);
    node.reach(store.write_many(1)).await;
    assert_eq!((node.snapshots, &node.resources), (1, &store.state().resources));
}

#[tokio::test]
async fn what_another_control_plane_wrote_is_found_by_polling() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(store.write_elsewhere(put("s", 1))).await;
    assert_eq!(node.resources, store.state().resources);
}

#[tokio::test]
async fn a_node_of_another_store_gets_a_snapshot() {
    let one = Memory::new("one");
    let two = Memory::new("two");
    let mut node = Copy::new("n");
    node.connect(&Plane::start(&one, Settings::default()).await).await;
    node.reach(one.write_many(50)).await;
    two.write_many(9);
    let plane = Plane::start(&two, Settings::default()).await;
    node.connect(&plane).await;
    assert!(node.welcome.snapshot_follows);
    (node.snapshots, node.revision) = (0, 0);
    node.reach(9).await;
    assert_eq!((node.snapshots, &node.resources), (1, &two.state().resources));
}

#[tokio::test]
async fn a_node_ahead_of_a_store_that_was_restored_gets_a_snapshot() {
    let store = Memory::new("one");
    store.write_many(3);
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy { store_id: "one".into(), revision: 50, ..Copy::new("n") };
    node.connect(&plane).await;
    assert!(node.welcome.snapshot_follows);
}

#[tokio::test]
async fn a_node_behind_the_ring_is_served_from_the_store_and_behind_that_with_a_snapshot() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings { max_recent_changes: 10, ..Settings::default() }).await;
    let mut nodes = [Copy::new("behind-the-ring"), Copy::new("behind-the-store")];
    let revision = store.write_many(5);
    for node in &mut nodes {
        node.connect(&plane).await;
        node.reach(revision).await;
        node.disconnect();
    }
    let revision = store.write_many(1_000);
    let [ring, trimmed] = &mut nodes;
    ring.connect(&plane).await;
    assert!(!ring.welcome.snapshot_follows);
    ring.reach(revision).await;
    store.trim(500);
    trimmed.connect(&plane).await;
    assert!(trimmed.welcome.snapshot_follows);
    trimmed.snapshots = 0;
    trimmed.reach(revision).await;
    assert_eq!((ring.snapshots, trimmed.snapshots), (1, 1));
    for node in nodes {
        assert_eq!(node.resources, store.state().resources);
    }
}

#[tokio::test]
async fn a_feed_that_finds_a_gap_starts_over_with_a_snapshot() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(store.write_many(5)).await;
    // All before the feed gets to run.
    let revision = store.write_many(20);
    store.trim(15);
    node.reach(revision).await;
    assert_eq!((node.snapshots, &node.resources), (2, &store.state().resources));
}

#[tokio::test]
async fn snapshots_come_in_parts_and_are_shared() {
    let store = Memory::new("one");
    for n in 0..100 {
        store.write(put(&format!("s{n}"), 1_000));
    }
    let plane = Plane::start(&store, Settings { response_bytes: 8 * 1024, ..Settings::default() }).await;
    let mut nodes: Vec<_> = (0..10).map(|n| Copy::new(&format!("n{n}"))).collect();
    for node in &mut nodes {
        node.connect(&plane).await;
    }
    let mut parts = 0;
    let first = nodes[0].connection.as_mut().unwrap();
    while let Said::SnapshotPart(part) = first.said().await.unwrap() {
        parts += 1;
        if part.last {
            break;
        }
    }
    assert!(parts > 10, "{parts}");
    for node in &mut nodes[1..] {
        node.reach(100).await;
        assert_eq!(node.resources, store.state().resources);
    }
    assert_eq!(store.state().snapshots, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_end_equal_while_a_thousand_random_changes_go_on() {
    let store = Memory::new("one");
    store.write_many(100);
    let plane = Arc::new(Plane::start(&store, Settings { max_recent_changes: 50, ..Settings::default() }).await);
    let mut nodes = JoinSet::new();
    for n in 0..10 {
        let plane = plane.clone();
        nodes.spawn(async move {
            let mut node = Copy::new(&format!("n{n}"));
            // Each comes and goes at its own times.
            for stop in (100 + n * 13..1_100).step_by(211) {
                node.connect(&plane).await;
                node.reach(stop).await;
                node.disconnect();
            }
            node.connect(&plane).await;
            node.reach(1_100).await;
            node
        });
    }
    let writer = store.clone();
    let writes = tokio::spawn(async move {
        for n in 0..1_000 {
            let id = format!("s{}", rand::random_range(0..50));
            writer.write(if rand::rng().random_bool(0.7) { put(&id, 10) } else { delete(&id) });
            if n % 10 == 0 {
                // Spreads the writes over the nodes' coming and going.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    for node in nodes.join_all().await {
        assert_eq!(node.resources, store.state().resources, "{}", node.id);
        assert_eq!(node.snapshots, 1, "{} caught up without another snapshot", node.id);
    }
    writes.await.unwrap();
}

#[tokio::test]
async fn ten_connected_nodes_cost_the_store_no_more_than_one() {
    let store = Memory::new("one");
    let settings =
        Settings { poll_interval: Duration::from_secs(60), max_wait: Duration::from_secs(60), ..Settings::default() };
    let plane = Plane::start(&store, settings).await;
    let mut nodes: Vec<_> = (0..10).map(|n| Copy::new(&format!("n{n}"))).collect();
    for node in &mut nodes {
        node.connect(&plane).await;
        node.reach(0).await;
    }
    let before = store.state().reads;
    for _ in 0..20 {
        let revision = store.write_many(1);
        for node in &mut nodes {
            node.reach(revision).await;
        }
    }
    // For each write one read that finds it and one that finds no more.
    let reads = store.state().reads - before;
    assert!(reads <= 40, "{reads}");
}

#[tokio::test]
async fn a_slow_node_holds_up_nobody_else_and_catches_up() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings { max_recent_changes: 10, ..Settings::default() }).await;
    let mut slow = Copy::new("slow");
    let mut quick = Copy::new("quick");
    for node in [&mut slow, &mut quick] {
        node.connect(&plane).await;
        node.reach(0).await;
    }
    // Far more than the buffers between a stream and a node that does not read.
    let mut revision = 0;
    for n in 0..200 {
        revision = store.write(put(&format!("s{n}"), 20_000));
        quick.reach(revision).await;
    }
    assert_eq!(slow.revision, 0);
    store.trim(revision - 5);
    slow.reach(revision).await;
    assert_eq!((slow.snapshots, quick.snapshots), (2, 1), "the slow one was behind all that is kept");
    for node in [slow, quick] {
        assert_eq!(node.resources, store.state().resources, "{}", node.id);
    }
}

#[tokio::test]
async fn streams_stay_open_while_the_store_is_down() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings { max_recent_changes: 1, ..Settings::default() }).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(store.write_many(5)).await;
    store.state().down = true;
    let revision = store.write_many(2);
    // A node that is new meanwhile waits for a snapshot of its own: the last one is too old.
    let mut new = Copy::new("new");
    new.connect(&plane).await;
    until("both the feed and the new node's stream have met it", || store.state().refusals >= 4).await;
    store.state().down = false;
    node.reach(revision).await;
    new.reach(revision).await;
    assert_eq!((node.snapshots, &node.resources), (1, &store.state().resources));
    assert_eq!(new.resources, store.state().resources);
}

#[tokio::test]
async fn streams_end_unavailable_at_shutdown_and_the_server_ends() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(0).await;
    plane.shutdown.cancel();
    let end = node.connection.as_mut().unwrap().said().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(end.get_details_error_info().unwrap().reason, "NOT_READY");
    node.disconnect();
    timeout(DEADLINE, plane.served).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn nodes_follow_a_store_that_is_restored_to_an_earlier_revision() {
    let store = Memory::new("one");
    let revision = store.write_many(5);
    let plane = Plane::start(&store, Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(revision).await;
    {
        let mut state = store.state();
        state.revision = 3;
        state.sets.truncate(3);
        state.resources.retain(|name, _| name.ends_with("s0"));
    }
    let connection = node.connection.as_mut().unwrap();
    let Said::SnapshotPart(part) = connection.said().await.unwrap() else { panic!("a snapshot") };
    assert_eq!((part.revision, part.resources.len(), part.last), (3, 1, true));
}

#[tokio::test]
async fn the_real_store_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let settings = store::StoreSettings {
        url: format!("sqlite://{}/store.db?mode=rwc", directory.path().display()),
        ..Default::default()
    };
    let master_keys = hookwire_proto::seal::MasterKeys::generate();
    let master_keys = Arc::new(hookwire_proto::seal::MasterKeys::parse(&master_keys).unwrap());
    let store = Store::open(&settings, master_keys.clone()).await.unwrap();
    let other = Store::open(&settings, master_keys).await.unwrap();
    let tenant = |id: &str| hookwire_proto::name::Tenant { tenant: id.into() };
    store.create_tenant(&tenant("a"), &hookwire_proto::v1::Tenant::default()).await.unwrap();
    let plane = Plane::start_on(Arc::new(store.clone()), Settings::default()).await;
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(1).await;
    store.create_tenant(&tenant("b"), &hookwire_proto::v1::Tenant::default()).await.unwrap();
    // Another process's write is found by polling.
    let last = other.create_tenant(&tenant("c"), &hookwire_proto::v1::Tenant::default()).await.unwrap().revision;
    store.delete_tenant(&tenant("a"), "", false, "").await.unwrap();
    node.reach(last + 1).await;
    let names: Vec<_> = node.resources.keys().map(String::as_str).collect();
    assert_eq!((names, node.snapshots), (vec!["tenants/b", "tenants/c"], 1));
    assert_eq!(node.store_id, store.store_id());
}

#[tokio::test]
async fn who_does_not_begin_with_a_good_hello_is_told() {
    let store = Memory::new("one");
    let plane = Plane::start(&store, Settings::default()).await;
    for id in ["", "Upper", "under_score", &"x".repeat(64)] {
        let refused = plane.connect(Hello { node: id.into(), ..Hello::default() }).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{id}");
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "hello.node");
    }
    let mut node = Copy::new("n");
    node.connect(&plane).await;
    node.reach(0).await;
    let connection = node.connection.as_mut().unwrap();
    let again = WatchRequest { request: Some(watch_request::Request::Hello(Hello::default())) };
    connection.requests.send(again).await.unwrap();
    let end = connection.said().await.unwrap_err();
    assert_eq!(end.code(), Code::InvalidArgument);
    assert_eq!(end.get_details_bad_request().unwrap().field_violations[0].field, "hello");
}

#[test]
fn settings_that_cannot_work_are_named() {
    let default = Settings::default;
    for (settings, name) in [
        (Settings { poll_interval: Duration::ZERO, ..default() }, "push.poll_interval"),
        (Settings { max_wait: Duration::from_millis(20), ..default() }, "push.max_wait"),
        (Settings { max_recent_changes: 0, ..default() }, "push.max_recent_changes"),
        (Settings { response_bytes: 0, ..default() }, "push.response_bytes"),
    ] {
        assert!(settings.validate().unwrap_err().to_string().starts_with(name), "{name}");
    }
    default().validate().unwrap();
}

proptest! {
    #[test]
    fn ids_of_nodes_are_lower_case_letters_digits_and_hyphens(id in "\\PC{0,70}") {
        let expected = !id.is_empty() && id.len() <= 63 && id.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
        prop_assert_eq!(nodes::is_id(&id), expected);
    }
}
