//! The recipients: a process of its own, which each recipient's address leads to, and which remembers when what arrived at those who
//! are well.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hookwire_tests::wait_until;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::RECIPIENTS;
use crate::load::now_us;

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
    /// Ended when this is dropped.
    _child: Child,
    port: u16,
    lines: Mutex<Lines>,
}

/// What it is asked and answers, a line each.
struct Lines {
    to: ChildStdin,
    from: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Receiver {
    pub async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--receiver")
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("its input")?;
        let mut from = BufReader::new(child.stdout.take().context("its output")?).lines();
        let port = from.next_line().await?.context("the recipients did not start")?.parse()?;
        Ok(Self { _child: child, port, lines: Mutex::new(Lines { to, from }) })
    }

    /// Where one of them is.
    pub fn url(&self, recipient: usize, group: Group) -> String {
        format!("http://127.0.1.{}:{}{}", recipient + 1, self.port, group.path())
    }

    /// Forgets what has arrived; from now on there is trouble, or not.
    pub async fn begin(&self, is_noisy: bool) -> Result<()> {
        self.ask(if is_noisy { "noisy" } else { "quiet" }).await.map(drop)
    }

    /// Waits until so many have arrived at those who are well; before the beginning, at all.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Result<()> {
        let arrived = async || Ok(self.ask("count").await?.parse::<usize>()? >= count);
        wait_until(&format!("{count} have arrived"), limit, arrived).await.map(drop)
    }

    pub async fn seen(&self) -> Result<Seen> {
        Ok(serde_json::from_str(&self.ask("seen").await?)?)
    }

    async fn ask(&self, question: &str) -> Result<String> {
        let mut lines = self.lines.lock().await;
        lines.to.write_all(format!("{question}\n").as_bytes()).await?;
        lines.from.next_line().await?.context("the recipients have ended")
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
    let first = TcpListener::bind("127.0.1.1:0").await?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for recipient in 1..RECIPIENTS {
        listeners.push(TcpListener::bind(format!("127.0.1.{}:{port}", recipient + 1)).await?);
    }
    let router = Router::new().fallback(arrive).with_state(arrived.clone());
    for listener in listeners {
        tokio::spawn(axum::serve(listener, router.clone()).into_future());
    }
    let (mut stdout, mut questions) = (tokio::io::stdout(), BufReader::new(tokio::io::stdin()).lines());
    let mut answer = port.to_string();
    loop {
        stdout.write_all(format!("{answer}\n").as_bytes()).await?;
        stdout.flush().await?;
        let Some(question) = questions.next_line().await? else { return Ok(()) };
        let mut arrived = arrived.lock().expect("nobody panics with it");
        answer = match question.as_str() {
            "count" if arrived.has_begun => arrived.seen.latencies_us.len().to_string(),
            "count" => arrived.warm.to_string(),
            "seen" => serde_json::to_string(&arrived.seen)?,
            _ => {
                *arrived = Arrived { has_begun: true, is_noisy: question == "noisy", ..Arrived::default() };
                String::new()
            }
        };
    }
}

async fn arrive(State(arrived): State<Shared>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 4 << 20).await else { return StatusCode::BAD_REQUEST };
    let is_noisy = {
        let mut arrived = arrived.lock().expect("nobody panics with it");
        if !arrived.has_begun {
            arrived.warm += 1;
        } else if parts.uri.path() == Group::Well.path() {
            arrived.seen.add(sent_us(&body));
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

/// The body begins with it.
fn sent_us(body: &[u8]) -> u64 {
    let digits = body.iter().skip_while(|byte| !byte.is_ascii_digit()).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
