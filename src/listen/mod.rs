//! `hookwire listen`: a receiver for people. It prints each request, verifies it and says why a check fails, and answers as
//! it was told: well, badly, slowly, or with 429.
//!
//! * [`check`]: is it signed, is its token valid, has it not expired
//! * [`answer`]: what it answers (pure)
//! * [`report`]: what it prints, and what it writes to a file for tests
//! * [`tls`]: HTTPS

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::{Connected, IntoMakeServiceWithConnectInfo};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::serve::{IncomingStream, Listener};
use axum::{Router, body};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub mod answer;
pub mod check;
pub mod report;
pub mod tls;

use crate::cli;
use crate::process::{self, Signals, WrongSettings};

pub use answer::Plan;
pub use check::Keys;

/// Enough for the largest payload there is, and a receiver that is misused keeps its memory.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// How long requests that are being answered may take after a signal, besides the delay that was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the subcommand.
pub async fn run(args: cli::Listen) -> anyhow::Result<()> {
    crate::telemetry::init(&crate::telemetry::Settings::default())?;
    let keys = Keys::new(&secrets(&args)?).map_err(WrongSettings::from)?;
    let plan = Plan { fail: args.fail, status: args.status, retry_after: args.retry_after, delay: args.delay };
    let out = args.out.as_ref().map(|path| {
        let opened = File::options().create(true).append(true).open(path);
        opened.map_err(|error| WrongSettings::from(format!("--out {}: {error}", path.display())))
    });
    let receiver = Receiver::new(plan, keys, out.transpose()?, Box::new(io::stdout()));
    let acceptor = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            Some(tls::from_files(cert, key).map_err(|error| WrongSettings::from(format!("{error:#}")))?)
        }
        _ if args.tls => {
            let (acceptor, authority) = tls::made().context("no certificate could be made")?;
            std::fs::write(&args.ca_out, authority)
                .map_err(|error| WrongSettings::from(format!("--ca-out {}: {error}", args.ca_out.display())))?;
            Some(acceptor)
        }
        _ => None,
    };

    let signals = Signals::catch()?;
    let listener = TcpListener::bind(args.address())
        .await
        .with_context(|| format!("can't listen on {}; choose another with --port", args.address()))?;
    announce(&args, listener.local_addr()?, acceptor.is_some(), receiver.keys.is_empty())?;
    let shutdown = CancellationToken::new();
    let service = {
        let shutdown = shutdown.clone();
        async move {
            match acceptor {
                Some(acceptor) => serve(tls::Tls::new(listener, acceptor)?, receiver, shutdown).await?,
                None => serve(listener, receiver, shutdown).await?,
            }
            Ok(())
        }
    };
    process::run_until_signal(signals, service, shutdown, DRAIN_TIMEOUT + args.delay).await
}

fn secrets(args: &cli::Listen) -> anyhow::Result<Vec<String>> {
    let mut secrets = args.secret.clone();
    if let Some(path) = &args.secret_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| WrongSettings::from(format!("--secret-file {}: {error}", path.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        secrets.extend(lines.map(str::to_owned));
    }
    Ok(secrets)
}

fn announce(args: &cli::Listen, address: SocketAddr, tls: bool, without_keys: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on {}://{address}/", if tls { "https" } else { "http" })?;
    if args.tls {
        writeln!(stdout, "certificates are signed by the authority in {}", args.ca_out.display())?;
    }
    if without_keys {
        writeln!(stdout, "nothing is verified: give the subscription's secret with --secret-file or --secret")?;
    }
    stdout.flush()
}

/// A request that came.
pub struct Received {
    /// When.
    pub at: SystemTime,
    /// From where.
    pub from: SocketAddr,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: body::Bytes,
}

impl Received {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The receiver.
pub struct Receiver {
    /// How it answers.
    pub plan: Plan,
    /// What it verifies with.
    pub keys: Keys,
    /// Where each request goes as a line of JSON.
    pub out: Option<Mutex<File>>,
    /// Where it prints.
    pub print: Mutex<Box<dyn Write + Send>>,
    /// How often each message was asked about.
    pub seen: Mutex<HashMap<String, u32>>,
}

impl Receiver {
    /// A receiver that prints to `print`.
    pub fn new(plan: Plan, keys: Keys, out: Option<File>, print: Box<dyn Write + Send>) -> Self {
        Self { plan, keys, out: out.map(Mutex::new), print: Mutex::new(print), seen: Mutex::default() }
    }

    fn times_before(&self, message: &str) -> u32 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let times = seen.entry(message.to_owned()).or_default();
        std::mem::replace(times, times.saturating_add(1))
    }
}

/// Receives until `shutdown`, and then answers what has come.
pub async fn serve<L>(listener: L, receiver: Receiver, shutdown: CancellationToken) -> std::io::Result<()>
where
    L: Listener<Addr = SocketAddr>,
    Peer: for<'a> Connected<IncomingStream<'a, L>>,
{
    let app = Router::new().fallback(receive).with_state(Arc::new(receiver));
    let app: IntoMakeServiceWithConnectInfo<_, Peer> = app.into_make_service_with_connect_info();
    axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// Where a request comes from, over TCP and over TLS.
#[derive(Debug, Clone, Copy)]
pub struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, tls::Tls>> for Peer {
    fn connect_info(stream: IncomingStream<'_, tls::Tls>) -> Self {
        Self(*stream.remote_addr())
    }
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    request: Request<Body>,
) -> Response {
    let at = SystemTime::now();
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let method = parts.method.to_string();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let received = Received { at, from, method, target, headers: parts.headers, body };

    let checks = receiver.keys.check(&received);
    let before = receiver.times_before(received.header("webhook-id").unwrap_or_default());
    let answer = receiver.plan.answer(before);
    // Written before it is answered: whoever was told that a delivery arrived finds it in the file.
    if let Some(out) = &receiver.out
        && let Err(error) = report::append(out, &received, &checks, &answer)
    {
        tracing::error!(%error, "the request can't be written to the file");
        return StatusCode::INSUFFICIENT_STORAGE.into_response();
    }
    let text = report::text(&received, &checks, &answer, receiver.plan.delay);
    let printed = receiver.print.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
    if let Err(error) = printed {
        tracing::debug!(%error, "nobody reads what is printed");
    }

    tokio::time::sleep(receiver.plan.delay).await;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match answer.retry_after {
        Some(seconds) => (status, [(header::RETRY_AFTER, seconds.to_string())]).into_response(),
        None => status.into_response(),
    }
}

#[cfg(test)]
mod tests;
