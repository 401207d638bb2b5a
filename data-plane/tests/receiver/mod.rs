//! HTTPS recipients on loopback that do as they are told, byte by byte.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate authority of one test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a client, and its key, in PEM.
    pub fn client(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// TLS for a server of this name.
    pub fn server(&self, name: &str, alpn: &[&[u8]]) -> TlsAcceptor {
        self.server_asking(name, alpn, None)
    }

    /// TLS for a server of this name, which lets only clients in whom an authority knows.
    pub fn server_demanding(&self, name: &str, alpn: &[&[u8]], clients: &Authority) -> TlsAcceptor {
        self.server_asking(name, alpn, Some(clients))
    }

    /// TLS for a server of this name, whose certificate has expired.
    pub fn server_expired(&self, name: &str, alpn: &[&[u8]]) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.serving(params, alpn, None)
    }

    fn server_asking(&self, name: &str, alpn: &[&[u8]], clients: Option<&Authority>) -> TlsAcceptor {
        self.serving(CertificateParams::new(vec![name.to_owned()]).unwrap(), alpn, clients)
    }

    fn serving(&self, params: CertificateParams, alpn: &[&[u8]], clients: Option<&Authority>) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap()
            }
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub line: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The connection that it came over, counted from 1.
    pub connection: usize,
    /// The address that it came from.
    pub source: IpAddr,
}

/// One connection, on which a script reads requests and writes what it likes.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    number: usize,
    source: IpAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Connection {
    /// The next request; `None` when the client has closed.
    pub async fn request(&mut self) -> Option<Arrived> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let (line, rest) = head.split_once("\r\n").unwrap();
        let headers: HeaderMap = rest
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect();
        let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
        while self.buffer.len() < length {
            self.fill().await?;
        }
        let body = self.buffer.drain(..length).collect::<Vec<_>>().into();
        let arrived = Arrived { line: line.to_owned(), headers, body, connection: self.number, source: self.source };
        self.arrived.lock().unwrap().push(arrived.clone());
        Some(arrived)
    }

    async fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        self.buffer.extend_from_slice(&chunk[..read]);
        Some(())
    }

    /// Writes bytes; whether the client still takes them.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Closes with a TCP reset.
    pub fn reset(self) {
        self.stream.get_ref().0.set_zero_linger().unwrap();
    }

    /// Does nothing until the client closes.
    pub async fn hang(&mut self) {
        while self.fill().await.is_some() {}
    }
}

/// A recipient. Ends with the test.
pub struct Receiver {
    pub address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Listens on port 0 and runs the script on every connection.
    pub async fn start<F, R>(tls: TlsAcceptor, script: F) -> Self
    where
        F: Fn(Connection) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let (all, count) = (arrived.clone(), connections.clone());
        tasks.spawn(async move {
            let mut scripts = JoinSet::new();
            while let Ok((tcp, from)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let Ok(stream) = tls.accept(tcp).await else { continue };
                scripts.spawn(script(Connection {
                    stream,
                    buffer: Vec::new(),
                    number,
                    source: from.ip(),
                    arrived: all.clone(),
                }));
            }
        });
        Self { address, arrived, connections, _tasks: tasks }
    }

    /// Answers every request with these bytes.
    pub async fn answering(tls: TlsAcceptor, answer: impl Into<Bytes>) -> Self {
        let answer = answer.into();
        Self::start(tls, move |mut connection| {
            let answer = answer.clone();
            async move {
                while connection.request().await.is_some() {
                    if !connection.write(&answer).await {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// What arrived so far.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Waits until something holds, for five seconds at most.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(5), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within 5 s: {what}");
}
