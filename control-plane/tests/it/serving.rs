//! How a control plane starts, is probed, and stops.

use std::net::SocketAddr;
use std::time::Duration;

use hookwire_control_plane::config::Settings;
use hookwire_control_plane::{ControlPlane, Error, Listeners};
use hookwire_proto::v1::GetTenantRequest;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt as _;

use crate::support::{Database, Plane, no_log, on_both, start};

on_both!(
    probes_health_and_reflection_need_no_key,
    it_drains_and_stops,
    a_store_that_is_gone_is_unavailable_and_may_be_tried_again,
    settings_that_cannot_work_are_refused_at_start,
    callers_come_by_tls_and_nodes_with_a_certificate_of_their_authority,
);

async fn probe(plane: &Plane, path: &str) -> String {
    let answer = plane.page(path).await;
    answer.split_whitespace().nth(1).unwrap().into()
}

async fn channel(plane: &Plane) -> Channel {
    Channel::from_shared(format!("http://{}", plane.api)).unwrap().connect().await.unwrap()
}

async fn reflect(plane: &Plane, asked: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut client = ServerReflectionClient::new(channel(plane).await);
    let requests = tokio_stream::iter([request]);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

async fn probes_health_and_reflection_need_no_key(database: Database) {
    let plane = start(database.control_plane()).await;
    assert_eq!(probe(&plane, "/livez").await, "200");
    assert_eq!(probe(&plane, "/readyz").await, "200");
    assert_eq!(probe(&plane, "/").await, "404");

    let mut health = HealthClient::new(channel(&plane).await);
    for service in ["", "hookwire.v1.SubscriptionService"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }

    let MessageResponse::ListServicesResponse(list) = reflect(&plane, MessageRequest::ListServices("*".into())).await
    else {
        panic!("no list");
    };
    let services: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(services.contains(&"hookwire.v1.TenantService".into()), "{services:?}");
    assert!(!services.contains(&"hookwire.config.v1.ConfigService".into()), "{services:?}");
    for symbol in ["hookwire.v1.SubscriptionService", "google.rpc.BadRequest", "google.rpc.ErrorInfo"] {
        let asked = MessageRequest::FileContainingSymbol(symbol.into());
        let answer = reflect(&plane, asked).await;
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {answer:?}");
    }
}

async fn it_drains_and_stops(database: Database) {
    let mut plane = start(database.control_plane()).await;
    let mut health = HealthClient::new(channel(&plane).await);
    // A watch never ends by itself: only the deadline cuts it.
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    plane.shutdown.cancel();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(probe(&plane, "/livez").await, "200");
    assert_eq!(probe(&plane, "/readyz").await, "503");
    drop((watch, health));
    let served = timeout(Duration::from_secs(20), &mut plane.served).await.expect("stops in time");
    served.unwrap().unwrap();
    assert!(TcpStream::connect(plane.api).await.is_err());
    assert!(TcpStream::connect(plane.ops).await.is_err());
}

async fn a_store_that_is_gone_is_unavailable_and_may_be_tried_again(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    plane.store.close().await;
    let status = client.tenants.get_tenant(GetTenantRequest { name: "tenants/acme".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "STORE_UNAVAILABLE");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(probe(&plane, "/readyz").await, "503");
    assert_eq!(probe(&plane, "/livez").await, "200");
}

async fn settings_that_cannot_work_are_refused_at_start(database: Database) {
    let open = async |change: fn(&mut Settings)| {
        let mut settings = database.control_plane();
        change(&mut settings);
        ControlPlane::open(settings, no_log()).await.map(drop).unwrap_err().to_string()
    };
    assert!(open(|s| s.secrets.master_keys = None).await.starts_with("secrets.master_key_file"));
    assert!(open(|s| s.secrets.master_keys = Some("nonsense".into())).await.starts_with("secrets.master_keys"));
    assert!(open(|s| s.store.url = "nonsense".into()).await.starts_with("store.url"));
    assert!(open(|s| s.log.messages_partitions = 0).await.starts_with("log.messages_partitions"));

    // What was bound counts, not only what the settings say.
    let settings = database.control_plane();
    let mut listeners = Listeners::bind(&settings).await.unwrap();
    listeners.api = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let plane = ControlPlane::open(settings, no_log()).await.unwrap();
    let refused = plane.serve(listeners, Default::default()).await;
    assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
}

/// Certificates of an authority of this test's own, in PEM.
struct Authority {
    certificate: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { certificate: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for `localhost`, and its key.
    fn issue(&self) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        (params.signed_by(&key, &self.certificate).unwrap().pem(), key.serialize_pem())
    }
}

async fn callers_come_by_tls_and_nodes_with_a_certificate_of_their_authority(database: Database) {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let (cert, key) = authority.issue();
    let mut settings = database.control_plane();
    (settings.api.tls_cert_file, settings.api.tls_key_file) = (file("api.pem", &cert), file("api.key", &key));
    (settings.push.tls_cert_file, settings.push.tls_key_file) = (file("push.pem", &cert), file("push.key", &key));
    settings.push.tls_client_ca_file = file("ca.pem", &authority.pem());
    settings.push.nodes = vec![serde_json::from_str(r#"{"identity": "localhost"}"#).unwrap()];
    let plane = start(settings).await;

    let trust =
        || ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(authority.pem()));
    let node = |(cert, key): (String, String)| trust().identity(Identity::from_pem(cert, key));
    let check = async |address: SocketAddr, tls: ClientTlsConfig| {
        let endpoint = Channel::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|_| "no connection")?;
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop).map_err(|_| "no answer")
    };
    check(plane.api, trust()).await.unwrap();
    assert!(
        check(plane.api, ClientTlsConfig::new().domain_name("localhost")).await.is_err(),
        "whom a caller can't trust"
    );
    check(plane.push, node(authority.issue())).await.unwrap();
    assert!(check(plane.push, trust()).await.is_err(), "a node without a certificate");
    assert!(check(plane.push, node(stranger.issue())).await.is_err(), "a node of another authority");
}
