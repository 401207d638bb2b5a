//! Connections through the operator's proxy, by HTTP CONNECT (RFC 9110, section 9.3.6) or SOCKS5 (RFC 1928). The proxy is told an
//! address that the guard has let through, never a name, which it would resolve itself, to whatever the answer is by then.

use std::fs;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::header::ACCEPT;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt as _, service_fn};
use zeroize::Zeroizing;

use super::config::{self, Settings};
use super::egress::Guard;
use super::sources::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};

/// Why there is no connection through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none to the proxy: its operator's matter, not the recipient's.
    #[error("the proxy can't be reached")]
    Unreachable(#[source] BoxError),
    /// The proxy makes none to the recipient.
    #[error("the proxy makes no connection")]
    Refused(#[source] BoxError),
}

/// An HTTP client whose connections all go through the proxy. Clones share them.
#[derive(Clone)]
pub struct Client(legacy::Client<BoxCloneSyncService<Uri, Stream, BoxError>, reqwest::Body>);

type Stream = hyper_rustls::MaybeHttpsStream<TokioIo<TcpStream>>;

impl Client {
    /// A client over this TLS, which connects to the proxy from this address.
    ///
    /// # Errors
    /// Names the setting that can't be used, such as a password that is not there.
    pub fn new(
        settings: &Settings,
        proxy: &config::Proxy,
        guard: &Guard,
        tls: ClientConfig,
        source: Option<IpAddr>,
    ) -> Result<Self, config::Error> {
        let mut to_proxy = HttpConnector::new();
        to_proxy.enforce_http(false);
        to_proxy.set_nodelay(true);
        to_proxy.set_local_address(source);
        let proxied = Proxied { guard: guard.clone(), proxy: Proxy::new(proxy)?, to_proxy };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(proxied);
        let connector = ServiceBuilder::new().timeout(settings.connect_timeout).service(connector);
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(settings.idle_timeout)
            .pool_max_idle_per_host(settings.max_idle_connections)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .build(BoxCloneSyncService::new(connector));
        Ok(Self(client))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, BoxError> {
        let mut request = http::Request::try_from(request)?;
        // As without a proxy.
        request.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        let response = self.0.request(request).await?;
        Ok(response.map(reqwest::Body::wrap).into())
    }
}

/// Where the proxy is, and who we are to it.
#[derive(Clone)]
struct Proxy {
    /// Its scheme says what it speaks.
    uri: Uri,
    user: Option<(String, Zeroizing<String>)>,
}

impl Proxy {
    fn new(settings: &config::Proxy) -> Result<Self, config::Error> {
        let user = match &settings.password_file {
            None => None,
            Some(path) => {
                let password = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| config::Error {
                    setting: "deliver.egress.proxy.password_file",
                    detail: format!("{}: {error}; write the path of a file that holds the password", path.display()),
                })?;
                Some((settings.user.clone(), Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned())))
            }
        };
        Ok(Self { uri: settings.uri()?, user })
    }

    /// Has the proxy connect to an address.
    async fn connect(&self, stream: TokioIo<TcpStream>, to: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        // It is connected already, so that it is known which of the two has failed.
        let mut stream = Some(stream);
        let connected =
            service_fn(move |_: Uri| ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))));
        if self.uri.scheme_str() == Some(config::SOCKS5) {
            let mut socks = SocksV5::new(self.uri.clone(), connected);
            if let Some((user, password)) = &self.user {
                socks = socks.with_auth(user.clone(), password.as_str().to_owned());
            }
            return Ok(socks.oneshot(to).await?);
        }
        let mut tunnel = Tunnel::new(self.uri.clone(), connected);
        if let Some((user, password)) = &self.user {
            let pair = Zeroizing::new(STANDARD.encode(format!("{user}:{}", **password)));
            tunnel = tunnel.with_auth(HeaderValue::try_from(format!("Basic {}", *pair))?);
        }
        Ok(tunnel.oneshot(to).await?)
    }
}

/// Connects to recipients by way of the proxy.
#[derive(Clone)]
struct Proxied {
    guard: Guard,
    proxy: Proxy,
    to_proxy: HttpConnector,
}

impl Proxied {
    /// Connects to the first of a recipient's addresses that the proxy gets through to.
    async fn connect(self, recipient: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let scheme = recipient.scheme().cloned().unwrap_or(Scheme::HTTPS);
        let port = recipient.port_u16().unwrap_or(if scheme == Scheme::HTTP { 80 } else { 443 });
        let host = recipient.host().unwrap_or_default();
        let mut refused = None;
        for address in self.guard.addresses(host).await? {
            let connected = self.to_proxy.clone().oneshot(self.proxy.uri.clone()).await;
            let stream = connected.map_err(|error| Error::Unreachable(error.into()))?;
            let to = Uri::builder()
                .scheme(scheme.clone())
                .authority(SocketAddr::new(address, port).to_string())
                .path_and_query("/")
                .build()?;
            match self.proxy.connect(stream, to).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = Some(error),
            }
        }
        Err(Error::Refused(refused.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable).into())).into())
    }
}

impl Service<Uri> for Proxied {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<TcpStream>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, recipient: Uri) -> Self::Future {
        Box::pin(self.clone().connect(recipient))
    }
}
