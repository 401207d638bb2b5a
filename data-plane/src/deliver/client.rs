//! The HTTP client: one request, one answer, nothing on its own account.

use std::fs;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::redirect;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tower::{BoxError, Service};

use super::answer;
use super::attempt::Answer;
use super::config::Settings;
use super::egress::Guard;
use super::request::Request;

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of authorities.
    #[error("deliver.ca_file: {path}: {detail}; write the path of a PEM file with certificates")]
    CaFile {
        /// Its path.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    /// HTTP can't be set up.
    #[error("the HTTP client can't be set up")]
    Http(#[from] reqwest::Error),
}

/// Sends requests. Clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    kept_headers: Arc<[String]>,
}

impl Client {
    /// A client that connects to what the guard lets through.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn new(settings: &Settings, guard: Guard) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(settings)?)
            .https_only(!settings.egress.allow_http)
            .dns_resolver(guard)
            // A redirect would send the request where nobody has checked.
            .redirect(redirect::Policy::none())
            // The environment's proxy would resolve names itself.
            .no_proxy()
            // Every request is an attempt with a record.
            .retry(reqwest::retry::never())
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(settings.idle_timeout)
            .pool_max_idle_per_host(settings.max_idle_connections)
            .tcp_nodelay(true)
            // An HTTP/2 connection whose other end is gone would take every attempt with it until it times out.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .build()?;
        Ok(Self { http, kept_headers: settings.kept_headers.clone().into() })
    }
}

impl Service<Request> for Client {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The lane has decided; the client never makes an attempt wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let sent = self.http.execute(request.http);
        let kept_headers = self.kept_headers.clone();
        Box::pin(async move { Ok(answer::read(sent.await?, &kept_headers, &request.secrets).await?) })
    }
}

/// The system's authorities and the configured ones; HTTP/2 where the recipient speaks it.
fn tls(settings: &Settings) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "the system's certificate authorities could not be read in full");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = &settings.ca_file {
        let wrong = |detail: String| Error::CaFile { path: path.display().to_string(), detail };
        let pem = fs::read(path).map_err(|error: io::Error| wrong(error.to_string()))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(format!("not PEM ({error})")))?;
        if certificates.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        tracing::warn!(
            "no certificate authority is known: every https request will fail; install the system's ca-certificates or \
             set deliver.ca_file"
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
