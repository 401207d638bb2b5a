//! The gRPC server for callers: `PublishService`, health and reflection, over TLS where it is not loopback.

use std::path::Path;
use std::time::Duration;

use hookwire_proto::DESCRIPTORS;
use hookwire_proto::v1::publish_service_server::PublishServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::config;
use crate::publish::Gate;

/// A connection that is silent for this long is asked whether it lives, and closed if it doesn't answer in time.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A TLS handshake takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's certificate; `None` for clear text, which the settings allow on loopback only.
///
/// # Errors
/// For files that can't be read or that are no certificate and key.
pub(crate) fn tls(listen: &config::Listen) -> Result<Option<ServerTlsConfig>, config::Error> {
    let (Some(cert), Some(key)) = (&listen.cert_file, &listen.key_file) else { return Ok(None) };
    let identity = Identity::from_pem(read("listen.cert_file", cert)?, read("listen.key_file", key)?);
    let tls = ServerTlsConfig::new().identity(identity);
    // Found out now, and not by the first caller.
    Server::builder().tls_config(tls.clone()).map_err(|error| config::Error {
        setting: "listen.cert_file",
        detail: format!("with listen.key_file it can't be used for TLS: {}", causes(&error)),
    })?;
    Ok(Some(tls))
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, config::Error> {
    std::fs::read(path).map_err(|error| config::Error { setting, detail: format!("{}: {error}", path.display()) })
}

/// Serves until `shutdown`, then ends when the calls under way are answered. What is behind the gate takes requests of so many bytes.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    publish: Gate,
    max_request_bytes: usize,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    health.set_not_serving::<PublishServiceServer<Gate>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        // Error details: without their descriptors grpcurl shows bytes.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(<PublishServiceServer<Gate> as NamedService>::NAME)
        .build_v1()
        .expect("the descriptors were made by the compiler");
    let mut server =
        Server::builder().http2_keepalive_interval(Some(KEEPALIVE)).http2_keepalive_timeout(Some(KEEPALIVE));
    if let Some(tls) = tls {
        server = server.tls_config(tls.timeout(HANDSHAKE_TIMEOUT))?;
    }
    let draining = async {
        if shutdown.run_until_cancelled(publish.opened()).await.is_some() {
            health.set_service_status("", tonic_health::ServingStatus::Serving).await;
            health.set_serving::<PublishServiceServer<Gate>>().await;
        }
        shutdown.cancelled().await;
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        health.set_not_serving::<PublishServiceServer<Gate>>().await;
    };
    server
        .add_service(health_service)
        .add_service(reflection)
        .add_service(publish.clone().into_server(max_request_bytes))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), draining)
        .await
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
