//! Nodes as they are listed, the addresses that they declare, and who among them gets secrets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hookwire_control_plane::config::Settings;
use hookwire_control_plane::push::{ListedNode, Node, Role};
use hookwire_control_plane::web::egress;
use hookwire_proto::config::config_service_client::ConfigServiceClient;
use hookwire_proto::config::watch_response::Response as Said;
use hookwire_proto::config::{
    Acknowledgement, Hello, NodeRole, NodeStatus, OwnedPartitions, Resource, WatchRequest, WatchResponse, resource,
    watch_request,
};
use hookwire_proto::v1::node::State;
use hookwire_proto::v1::{self, GetEgressAddressesRequest, GetNodeRequest, ListNodesRequest};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{Client, Database, on_both, start};

const DEADLINE: Duration = Duration::from_secs(20);

on_both!(
    nodes_are_listed_with_how_far_they_are_and_what_they_own,
    nodes_of_every_control_plane_are_listed_by_each,
    the_later_stream_of_a_node_counts_and_the_gone_are_forgotten,
    the_addresses_that_requests_come_from_are_those_that_nodes_declare,
    nodes_get_in_by_their_identity_and_secrets_by_their_role,
);

/// A node's stream.
struct Connection {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Connection {
    async fn open(channel: Channel, hello: Hello) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(WatchRequest { request: Some(watch_request::Request::Hello(hello)) }).await.unwrap();
        let mut client = ConfigServiceClient::new(channel);
        Ok(Self { requests, responses: client.watch(ReceiverStream::new(receiver)).await?.into_inner() })
    }

    async fn say(&self, request: watch_request::Request) {
        self.requests.send(WatchRequest { request: Some(request) }).await.unwrap();
    }

    /// The first snapshot, whole.
    async fn snapshot(&mut self) -> (i64, Vec<Resource>) {
        let mut resources = Vec::new();
        loop {
            let said = timeout(DEADLINE, self.responses.message()).await.expect("in time").unwrap().unwrap();
            if let Some(Said::SnapshotPart(part)) = said.response {
                resources.extend(part.resources);
                if part.last {
                    return (part.revision, resources);
                }
            }
        }
    }
}

fn hello(node: &str) -> Hello {
    Hello { node: node.into(), version: "1.2.3".into(), ..Hello::default() }
}

async fn channel(push: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{push}")).unwrap().connect().await.unwrap()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}, in time"))
}

async fn listed(client: &mut Client) -> Vec<v1::Node> {
    client.nodes.list_nodes(ListNodesRequest::default()).await.unwrap().into_inner().nodes
}

async fn nodes_are_listed_with_how_far_they_are_and_what_they_own(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut admin = plane.admin().await;
    admin.create_tenant("acme").await;
    let roles = vec![NodeRole::Dispatch as i32, NodeRole::Deliver as i32];
    let mut node = Connection::open(channel(plane.push).await, Hello { roles, ..hello("7-node") }).await.unwrap();
    let (revision, _) = node.snapshot().await;
    // By a moment, what is listed may be older than the snapshot.
    let found = until("it is listed with how far it is", async || {
        listed(&mut admin).await.pop().filter(|node| node.revision_lag == revision)
    })
    .await;
    assert_eq!(
        (found.name.as_str(), found.version.as_str(), found.state()),
        ("nodes/7-node", "1.2.3", State::Connected)
    );
    assert_eq!((found.applied_revision, found.checksum.as_str()), (0, ""));
    assert_eq!(found.roles().collect::<Vec<_>>(), [v1::node::Role::Dispatch, v1::node::Role::Deliver]);

    node.say(watch_request::Request::Acknowledgement(Acknowledgement { revision, checksum: 0xabc })).await;
    let owned = OwnedPartitions { topic: "hookwire.deliveries".into(), numbers: vec![0, 2] };
    node.say(watch_request::Request::Status(NodeStatus { partitions: vec![owned] })).await;
    let found = until("what it owns is listed", async || {
        listed(&mut admin).await.pop().filter(|node| !node.partitions.is_empty())
    })
    .await;
    assert_eq!((found.applied_revision, found.revision_lag), (revision, 0));
    assert_eq!(found.checksum, "0000000000000abc");
    let expected = v1::node::Partitions { topic: "hookwire.deliveries".into(), numbers: vec![0, 2] };
    assert_eq!(found.partitions, [expected]);
    let got = admin.nodes.get_node(GetNodeRequest { name: found.name.clone() }).await.unwrap().into_inner();
    assert_eq!(got.connect_time, found.connect_time);
    let none = admin.nodes.get_node(GetNodeRequest { name: "nodes/none".into() }).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    let malformed = admin.nodes.get_node(GetNodeRequest { name: "nodes/A".into() }).await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
}

async fn nodes_of_every_control_plane_are_listed_by_each(database: Database) {
    let (one, two) = (start(database.control_plane()).await, start(database.control_plane()).await);
    let mut connections = Vec::new();
    for (plane, id) in [(&one, "b"), (&two, "a"), (&two, "c")] {
        connections.push(Connection::open(channel(plane.push).await, hello(id)).await.unwrap());
    }
    for plane in [&one, &two] {
        let mut admin = plane.admin().await;
        let ids = until("all are listed", async || {
            let names: Vec<_> = listed(&mut admin).await.into_iter().map(|node| node.name).collect();
            (names.len() == 3).then_some(names)
        })
        .await;
        assert_eq!(ids, ["nodes/a", "nodes/b", "nodes/c"]);
        let page = ListNodesRequest { page_size: 2, ..ListNodesRequest::default() };
        let first = admin.nodes.list_nodes(page).await.unwrap().into_inner();
        let page = ListNodesRequest { page_size: 2, page_token: first.next_page_token };
        let second = admin.nodes.list_nodes(page).await.unwrap().into_inner();
        assert_eq!((first.nodes.len(), second.nodes.len(), second.next_page_token.as_str()), (2, 1, ""));
    }
}

async fn the_later_stream_of_a_node_counts_and_the_gone_are_forgotten(database: Database) {
    let store = database.store().await;
    let now = SystemTime::now();
    let node = |revision, connected_since| Node {
        id: "n".into(),
        version: "1".into(),
        identity: String::new(),
        roles: vec![NodeRole::Deliver],
        revision,
        checksum: 0,
        partitions: Vec::new(),
        egress_addresses: Vec::new(),
        connected_since,
    };
    store.record_nodes(&[node(5, now)], 9).await.unwrap();
    // Of a stream that another control plane has not yet seen to end.
    store.record_nodes(&[node(3, now - Duration::from_secs(1))], 9).await.unwrap();
    let kept = store.list_nodes("", 10).await.unwrap();
    assert_eq!((kept.len(), kept[0].applied_revision, kept[0].revision_lag), (1, 5, 4));
    store.record_nodes(&[node(7, now)], 9).await.unwrap();
    assert_eq!(store.list_nodes("", 10).await.unwrap()[0].applied_revision, 7);
    store.forget_nodes(Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.list_nodes("", 10).await.unwrap().len(), 1);
    until("its time is over", async || {
        store.forget_nodes(Duration::from_millis(1)).await.unwrap();
        store.list_nodes("", 10).await.unwrap().is_empty().then_some(())
    })
    .await;
}

async fn the_addresses_that_requests_come_from_are_those_that_nodes_declare(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut admin = plane.admin().await;
    let mut asked = async || {
        let answer = admin.egress.get_egress_addresses(GetEgressAddressesRequest::default()).await;
        answer.unwrap().into_inner()
    };
    let none = asked().await;
    assert_eq!((none.addresses.len(), none.complete), (0, false));

    let with = |id: &str, addresses: &[&str]| Hello {
        egress_addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        ..hello(id)
    };
    let one = Connection::open(channel(plane.push).await, with("one", &["127.0.0.3", "127.0.0.2"])).await.unwrap();
    let found = until("they are known", async || Some(asked().await).filter(|found| found.complete)).await;
    assert_eq!(found.addresses, ["127.0.0.2", "127.0.0.3"]);
    assert_ne!(found.update_time, none.update_time);

    let _two = Connection::open(channel(plane.push).await, with("two", &["2001:db8::1", "127.0.0.2"])).await.unwrap();
    let all = ["127.0.0.2", "127.0.0.3", "2001:db8::1"];
    until("the second's are known", async || Some(asked().await).filter(|found| found.addresses == all)).await;
    let page = plane.page(egress::PATH).await;
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("cache-control: public"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["addresses"], &body["complete"]), (&json!(all), &json!(true)));
    assert!(body["updateTime"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{body}");

    // It stays for a while when its node is gone: it may be back soon, and recipients' firewalls are slow.
    drop(one);
    // A node that says none makes the list incomplete.
    let _three = Connection::open(channel(plane.push).await, hello("three")).await.unwrap();
    let found = until("the third is known", async || Some(asked().await).filter(|found| !found.complete)).await;
    assert_eq!(found.addresses, all);
}

/// Settings of a control plane with TLS for nodes, of which these are listed, and how a node with a name gets there.
fn with_tls(
    database: &Database,
    directory: &std::path::Path,
    nodes: Vec<ListedNode>,
) -> (Settings, impl AsyncFn(SocketAddr, &str) -> Channel) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let authority = Arc::new(authority);
    let issue = {
        let authority = authority.clone();
        move |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.into()]).unwrap();
            (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
        }
    };
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let (cert, key) = issue("localhost");
    let mut settings = database.control_plane();
    (settings.push.tls_cert_file, settings.push.tls_key_file) = (file("push.pem", &cert), file("push.key", &key));
    settings.push.tls_client_ca_file = file("ca.pem", &authority.pem());
    settings.push.nodes = nodes;
    let connect = async move |push: SocketAddr, name: &str| {
        let (cert, key) = issue(name);
        let tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .identity(Identity::from_pem(cert, key));
        let endpoint = Channel::from_shared(format!("https://{push}")).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.unwrap()
    };
    (settings, connect)
}

async fn nodes_get_in_by_their_identity_and_secrets_by_their_role(database: Database) {
    let directory = tempfile::tempdir().unwrap();
    let nodes = vec![
        ListedNode { identity: "edge".into(), roles: vec![Role::Publish] },
        ListedNode { identity: "worker".into(), roles: vec![Role::Dispatch, Role::Deliver] },
    ];
    let (settings, connect) = with_tls(&database, directory.path(), nodes);
    let plane = start(settings).await;
    let mut admin = plane.admin().await;
    admin.create_tenant("acme").await;
    admin.create_event_type("acme", "invoice.paid").await;
    admin.create_subscription("acme", "s").await;

    let as_node = async |identity: &str, roles: &[NodeRole]| {
        let roles = roles.iter().map(|role| *role as i32).collect();
        Connection::open(connect(plane.push, identity).await, Hello { roles, ..hello(identity) }).await
    };
    // How many secrets there are, and how many of them have a key.
    let secrets = async |identity: &str, roles: &[NodeRole]| {
        let (_, resources) = as_node(identity, roles).await.unwrap().snapshot().await;
        let subscriptions = resources.into_iter().filter_map(|resource| match resource.resource {
            Some(resource::Resource::Subscription(subscription)) => Some(subscription),
            _ => None,
        });
        let secrets: Vec<_> = subscriptions.flat_map(|subscription| subscription.secrets).collect();
        (secrets.len(), secrets.iter().filter(|secret| secret.key.is_some()).count())
    };
    assert_eq!(secrets("worker", &[NodeRole::Deliver]).await, (1, 1));
    assert_eq!(secrets("worker", &[NodeRole::Dispatch]).await, (1, 0), "which does not deliver though it may");
    assert_eq!(secrets("edge", &[NodeRole::Publish]).await, (1, 0));

    for (identity, roles, reason) in [
        ("edge", &[NodeRole::Publish, NodeRole::Deliver][..], "NODE_ROLE_NOT_ALLOWED"),
        // An earlier version says no roles, and has all.
        ("edge", &[], "NODE_ROLE_NOT_ALLOWED"),
        ("stranger", &[NodeRole::Publish], "NODE_NOT_LISTED"),
    ] {
        let refused = as_node(identity, roles).await.err().expect("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{identity}: {refused:?}");
        assert_eq!(refused.get_details_error_info().unwrap().reason, reason, "{identity}");
    }

    // Changes have none either.
    let mut edge = as_node("edge", &[NodeRole::Publish]).await.unwrap();
    edge.snapshot().await;
    admin.create_subscription("acme", "later").await;
    let said = timeout(DEADLINE, edge.responses.message()).await.unwrap().unwrap().unwrap();
    let text = format!("{said:?}");
    assert!(text.contains("tenants/acme/subscriptions/later") && !text.contains("Sealed"), "{text}");
    let found =
        until("they are listed", async || listed(&mut admin).await.into_iter().find(|node| node.name == "nodes/edge"))
            .await;
    assert_eq!((found.identity.as_str(), found.roles().collect::<Vec<_>>()), ("edge", vec![v1::node::Role::Publish]));
}
