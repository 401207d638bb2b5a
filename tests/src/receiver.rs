//! Recipients over HTTPS: real connections, scripted by path. Every arrival is kept, in memory and as a line of JSON in
//! a file.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificates::Authority;
use crate::wait_until;

/// What a path does with one request, after it has recorded it.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers, after a while.
    Answer {
        /// Status of the answer.
        status: u16,
        /// Headers of the answer.
        headers: Vec<(&'static str, String)>,
        /// How long it waits first.
        delay: Duration,
    },
    /// Gives back the whole request: its body, then its headers, another one first each time; one of them in answering
    /// headers that are kept, too.
    Echo {
        /// Status of the answer.
        status: u16,
        /// How what comes after the body is written.
        form: Form,
    },
    /// Answers 200 with this JSON.
    Json(String),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Close,
}

impl Behaviour {
    /// Answers at once.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), delay: Duration::ZERO }
    }

    /// The status that it answers, 0 for none.
    fn answers(&self) -> u16 {
        match self {
            Self::Answer { status, .. } | Self::Echo { status, .. } => *status,
            Self::Json(_) => 200,
            Self::Hang | Self::Close => 0,
        }
    }

    /// Answers 200 after a while.
    pub fn slow(delay: Duration) -> Self {
        Self::Answer { status: 200, headers: Vec::new(), delay }
    }

    /// Answers at once and says when to come back.
    pub fn retry_after(status: u16, value: &str) -> Self {
        Self::Answer { status, headers: vec![("retry-after", value.to_owned())], delay: Duration::ZERO }
    }
}

/// How a receiver writes down what it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it came, a header a line.
    Plain,
    /// JSON, the slash escaped.
    Json,
    /// All lines in base64.
    Base64,
    /// All lines in hexadecimal.
    Hex,
    /// All lines percent-encoded.
    Percent,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its body was complete, in milliseconds since 1970.
    pub time_ms: u64,
    /// The path.
    pub path: String,
    /// The method.
    pub method: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The address that it came from.
    pub source: IpAddr,
    /// The status of the answer, 0 for none.
    pub status: u16,
}

impl Arrival {
    /// The value of a header, or "" where it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The header `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The token of the header `authorization`.
    pub fn token(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").unwrap_or_default()
    }

    fn line(&self) -> String {
        let headers: BTreeMap<&str, &str> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
        let body = BASE64_STANDARD.encode(&self.body);
        let line = serde_json::json!({
            "time_ms": self.time_ms, "path": self.path, "id": self.id(), "headers": headers, "body": body, "status": self.status,
        });
        format!("{line}\n")
    }
}

/// An HTTPS server on the loopback, ended when it is dropped.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    ended: CancellationToken,
}

struct Shared {
    log: PathBuf,
    state: Mutex<Inner>,
    ended: CancellationToken,
}

struct Inner {
    file: File,
    arrivals: Vec<Arrival>,
    scripts: HashMap<String, (VecDeque<Behaviour>, Behaviour)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl Receiver {
    /// Starts one with a certificate of `authority`; its file of arrivals lies in `directory`.
    ///
    /// # Errors
    /// When the certificate, the file or the port can't be had.
    pub async fn start(authority: &Authority, directory: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let identity = authority.issue(&format!("receiver-{port}"))?;
        let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let log = directory.join(format!("arrivals-{port}.jsonl"));
        let state = Inner { file: File::create(&log)?, arrivals: Vec::new(), scripts: HashMap::new() };
        let ended = CancellationToken::new();
        let shared = Arc::new(Shared { log, state: Mutex::new(state), ended: ended.clone() });
        tokio::spawn(ended.clone().run_until_cancelled_owned(serve(listener, tls.into(), Arc::clone(&shared))));
        Ok(Self { port, shared, ended })
    }

    /// The URL of a path (which begins with `/`).
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// What a verifier expects as the token's audience.
    pub fn origin(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Says what a path does: first each of `first`, then always `then`. A path that has no script answers 200.
    pub fn script(&self, path: &str, first: impl IntoIterator<Item = Behaviour>, then: Behaviour) {
        self.shared.lock().scripts.insert(path.to_owned(), (first.into_iter().collect(), then));
    }

    /// Everything that has arrived at a path, in order.
    pub fn arrivals(&self, path: &str) -> Vec<Arrival> {
        self.shared.lock().arrivals.iter().filter(|arrival| arrival.path == path).cloned().collect()
    }

    /// Waits until a path has `count` arrivals, and returns all it has.
    ///
    /// # Errors
    /// When there are fewer within `limit`.
    pub async fn wait(&self, path: &str, count: usize, limit: Duration) -> Result<Vec<Arrival>> {
        let have = || self.shared.lock().arrivals.iter().filter(|arrival| arrival.path == path).count();
        wait_until(&format!("{count} arrivals at {path}"), limit, async || Ok(have() >= count))
            .await
            .with_context(|| format!("{} arrived", have()))?;
        Ok(self.arrivals(path))
    }

    /// Counts the file of arrivals: how often each `webhook-id` arrived at a path.
    ///
    /// # Errors
    /// When the file can't be read or is not what was written.
    pub fn counts(&self, path: &str) -> Result<HashMap<String, usize>> {
        let mut counts = HashMap::new();
        for line in std::fs::read_to_string(&self.shared.log)?.lines() {
            let arrival: serde_json::Value = serde_json::from_str(line)?;
            if arrival["path"] == path {
                *counts.entry(arrival["id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Those of `ids` that have not arrived at a path.
    pub fn missing(&self, path: &str, ids: &HashSet<String>) -> HashSet<String> {
        let state = self.shared.lock();
        let here: HashSet<&str> =
            state.arrivals.iter().filter(|arrival| arrival.path == path).map(Arrival::id).collect();
        ids.iter().filter(|id| !here.contains(id.as_str())).cloned().collect()
    }

    /// Waits until every one of `ids` has arrived at a path.
    ///
    /// # Errors
    /// When some are missing after `limit`; says how many and which.
    pub async fn wait_for_all(&self, path: &str, ids: &HashSet<String>, limit: Duration) -> Result<Duration> {
        let mut missing = ids.clone();
        let waited = wait_until(&format!("all of {} messages at {path}", ids.len()), limit, async || {
            missing = self.missing(path, &missing);
            Ok(missing.is_empty())
        })
        .await;
        waited.with_context(|| format!("{} missing: {:?} …", missing.len(), missing.iter().take(5).collect::<Vec<_>>()))
    }

    /// Waits until nothing has arrived for a while, so that what comes twice is counted too.
    ///
    /// # Errors
    /// When it never becomes quiet.
    pub async fn quiet(&self, for_: Duration, limit: Duration) -> Result<()> {
        let (mut count, mut since) = (0, Instant::now());
        wait_until(&format!("nothing arrives for {for_:?}"), limit, async || {
            let now = self.shared.lock().arrivals.len();
            if std::mem::replace(&mut count, now) != now {
                since = Instant::now();
            }
            Ok(since.elapsed() >= for_)
        })
        .await?;
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, shared: Arc<Shared>) {
    let acceptor = TlsAcceptor::from(tls);
    let service = Router::new().fallback(arrive).with_state(Arc::clone(&shared));
    loop {
        // A connection that can't be accepted, when files are short, is not the end of the others.
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(service.clone().layer(Extension(from))));
        tokio::spawn(shared.ended.clone().run_until_cancelled_owned(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                // A connection that breaks is the sender's matter: an attempt that it sees fail.
                drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
            }
        }));
    }
}

async fn arrive(
    State(shared): State<Arc<Shared>>,
    Extension(from): Extension<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 4 << 20).await else {
        return answer(StatusCode::BAD_REQUEST, &[]);
    };
    let mut arrival = Arrival {
        time_ms: now_ms(),
        path: parts.uri.path().to_owned(),
        method: parts.method.to_string(),
        headers: parts.headers,
        body,
        source: from.ip(),
        status: 0,
    };
    match shared.record(&mut arrival) {
        Behaviour::Echo { status, form } => echo(&arrival, status, form, shared.count(&arrival.path)),
        Behaviour::Json(body) => {
            let json = [("content-type", "application/json")];
            (json, body).into_response()
        }
        Behaviour::Answer { status, headers, delay } => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            answer(StatusCode::from_u16(status).expect("scripts name real statuses"), &headers)
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Close => {
            let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("scripted to break")) });
            Response::new(Body::from_stream(broken))
        }
    }
}

impl Shared {
    /// How many have come to a path.
    fn count(&self, path: &str) -> usize {
        self.lock().arrivals.iter().filter(|arrival| arrival.path == path).count()
    }

    fn record(&self, arrival: &mut Arrival) -> Behaviour {
        let mut state = self.lock();
        let behaviour = match state.scripts.get_mut(&arrival.path) {
            Some((first, then)) => first.pop_front().unwrap_or_else(|| then.clone()),
            None => Behaviour::status(200),
        };
        arrival.status = behaviour.answers();
        state.file.write_all(arrival.line().as_bytes()).expect("the file of arrivals can be written");
        state.arrivals.push(arrival.clone());
        behaviour
    }
}

fn echo(arrival: &Arrival, status: u16, form: Form, earlier: usize) -> Response {
    let mut headers: Vec<(&str, &str)> =
        arrival.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
    let count = headers.len();
    headers.rotate_left(earlier % count);
    let first = headers[0].1.to_owned();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let text = match form {
        Form::Plain => lines,
        Form::Json => serde_json::json!(headers).to_string().replace('/', "\\/"),
        Form::Base64 => BASE64_STANDARD.encode(lines),
        Form::Hex => hex::encode(lines),
        Form::Percent => lines.bytes().map(|byte| format!("%{byte:02X}")).collect(),
    };
    let body = [&arrival.body, text.as_bytes()].concat();
    Response::builder()
        .status(status)
        .header("x-request-id", &first)
        .header("x-correlation-id", BASE64_STANDARD.encode(format!("key={first}")))
        .body(Body::from(body))
        .expect("what came as a header can go back as one")
}

fn answer(status: StatusCode, headers: &[(&'static str, String)]) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder.body(Body::empty()).expect("scripted headers are valid")
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_millis()).expect("the year is small")
}
