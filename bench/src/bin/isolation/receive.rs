//! The recipients: a process of its own, which each recipient's address leads to, and which remembers when what arrived at those who
//! are well.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hookwire_bench::asked::{self, Asked};
use hookwire_bench::hosts;
use hookwire_bench::load::{self, now_us};
use hookwire_tests::wait_until;
use serde::{Deserialize, Serialize};

use crate::RECIPIENTS;

/// What a recipient does when there is trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Answers 200, and is measured.
    Well,
    /// Takes 10 s.
    Slow,
    /// Answers 500.
    Failing,
    /// Never answers.
    Silent,
    /// Answers 200, is what others are disturbed by, and is not measured.
    Disturbing,
}

impl Group {
    fn path(self) -> &'static str {
        match self {
            Self::Well => "/well",
            Self::Slow => "/slow",
            Self::Failing => "/failing",
            Self::Silent => "/silent",
            Self::Disturbing => "/disturbing",
        }
    }
}

/// What arrived at recipients who are well.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// From when it was to be published until it arrived, in microseconds.
    pub latencies_us: Vec<u64>,
    /// When the first was to be published.
    pub first_sent_us: u64,
    /// When the last arrived.
    pub last_us: u64,
}

impl Seen {
    fn add(&mut self, sent_us: u64) {
        let now = now_us();
        if self.latencies_us.is_empty() || sent_us < self.first_sent_us {
            self.first_sent_us = sent_us;
        }
        self.latencies_us.push(now.saturating_sub(sent_us));
        self.last_us = now;
    }
}

/// The recipients of one run.
pub struct Receiver {
    process: Asked,
    port: u16,
}

impl Receiver {
    pub async fn start() -> Result<Self> {
        let (process, port) = Asked::start(&["--receiver"]).await?;
        Ok(Self { process, port: port.parse()? })
    }

    /// Where one of them is.
    pub fn url(&self, recipient: usize, group: Group) -> String {
        format!("http://{}{}", hosts::address(recipient, self.port), group.path())
    }

    /// Forgets what has arrived; from now on there is trouble, or not.
    pub async fn begin(&self, is_noisy: bool) -> Result<()> {
        self.process.ask(if is_noisy { "noisy" } else { "quiet" }).await.map(drop)
    }

    /// Waits until so many have arrived at those who are well; before the beginning, at all.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Result<()> {
        let arrived = async || Ok(self.process.ask("count").await?.parse::<usize>()? >= count);
        wait_until(&format!("{count} have arrived"), limit, arrived).await.map(drop)
    }

    pub async fn seen(&self) -> Result<Seen> {
        Ok(serde_json::from_str(&self.process.ask("seen").await?)?)
    }
}

/// What has arrived.
#[derive(Default)]
struct Arrived {
    has_begun: bool,
    is_noisy: bool,
    /// Before the beginning.
    warm: usize,
    seen: Seen,
}

type Shared = Arc<std::sync::Mutex<Arrived>>;

/// Is the recipients, until nobody asks any more.
pub async fn run() -> Result<()> {
    let arrived = Shared::default();
    let (port, listeners) = hosts::listen(RECIPIENTS).await?;
    let router = Router::new().fallback(arrive).with_state(arrived.clone());
    for listener in listeners {
        tokio::spawn(axum::serve(listener, router.clone()).into_future());
    }
    asked::answer(port.to_string(), |question| {
        let mut arrived = arrived.lock().expect("nobody panics with it");
        Ok(match question {
            "count" if arrived.has_begun => arrived.seen.latencies_us.len().to_string(),
            "count" => arrived.warm.to_string(),
            "seen" => serde_json::to_string(&arrived.seen)?,
            _ => {
                *arrived = Arrived { has_begun: true, is_noisy: question == "noisy", ..Arrived::default() };
                String::new()
            }
        })
    })
    .await
}

async fn arrive(State(arrived): State<Shared>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 4 << 20).await else { return StatusCode::BAD_REQUEST };
    let is_noisy = {
        let mut arrived = arrived.lock().expect("nobody panics with it");
        if !arrived.has_begun {
            arrived.warm += 1;
        } else if parts.uri.path() == Group::Well.path() {
            arrived.seen.add(load::read(&body).0);
        }
        arrived.is_noisy
    };
    match parts.uri.path() {
        "/slow" if is_noisy => tokio::time::sleep(Duration::from_secs(10)).await,
        "/failing" if is_noisy => return StatusCode::INTERNAL_SERVER_ERROR,
        "/silent" if is_noisy => std::future::pending().await,
        _ => {}
    }
    StatusCode::OK
}
