//! The log is away, dead or standing still, while messages are published: every call is answered soon, nothing that was acknowledged is
//! missing, and publishing goes on by itself.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::channel::mpsc;
use hookwire_proto::v1::{NewMessage, StreamMessagesRequest};
use hookwire_tests::api::{Api, id_of, message};
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::machine::{Kafka, Servers};
use hookwire_tests::{is_full, say, wait_until};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const LIMIT: Duration = Duration::from_secs(120);
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a caller may wait: that, and what a busy machine takes besides. Less than Kafka's client itself takes for giving up, 10 s.
const PATIENCE: Duration = Duration::from_secs(8);
const CALLERS: usize = 8;
/// Between a caller's messages: a busy machine delivers all of them meanwhile, so that none waits as a part of a backlog. What was refused is tried
/// again sooner.
const PACE: Duration = Duration::from_millis(100);
const PACE_OF_REFUSALS: Duration = Duration::from_millis(20);
/// Messages that are to be acknowledged before, between and after the faults.
const ENOUGH: usize = 200;

/// What callers have seen.
#[derive(Default)]
struct Seen {
    acknowledged: Mutex<HashSet<String>>,
    /// Messages whose result is that the log did not acknowledge them.
    unacknowledged: AtomicUsize,
    /// Messages that were refused at once, since the log was known to be away.
    refused: AtomicUsize,
    longest: Mutex<Duration>,
    end: AtomicBool,
}

impl Seen {
    fn unacknowledged(&self) -> usize {
        self.unacknowledged.load(Ordering::Relaxed)
    }

    fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    fn longest(&self) -> Duration {
        *self.longest.lock().expect("nothing panics while it holds this lock")
    }

    fn acknowledged(&self) -> MutexGuard<'_, HashSet<String>> {
        self.acknowledged.lock().expect("nothing panics while it holds this lock")
    }

    fn waited(&self, since: Instant) {
        let mut longest = self.longest.lock().expect("nothing panics while it holds this lock");
        *longest = since.elapsed().max(*longest);
    }

    fn acknowledge(&self, id: String) {
        self.acknowledged().insert(id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_away_callers_are_told_soon_and_nothing_acknowledged_is_missing() -> Result<()> {
    let Some(servers) = Servers::from_environment()? else {
        say("SKIPPED the outage of the log: scripts/test starts Kafka and PostgreSQL");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(directory.path(), 1)?;
    let timeout = format!("{}s", APPEND_TIMEOUT.as_secs());
    let options = Options { servers: Some(kafka.instead(servers)), ..Options::default() };
    let options = options.set("publish.append_timeout", timeout);
    cluster::with(Shape::Production, options, async |cluster: &mut Cluster| away(cluster, &kafka).await).await;
    Ok(())
}

async fn away(cluster: &mut Cluster, kafka: &Kafka) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["log.away"]).await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/away"), &["log.away"]).await?.revision;
    let seen = Arc::new(Seen::default());
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let publisher = cluster.publisher()?;
        match caller % 2 {
            0 => callers.spawn(calls(publisher, tenant.clone(), revision, caller, Arc::clone(&seen))),
            _ => callers.spawn(streams(publisher, tenant.clone(), revision, caller, Arc::clone(&seen))),
        };
    }
    let more = async |count: usize| {
        let before = seen.acknowledged().len();
        wait_until("publishing goes on", LIMIT, async || Ok(seen.acknowledged().len() >= before + count)).await
    };
    more(ENOUGH).await?;
    // Clients that come back find a broker that is only about to lead partitions and groups; what they make of that differs from time to time.
    let faults = [vec!["stands still"], vec!["is killed"; if is_full() { 10 } else { 1 }]].concat();
    for fault in faults {
        let (refused, unacknowledged) = (seen.refused(), seen.unacknowledged());
        if fault == "is killed" {
            kafka.kill(1)?
        } else {
            kafka.pause(1)?
        }
        // Both: some find out, and the others need not.
        wait_until(&format!("callers are told that the log {fault}"), LIMIT, async || {
            Ok(seen.unacknowledged() > unacknowledged && seen.refused() >= refused + 50)
        })
        .await?;
        if fault == "is killed" {
            kafka.restart()?
        } else {
            kafka.resume(1)?
        }
        more(ENOUGH).await?;
        let acknowledged = seen.acknowledged().clone();
        cluster.receiver.wait_for_all("/away", &acknowledged, LIMIT).await?;
        say(&format!(
            "the log {fault}: {} messages not acknowledged, {} refused at once, the longest wait {:?}",
            seen.unacknowledged() - unacknowledged,
            seen.refused() - refused,
            seen.longest()
        ));
    }
    seen.end.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    ensure!(seen.longest() < PATIENCE, "a caller waited {:?}", seen.longest());
    let acknowledged = seen.acknowledged().clone();
    cluster.receiver.wait_for_all("/away", &acknowledged, LIMIT).await?;
    say(&format!("all {} messages that were acknowledged arrived", acknowledged.len()));
    Ok(())
}

/// Publishes one message after another, each until it is acknowledged, in calls.
async fn calls(publisher: Api, tenant: String, revision: i64, caller: usize, seen: Arc<Seen>) -> Result<()> {
    for number in 0.. {
        let id = format!("call-{caller}-{number}");
        loop {
            let began = Instant::now();
            let answer = publisher.publish(&tenant, vec![with_id(&id)], revision).await;
            seen.waited(began);
            match answer {
                Ok(results) => match &results.first().context("one result for one message")?.error {
                    None => break seen.acknowledge(id),
                    Some(error) => {
                        ensure!(error.code == Code::Unavailable as i32, "{error:?}");
                        seen.unacknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                },
                Err(status) => {
                    ensure!(is_log_unavailable(&status), "{status:?}");
                    seen.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            if seen.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            tokio::time::sleep(PACE_OF_REFUSALS).await;
        }
        if seen.end.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// The same in one stream, which lasts, with some messages on their way at a time.
async fn streams(publisher: Api, tenant: String, revision: i64, caller: usize, seen: Arc<Seen>) -> Result<()> {
    const ON_THEIR_WAY: usize = 10;
    let (requests, receiver) = mpsc::unbounded();
    let mut responses = publisher.publishing().stream_messages(receiver).await?.into_inner();
    let mut sent = VecDeque::new();
    let send = |id: String, sent: &mut VecDeque<(String, Instant)>| {
        let messages = vec![with_id(&id)];
        sent.push_back((id, Instant::now()));
        requests.unbounded_send(StreamMessagesRequest { parent: tenant.clone(), messages, min_revision: revision })
    };
    let mut ids = (0..).map(|number| format!("stream-{caller}-{number}"));
    for id in ids.by_ref().take(ON_THEIR_WAY) {
        send(id, &mut sent)?;
    }
    while !sent.is_empty() {
        let response = responses.message().await?.context("the stream outlasts the log's absence")?;
        for result in response.results {
            let (id, since) = sent.pop_front().context("no more results than messages")?;
            seen.waited(since);
            let ends = seen.end.load(Ordering::Relaxed);
            match result.error {
                None => {
                    ensure!(id_of(&result.name) == id, "{} is not {id}, whose turn it is", result.name);
                    seen.acknowledge(id);
                    if !ends {
                        tokio::time::sleep(PACE).await;
                        send(ids.next().context("there is no end of them")?, &mut sent)?;
                    }
                }
                Some(error) => {
                    ensure!(error.code == Code::Unavailable as i32, "{error:?}");
                    // Without a name it was not even appended.
                    let count = if result.name.is_empty() { &seen.refused } else { &seen.unacknowledged };
                    count.fetch_add(1, Ordering::Relaxed);
                    if !ends {
                        tokio::time::sleep(PACE_OF_REFUSALS).await;
                        send(id, &mut sent)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn with_id(id: &str) -> NewMessage {
    NewMessage { message_id: id.to_owned(), ..message("log.away", "{}") }
}

fn is_log_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable
        && status.get_details_error_info().is_some_and(|info| info.reason == "LOG_UNAVAILABLE")
        && status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some())
}
