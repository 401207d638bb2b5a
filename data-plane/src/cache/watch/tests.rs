//! The watch against a control plane that says what each test has it say.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hookwire_proto::config::config_service_server::{ConfigService, ConfigServiceServer};
use hookwire_proto::config::{
    self, Change, ChangeSet, Changes, Resource, SnapshotPart, Tenant, WatchResponse, Welcome, change, resource,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Streaming};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A control plane: hands every stream to the test.
struct Plane {
    address: SocketAddr,
    streams: mpsc::Receiver<Node>,
    server: JoinHandle<()>,
}

/// The control plane's end of a stream.
struct Node {
    hello: Hello,
    say: mpsc::Sender<Result<WatchResponse, Status>>,
    heard: Streaming<WatchRequest>,
}

struct Service(mpsc::Sender<Node>);

#[tonic::async_trait]
impl ConfigService for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let mut heard = request.into_inner();
        let Some(watch_request::Request::Hello(hello)) = heard.message().await?.unwrap().request else {
            panic!("begins with hello")
        };
        let (say, responses) = mpsc::channel(16);
        self.0.send(Node { hello, say, heard }).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl Plane {
    async fn start(tls: Option<ServerTlsConfig>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), tls).await
    }

    async fn start_at(address: SocketAddr, tls: Option<ServerTlsConfig>) -> Self {
        let incoming = TcpIncoming::from(TcpListener::bind(address).await.unwrap()).with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(16);
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let server = server.add_service(ConfigServiceServer::new(Service(sender))).serve_with_incoming(incoming);
        Self { address, streams, server: tokio::spawn(async move { server.await.unwrap() }) }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next stream that a node opens.
    async fn stream(&mut self) -> Node {
        timeout(DEADLINE, self.streams.recv()).await.expect("a node comes in time").unwrap()
    }
}

impl Node {
    async fn say(&self, response: watch_response::Response) {
        self.say.send(Ok(WatchResponse { response: Some(response) })).await.unwrap();
    }

    async fn welcome(&self, snapshot_follows: bool, revision: i64) {
        self.say(watch_response::Response::Welcome(welcome(Layout::default(), snapshot_follows, revision))).await;
    }

    async fn snapshot(&self, revision: i64, tenants: &[&str]) {
        let resources = tenants.iter().map(tenant).collect();
        let part = SnapshotPart { revision, resources, last: true };
        self.say(watch_response::Response::SnapshotPart(part)).await;
    }

    /// Changes, each of which makes tenant `t<revision>`.
    async fn changes(&self, revisions: impl IntoIterator<Item = i64>) {
        let set = |revision| {
            let put = change::Change::Put(tenant(format!("t{revision}")));
            ChangeSet { revision, changes: vec![Change { change: Some(put) }] }
        };
        let changes = Changes { change_sets: revisions.into_iter().map(set).collect() };
        self.say(watch_response::Response::Changes(changes)).await;
    }

    /// Waits for the acknowledgement of a revision.
    async fn acknowledged(&mut self, revision: i64) {
        let acknowledged = async {
            while let Some(request) = self.heard.message().await.unwrap() {
                let acknowledgement = match request.request {
                    Some(watch_request::Request::Acknowledgement(acknowledgement)) => acknowledgement,
                    Some(watch_request::Request::Status(_)) => continue,
                    other => panic!("acknowledgements and status follow hello, not {other:?}"),
                };
                assert!(acknowledgement.revision <= revision);
                if acknowledgement.revision == revision {
                    return;
                }
            }
            panic!("the node has gone");
        };
        timeout(DEADLINE, acknowledged).await.expect("acknowledges in time");
    }
}

fn welcome(layout: Layout, snapshot_follows: bool, revision: i64) -> Welcome {
    let settings = config::Settings { layout: Some((&layout).into()) };
    Welcome { store_id: "one".into(), settings: Some(settings), snapshot_follows, revision }
}

fn tenant(id: impl std::fmt::Display) -> Resource {
    Resource {
        resource: Some(resource::Resource::Tenant(Tenant { name: format!("tenants/{id}"), ..Tenant::default() })),
    }
}

fn settings(endpoints: impl IntoIterator<Item = String>) -> Settings {
    Settings {
        endpoints: endpoints.into_iter().collect(),
        first_wait: Duration::from_millis(1),
        max_wait: Duration::from_millis(20),
        ..Settings::default()
    }
}

/// A node's watch, running until it is dropped.
struct Running {
    config: Config,
    layout: channel::Receiver<Option<Arc<Layout>>>,
    shutdown: CancellationToken,
    watch: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn run(settings: Settings) -> Running {
    let watch = Watch::new(settings, "n-1".into()).unwrap();
    let (config, layout) = (watch.config(), watch.layout());
    let shutdown = CancellationToken::new();
    let watch = tokio::spawn(watch.run(shutdown.clone()));
    Running { config, layout, shutdown, watch }
}

impl Running {
    async fn reached(&self, revision: i64) -> Arc<Snapshot> {
        timeout(DEADLINE, self.config.reached(revision)).await.expect("gets there in time").unwrap()
    }

    fn has(&self, id: &str) -> bool {
        self.config.current().unwrap().has_tenant(&format!("tenants/{id}"))
    }
}

/// Waits for a condition, with a deadline.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}, in time"));
}

#[tokio::test]
async fn a_node_tells_what_it_does_where_it_sends_from_what_it_owns_and_what_it_has() {
    let mut plane = Plane::start(None).await;
    let owned = Owned::default();
    let addresses = ["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()];
    let watch = Watch::new(settings([plane.endpoint()]), "n-1".into()).unwrap();
    let watch = watch.telling(&[Role::Publish, Role::Deliver], &addresses, owned.clone());
    let config = watch.config();
    let _running = tokio::spawn(watch.run(CancellationToken::new()));
    let mut stream = plane.stream().await;
    assert_eq!(stream.hello.roles().collect::<Vec<_>>(), [NodeRole::Publish, NodeRole::Deliver]);
    assert_eq!(stream.hello.egress_addresses, ["127.0.0.2", "::1"]);
    assert_eq!(stream.hello.checksum, 0);
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    let mut said = async || timeout(DEADLINE, stream.heard.message()).await.unwrap().unwrap().unwrap().request.unwrap();
    let watch_request::Request::Acknowledgement(acknowledged) = said().await else { panic!("acknowledges first") };
    let checksum = config.current().unwrap().checksum();
    assert_eq!((acknowledged.revision, acknowledged.checksum), (5, checksum));
    assert_ne!(checksum, 0);

    let held = owned.hold_number("deliveries".into(), 3);
    let watch_request::Request::Status(status) = said().await else { panic!("says what it owns") };
    assert_eq!((status.partitions[0].topic.as_str(), &status.partitions[0].numbers[..]), ("deliveries", &[3][..]));
    drop(stream);
    // To another control plane it says it from the beginning.
    let mut stream = plane.stream().await;
    assert_eq!((stream.hello.revision, stream.hello.checksum), (5, checksum));
    stream.welcome(false, 5).await;
    let said = timeout(DEADLINE, stream.heard.message()).await.unwrap().unwrap().unwrap().request.unwrap();
    assert!(matches!(said, watch_request::Request::Status(status) if status.partitions.len() == 1));
    drop(held);
    let said = timeout(DEADLINE, stream.heard.message()).await.unwrap().unwrap().unwrap().request.unwrap();
    assert!(matches!(said, watch_request::Request::Status(status) if status.partitions.is_empty()));
}

#[tokio::test]
async fn a_snapshot_then_changes_are_applied_and_acknowledged() {
    let mut plane = Plane::start(None).await;
    let mut node = run(settings([plane.endpoint()]));
    let mut stream = plane.stream().await;
    assert_eq!((stream.hello.node.as_str(), stream.hello.store_id.as_str(), stream.hello.revision), ("n-1", "", 0));
    assert_eq!(stream.hello.version, env!("CARGO_PKG_VERSION"));
    stream.welcome(true, 5).await;
    let layout = timeout(DEADLINE, node.layout.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert_eq!(*layout.unwrap(), Layout::default());
    assert!(node.config.current().is_none() && node.config.stale_since().is_some());
    stream.snapshot(5, &["a", "b"]).await;
    stream.acknowledged(5).await;
    assert!(node.has("a") && node.has("b") && node.config.stale_since().is_none());
    stream.changes(6..9).await;
    stream.acknowledged(8).await;
    assert!(node.has("a") && node.has("t6") && node.has("t8"));
}

#[tokio::test]
async fn the_changes_of_one_response_make_one_snapshot() {
    let mut plane = Plane::start(None).await;
    let mut node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 0).await;
    stream.snapshot(0, &[]).await;
    node.reached(0).await;
    node.config.changed().await.unwrap();
    stream.changes(1..=100).await;
    assert_eq!(timeout(DEADLINE, node.config.changed()).await.unwrap().unwrap().revision(), 100);
}

#[tokio::test]
async fn the_last_snapshot_stays_while_the_control_plane_is_away_and_the_node_catches_up() {
    let mut plane = Plane::start(None).await;
    let address = plane.address;
    let node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    node.reached(5).await;
    until("connected", || node.config.stale_since().is_none()).await;
    plane.server.abort();
    drop((stream, plane));
    until("the node knows", || node.config.stale_since().is_some()).await;
    let since = node.config.stale_since();
    assert!(node.has("a"));

    let mut plane = Plane::start_at(address, None).await;
    let mut stream = plane.stream().await;
    assert_eq!((stream.hello.store_id.as_str(), stream.hello.revision), ("one", 5));
    assert_eq!(node.config.stale_since(), since, "since it was lost, not since the last try");
    stream.welcome(false, 7).await;
    stream.changes([6]).await;
    stream.acknowledged(6).await;
    assert!(node.config.stale_since().is_some(), "a change is still missing");
    stream.changes([7]).await;
    stream.acknowledged(7).await;
    assert!(node.config.stale_since().is_none() && node.has("t7"));
}

#[tokio::test]
async fn a_node_that_missed_nothing_is_current_as_soon_as_it_is_welcomed() {
    let mut plane = Plane::start(None).await;
    let node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    node.reached(5).await;
    drop(stream);
    let stream = plane.stream().await;
    until("the node knows that it was cut off", || node.config.stale_since().is_some()).await;
    stream.welcome(false, 5).await;
    until("current again", || node.config.stale_since().is_none()).await;
}

#[tokio::test]
async fn a_gap_is_not_applied_and_makes_the_node_ask_for_a_snapshot() {
    let mut plane = Plane::start(None).await;
    let node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    stream.changes([6, 8]).await;
    let mut again = plane.stream().await;
    assert_eq!((again.hello.store_id.as_str(), again.hello.revision), ("", 0));
    assert_eq!(node.config.current().unwrap().revision(), 5, "the last good one stays");
    again.welcome(true, 8).await;
    again.snapshot(8, &["b"]).await;
    again.acknowledged(8).await;
    assert!(node.has("b") && !node.has("a"));
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_changes_nothing() {
    let mut plane = Plane::start(None).await;
    let node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    node.reached(5).await;
    drop(stream);
    let stream = plane.stream().await;
    stream.welcome(true, 9).await;
    let part = SnapshotPart { revision: 9, resources: vec![tenant("b")], last: false };
    stream.say(watch_response::Response::SnapshotPart(part)).await;
    drop(stream);
    let again = plane.stream().await;
    assert_eq!((again.hello.store_id.as_str(), again.hello.revision), ("one", 5));
    assert!(node.has("a") && !node.has("b"));
}

#[tokio::test]
async fn another_layout_is_not_taken_but_the_configuration_is() {
    let mut plane = Plane::start(None).await;
    let node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    node.reached(5).await;
    drop(stream);
    let mut stream = plane.stream().await;
    let other = Layout { deliveries_partitions: 99, ..Layout::default() };
    stream.say(watch_response::Response::Welcome(welcome(other, false, 6))).await;
    stream.changes([6]).await;
    stream.acknowledged(6).await;
    assert_eq!(**node.layout.borrow().as_ref().unwrap(), Layout::default());
}

#[tokio::test]
async fn a_control_plane_that_makes_no_sense_is_left_and_tried_again() {
    let mut plane = Plane::start(None).await;
    let node = run(settings([plane.endpoint()]));
    let nonsense = Layout { messages_partitions: 0, ..Layout::default() };
    for first in [
        watch_response::Response::Changes(Changes::default()),
        watch_response::Response::Welcome(Welcome { settings: None, ..welcome(Layout::default(), true, 1) }),
        watch_response::Response::Welcome(welcome(nonsense, true, 1)),
        watch_response::Response::Welcome(welcome(Layout::default(), false, 1)),
        watch_response::Response::Welcome(Welcome { store_id: String::new(), ..welcome(Layout::default(), true, 1) }),
    ] {
        plane.stream().await.say(first).await;
    }
    let stream = plane.stream().await;
    stream.welcome(true, 1).await;
    stream.snapshot(1, &["a"]).await;
    node.reached(1).await;
}

#[tokio::test]
async fn every_control_plane_is_tried_in_turn() {
    let mut plane = Plane::start(None).await;
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let node = run(settings([format!("http://{gone}"), plane.endpoint(), format!("http://{gone}")]));
    for _ in 0..3 {
        let stream = plane.stream().await;
        stream.welcome(true, 1).await;
        stream.snapshot(1, &["a"]).await;
    }
    node.reached(1).await;
}

#[tokio::test]
async fn a_peer_that_is_silent_without_closing_is_noticed() {
    let mut plane = Plane::start(None).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(50),
        connect_timeout: Duration::from_millis(500),
        ..settings([format!("http://{}", proxy.local_addr().unwrap())])
    };
    let (frozen, freeze) = channel::channel(false);
    let address = plane.address;
    let forward = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut client, _) = proxy.accept().await.unwrap();
            if *freeze.borrow() {
                held.push(client);
                continue;
            }
            let mut server = TcpStream::connect(address).await.unwrap();
            let mut freeze = freeze.clone();
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => {}
                _ = freeze.wait_for(|frozen| *frozen) => held.extend([client, server]),
            }
        }
    });
    let node = run(settings);
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    node.reached(5).await;
    until("connected", || node.config.stale_since().is_none()).await;
    frozen.send_replace(true);
    until("the node knows", || node.config.stale_since().is_some()).await;
    frozen.send_replace(false);
    assert_eq!(plane.stream().await.hello.revision, 5);
    forward.abort();
}

#[tokio::test]
async fn shutting_down_ends_the_watch_and_leaves_the_snapshot() {
    let mut plane = Plane::start(None).await;
    let mut node = run(settings([plane.endpoint()]));
    let stream = plane.stream().await;
    stream.welcome(true, 5).await;
    stream.snapshot(5, &["a"]).await;
    node.reached(5).await;
    node.shutdown.cancel();
    timeout(DEADLINE, &mut node.watch).await.expect("ends in time").unwrap();
    assert!(node.has("a"));
    assert!(node.config.reached(6).await.is_none());
}

/// An authority's certificate, and what it issues, as PEM files in a directory.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Settings of a node with a certificate of this authority.
    fn node(&self, directory: &Path, endpoint: String) -> Settings {
        let (cert, key) = self.issue(ExtendedKeyUsagePurpose::ClientAuth);
        let write = |name: &str, pem: &str| {
            let file = directory.join(name);
            std::fs::write(&file, pem).unwrap();
            Some(file)
        };
        Settings {
            ca_file: write("ca.pem", &self.certificate.pem()),
            cert_file: write("node.pem", &cert),
            key_file: write("node.key", &key),
            ..settings([endpoint])
        }
    }
}

#[tokio::test]
async fn both_ends_show_a_certificate_and_without_one_nobody_gets_in() {
    let ours = Authority::new();
    let (cert, key) = ours.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ours.certificate.pem()));
    let mut plane = Plane::start(Some(tls)).await;
    let endpoint = format!("https://{}", plane.address);
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let good = ours.node(directories[0].path(), endpoint.clone());

    let strangers = Authority::new();
    let stranger = strangers.node(directories[1].path(), endpoint);
    for (what, settings) in [
        ("a server that the node does not trust", stranger.clone()),
        ("no certificate", Settings { cert_file: None, key_file: None, ..good.clone() }),
        ("a certificate of another authority", Settings { ca_file: good.ca_file.clone(), ..stranger }),
    ] {
        let mut watch = Watch::new(settings.clone(), "n".into()).unwrap();
        let endpoint = settings.endpoints[0].clone();
        let Err(error) = timeout(DEADLINE, watch.stream(&endpoint)).await.expect("fails in time");
        assert!(matches!(error, Error::Connect { .. } | Error::Stream(_)), "{what}: {error}");
        assert!(plane.streams.try_recv().is_err(), "{what}");
    }

    let node = run(good);
    let stream = plane.stream().await;
    stream.welcome(true, 1).await;
    stream.snapshot(1, &["a"]).await;
    node.reached(1).await;
}

#[test]
fn settings_that_cannot_work_are_named() {
    let default = || settings(["https://control-plane:7702".to_owned()]);
    let at = |endpoint: &str| settings([endpoint.to_owned()]);
    for (settings, name) in [
        (Settings::default(), "control_plane.endpoints"),
        (at("control-plane:7702"), "control_plane.endpoints"),
        (at("ftp://control-plane"), "control_plane.endpoints"),
        (at("https://control-plane/path"), "control_plane.endpoints"),
        (at("http://control-plane:7702"), "control_plane.endpoints"),
        (at("http://10.0.0.1:7702"), "control_plane.endpoints"),
        (Settings { ca_file: Some("/none".into()), ..default() }, "control_plane.ca_file"),
        (Settings { cert_file: Some("/none".into()), ..default() }, "control_plane.cert_file"),
        (Settings { key_file: Some("/none".into()), ..default() }, "control_plane.cert_file"),
        (Settings { first_wait: Duration::ZERO, ..default() }, "control_plane.first_wait"),
        (Settings { max_wait: Duration::ZERO, ..default() }, "control_plane.max_wait"),
    ] {
        let error = Watch::new(settings, "n".into()).unwrap_err().to_string();
        assert!(error.starts_with(name), "{name}: {error}");
    }
    for good in ["http://localhost:7702", "http://[::1]:7702", "http://127.0.0.9:7702", "https://10.0.0.1"] {
        Watch::new(at(good), "n".into()).unwrap();
    }
}
