//! The addresses that requests come from: an HTTP client bound to each, used in turn. With a proxy, those that the proxy sees.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::redirect;
use rustls::ClientConfig;
use tokio::time::timeout;
use tower::BoxError;
use url::{Host, Url};

use super::config::Settings;
use super::egress::Guard;
use super::{client, proxy};

/// An HTTP/2 connection whose other end is gone would take every attempt with it until it times out: so often it is asked, and it
/// has so long to answer.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP clients that differ in nothing but the address that they connect from. Clones share connections and turns.
#[derive(Clone)]
pub struct Sources(Arc<Inner>);

struct Inner {
    /// One that leaves the address to the system if none is set.
    clients: Vec<(Option<IpAddr>, Http)>,
    /// Whether there are addresses of both families, so that it matters which one a recipient has.
    mixed: bool,
    guard: Guard,
    connect_timeout: Duration,
    next: AtomicUsize,
}

/// How recipients are connected to.
enum Http {
    Directly(reqwest::Client),
    Proxied(Box<proxy::Client>),
}

impl Sources {
    /// A client over this TLS for each address that is set, or one. HTTP/2 where the recipient speaks it.
    ///
    /// # Errors
    /// HTTP can't be set up, or the proxy's password is not there.
    pub fn new(settings: &Settings, guard: &Guard, tls: &ClientConfig) -> Result<Self, client::Error> {
        let bind = &settings.egress.bind;
        let sources = if bind.is_empty() { vec![None] } else { bind.iter().copied().map(Some).collect() };
        let client = |source| -> Result<_, client::Error> {
            Ok(match &settings.egress.proxy {
                None => Http::Directly(http(settings, guard, tls.clone(), source)?),
                Some(proxy) => {
                    Http::Proxied(Box::new(proxy::Client::new(settings, proxy, guard, tls.clone(), source)?))
                }
            })
        };
        let clients = sources.into_iter().map(|source| Ok((source, client(source)?)));
        Ok(Self(Arc::new(Inner {
            clients: clients.collect::<Result<_, client::Error>>()?,
            mixed: bind.iter().any(IpAddr::is_ipv4) && bind.iter().any(IpAddr::is_ipv6),
            guard: guard.clone(),
            connect_timeout: settings.connect_timeout,
            next: AtomicUsize::new(0),
        })))
    }

    /// Sends a request from the next address.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, BoxError> {
        match self.next(request.url()).await {
            Http::Directly(client) => Ok(client.execute(request).await?),
            Http::Proxied(client) => client.execute(request).await,
        }
    }

    /// The next address's client: of a family that the recipient has, where there is a choice.
    async fn next(&self, url: &Url) -> &Http {
        let Inner { clients, mixed, next, .. } = &*self.0;
        let families = if *mixed { self.families(url).await } else { Vec::new() };
        let turn = next.fetch_add(1, Ordering::Relaxed) % clients.len();
        let fits = |source: &Option<IpAddr>| source.is_some_and(|source| families.contains(&source.is_ipv4()));
        let mut in_turn = clients[turn..].iter().chain(&clients[..turn]);
        // Where nothing fits, or nothing is known, the request says why.
        let (_, client) = in_turn.find(|(source, _)| fits(source)).unwrap_or(&clients[turn]);
        client
    }

    /// Whether the recipient's addresses are of IPv4, each; none if they can't be had, which the request then says.
    async fn families(&self, url: &Url) -> Vec<bool> {
        match url.host() {
            Some(Host::Ipv4(_)) => vec![true],
            Some(Host::Ipv6(_)) => vec![false],
            Some(Host::Domain(name)) => {
                // No longer than the request itself may take for it.
                let found = timeout(self.0.connect_timeout, self.0.guard.addresses(name)).await;
                found.ok().and_then(Result::ok).unwrap_or_default().iter().map(IpAddr::is_ipv4).collect()
            }
            None => Vec::new(),
        }
    }
}

/// A client whose connections come from this address.
fn http(
    settings: &Settings,
    guard: &Guard,
    mut tls: ClientConfig,
    source: Option<IpAddr>,
) -> reqwest::Result<reqwest::Client> {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(!settings.egress.allow_http)
        .dns_resolver(guard.clone())
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
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .build()
}
