//! The HTTP client: one request, one answer, nothing on its own account.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::redirect;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tower::{BoxError, Service};
use url::{Host, Url};

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
    sources: Arc<Sources>,
    kept_headers: Arc<[String]>,
}

/// A client for each source address, used in turn; one that leaves the address to the system if none is set.
struct Sources {
    clients: Vec<(Option<IpAddr>, reqwest::Client)>,
    /// Whether there are addresses of both families, so that it matters which one a recipient has.
    mixed: bool,
    guard: Guard,
    next: AtomicUsize,
}

impl Client {
    /// A client that connects to what the guard lets through.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn new(settings: &Settings, guard: Guard) -> Result<Self, Error> {
        let tls = tls(settings)?;
        let bind = &settings.egress.bind;
        let sources = if bind.is_empty() { vec![None] } else { bind.iter().copied().map(Some).collect() };
        let clients =
            sources.into_iter().map(|source| Ok((source, http(settings, tls.clone(), guard.clone(), source)?)));
        let clients = clients.collect::<Result<_, reqwest::Error>>()?;
        let mixed = bind.iter().any(IpAddr::is_ipv4) && bind.iter().any(IpAddr::is_ipv6);
        let sources = Sources { clients, mixed, guard, next: AtomicUsize::new(0) };
        Ok(Self { sources: Arc::new(sources), kept_headers: settings.kept_headers.clone().into() })
    }
}

impl Sources {
    /// The next address's client: of a family that the recipient has, where there is a choice.
    async fn next(&self, url: &Url) -> reqwest::Client {
        let families = if self.mixed { self.families(url).await } else { Vec::new() };
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let in_turn = self.clients[turn..].iter().chain(&self.clients[..turn]);
        let fits = |source: &Option<IpAddr>| source.is_some_and(|source| families.contains(&source.is_ipv4()));
        let mut in_turn = in_turn.filter(|(source, _)| families.is_empty() || fits(source));
        // It was filtered for families that there are.
        let (_, client) = in_turn.next().unwrap_or(&self.clients[turn]);
        client.clone()
    }

    /// Whether the recipient's addresses are of IPv4, each; none if they can't be had, which the request then says.
    async fn families(&self, url: &Url) -> Vec<bool> {
        match url.host() {
            Some(Host::Ipv4(_)) => vec![true],
            Some(Host::Ipv6(_)) => vec![false],
            Some(Host::Domain(name)) => {
                self.guard.addresses(name).await.unwrap_or_default().iter().map(IpAddr::is_ipv4).collect()
            }
            None => Vec::new(),
        }
    }
}

/// A client whose connections come from this address.
fn http(
    settings: &Settings,
    tls: ClientConfig,
    guard: Guard,
    source: Option<IpAddr>,
) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(!settings.egress.allow_http)
        .dns_resolver(guard)
        // Connects to recipients of the same family only, so that no request comes from an address that is not declared.
        .local_address(source)
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
        .build()
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
        let (sources, kept_headers) = (self.sources.clone(), self.kept_headers.clone());
        Box::pin(async move {
            let sent = sources.next(request.http.url()).await.execute(request.http).await?;
            Ok(answer::read(sent, &kept_headers, &request.secrets).await?)
        })
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
