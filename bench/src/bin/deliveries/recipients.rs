//! The recipients: a process that takes what arrives at any of them with as little work as there can be, and knows of each delivery how often it
//! has arrived and when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hookwire_bench::asked::{self, Asked};
use hookwire_bench::hosts;
use hookwire_bench::load::{self, now_us};
use hookwire_bench::report::quantile;
use hookwire_tests::wait_until;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// Addresses that recipients share, each with a connection pool of its own at the sender.
pub const HOSTS: usize = 100;

/// What is expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Messages, numbered from 0.
    pub messages: usize,
    /// Recipients of each.
    pub fan_out: usize,
}

/// What arrived of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Deliveries that arrived at least once.
    pub arrived: usize,
    /// Arrivals beyond the first of each.
    pub repeated: usize,
    /// When the first was to be published, and when the last arrived, in microseconds since 1970.
    pub first_us: u64,
    pub last_us: u64,
    /// From when it was to be published until it arrived: the quantiles 0.5, 0.99, 0.999 and 1.
    pub latency: [Duration; 4],
}

impl Seen {
    /// From the first to the last.
    pub fn span(&self) -> Duration {
        Duration::from_micros(self.last_us.saturating_sub(self.first_us))
    }
}

/// The recipients, as whoever measures has them.
pub struct Recipients {
    process: Asked,
    port: u16,
}

impl Recipients {
    pub async fn start() -> Result<Self> {
        let (process, port) = Asked::start(&["recipients"]).await?;
        Ok(Self { process, port: port.parse()? })
    }

    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Where one of them is.
    pub fn url(&self, recipient: usize) -> String {
        format!("http://{}/{recipient}", self.address(recipient % HOSTS))
    }

    /// Where one of the hosts that they share is.
    pub fn address(&self, host: usize) -> String {
        hosts::address(host, self.port)
    }

    /// Forgets what has arrived, and expects this.
    pub async fn expect(&self, expected: Expected) -> Result<()> {
        self.process.ask(&serde_json::to_string(&expected)?).await.map(drop)
    }

    /// Waits until all that is expected has arrived.
    pub async fn all(&self, Expected { messages, fan_out }: Expected, limit: Duration) -> Result<()> {
        let what = format!("all of {} have arrived", messages * fan_out);
        let all = async || Ok(self.process.ask("missing").await? == "0");
        wait_until(&what, limit, all).await.map(drop)
    }

    pub async fn seen(&self) -> Result<Seen> {
        Ok(serde_json::from_str(&self.process.ask("seen").await?)?)
    }
}

#[derive(Default)]
struct Arrived {
    expected: Expected,
    /// Of each delivery, how often.
    times: Vec<u8>,
    missing: usize,
    repeated: usize,
    first_us: u64,
    last_us: u64,
    latencies: Vec<Duration>,
}

impl Arrived {
    fn new(expected: Expected) -> Self {
        let deliveries = expected.messages * expected.fan_out;
        Self {
            expected,
            times: vec![0; deliveries],
            missing: deliveries,
            first_us: u64::MAX,
            latencies: Vec::with_capacity(deliveries),
            ..Self::default()
        }
    }

    fn add(&mut self, recipient: usize, payload: &[u8]) {
        let (sent_us, number) = load::read(payload);
        let fan_out = self.expected.fan_out.max(1);
        let Some(times) = self.times.get_mut(number.saturating_mul(fan_out).saturating_add(recipient % fan_out)) else {
            return;
        };
        *times = times.saturating_add(1);
        if *times > 1 {
            self.repeated += 1;
            return;
        }
        self.missing -= 1;
        self.first_us = self.first_us.min(sent_us);
        self.last_us = now_us();
        self.latencies.push(Duration::from_micros(self.last_us.saturating_sub(sent_us)));
    }

    fn seen(&mut self) -> Seen {
        Seen {
            arrived: self.latencies.len(),
            repeated: self.repeated,
            first_us: self.first_us,
            last_us: self.last_us,
            latency: [0.5, 0.99, 0.999, 1.0].map(|q| quantile(&mut self.latencies, q)),
        }
    }
}

type Shared = Arc<Mutex<Arrived>>;

/// Is the recipients, until nobody asks any more.
pub async fn run() -> Result<()> {
    let arrived = Shared::default();
    let (port, listeners) = hosts::listen(HOSTS).await?;
    for listener in listeners {
        tokio::spawn(serve(listener, arrived.clone()));
    }
    asked::answer(port.to_string(), |question| {
        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match question {
            "missing" => arrived.missing.to_string(),
            "seen" => serde_json::to_string(&arrived.seen())?,
            expected => {
                *arrived = Arrived::new(serde_json::from_str(expected).context("what is expected")?);
                String::new()
            }
        })
    })
    .await
}

async fn serve(listener: TcpListener, arrived: Shared) {
    while let Ok((connection, _)) = listener.accept().await {
        // As any server does.
        drop(connection.set_nodelay(true));
        let arrived = arrived.clone();
        let service = service_fn(move |request| arrive(arrived.clone(), request));
        // A sender that goes away breaks its connection.
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}

async fn arrive(arrived: Shared, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let recipient = request.uri().path().trim_start_matches('/').parse().unwrap_or_default();
    let body = request.into_body().collect().await?.to_bytes();
    arrived.lock().unwrap_or_else(PoisonError::into_inner).add(recipient, &body);
    Ok(Response::new(Empty::new()))
}
