//! Recipients that take very many connections and never answer: others are delivered to meanwhile, and when they answer again, nothing is
//! missing.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hookwire_proto::v1::{BatchCreateSubscriptionsRequest, CreateSubscriptionRequest, Subscription};
use hookwire_tests::api::{Api, id_of, message};
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::publisher::{Load, Publisher};
use hookwire_tests::{is_full, on_both_shapes, say, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const LIMIT: Duration = Duration::from_secs(300);
/// Messages that each of these recipients is sent, as many as a new lane has under way at a time.
const EACH: usize = 4;
/// To those who are well.
const PER_SECOND: usize = 100;

/// Recipients of one port, one a path, which hold what they get until they are told to answer.
struct Holding {
    port: u16,
    shared: Arc<Shared>,
    _end: DropGuard,
}

struct Shared {
    held: AtomicUsize,
    answers: watch::Sender<bool>,
    /// What was answered, by path and `webhook-id`.
    answered: Mutex<HashMap<(String, String), usize>>,
}

/// Counts a request while it is held, also if whoever sent it gives up.
struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Holding {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (answers, _) = watch::channel(false);
        let shared = Arc::new(Shared { held: AtomicUsize::new(0), answers, answered: Mutex::default() });
        let router = Router::new().fallback(take).with_state(shared.clone());
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(axum::serve(listener, router).into_future()));
        Ok(Self { port, shared, _end: end.drop_guard() })
    }

    fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    fn answered(&self) -> usize {
        self.shared.answered.lock().expect("nothing panics while it holds this lock").len()
    }
}

async fn take(State(shared): State<Arc<Shared>>, request: Request) -> StatusCode {
    shared.held.fetch_add(1, Ordering::Relaxed);
    let held = Held(&shared.held);
    // It is there for as long as it is served.
    let _ = shared.answers.subscribe().wait_for(|answers| *answers).await;
    drop(held);
    let id = request.headers().get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let key = (request.uri().path().to_owned(), id.to_owned());
    *shared.answered.lock().expect("nothing panics while it holds this lock").entry(key).or_default() += 1;
    StatusCode::OK
}

/// Subscriptions to `held.event`, one a path.
async fn subscribe(control: &Api, tenant: &str, port: u16, count: usize) -> Result<i64> {
    let request = |number: usize| CreateSubscriptionRequest {
        parent: tenant.to_owned(),
        subscription: Some(Subscription {
            url: format!("http://localhost:{port}/{number}"),
            event_types: vec!["held.event".into()],
            ..Subscription::default()
        }),
        ..CreateSubscriptionRequest::default()
    };
    let mut revision = 0;
    for first in (0..count).step_by(1_000) {
        let requests = (first..count.min(first + 1_000)).map(request).collect();
        let request = BatchCreateSubscriptionsRequest { parent: tenant.to_owned(), requests, ..Default::default() };
        let created = control.subscriptions().batch_create_subscriptions(request).await?.into_inner().subscriptions;
        revision = created.last().context("one at least")?.revision;
    }
    Ok(revision)
}

fn options() -> Options {
    // A commit can name 1,024 unfinished records of a partition: these hold all of them, spread unevenly.
    let options = Options { nodes: 2, ..Options::default() }.schedule(&[0, 2_000, 2_000, 2_000], &[2_000, 8_000]);
    Options { layout: hookwire_log::Layout { deliveries_partitions: 24, ..options.layout.clone() }, ..options }
        .set("log.deliveries_partitions", 24)
        // Longer than it takes to open them all.
        .set("deliver.attempt_timeout", "60s")
        .set("egress.allow_http", true)
        .set("deliver.egress.allow_http", true)
}

async fn others_are_delivered_to_while_very_many_connections_are_held(cluster: &mut Cluster) -> Result<()> {
    // As many files as may be open, here too.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let recipients = if is_full() { 3_750 } else { 500 };
    let holding = Holding::start().await?;
    if cluster.shape == Shape::Production {
        cluster.balanced().await?;
    }
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["held.event"]).await?;
    let revision = subscribe(&control, &tenant, holding.port, recipients).await?;
    let well = control.new_tenant(&["well.event"]).await?;
    let min_revision = control.subscribe(&well, &cluster.receiver.url("/well"), &["well.event"]).await?.revision;

    let messages = (0..EACH).map(|_| message("held.event", "{}")).collect();
    let results = cluster.publisher()?.publish(&tenant, messages, revision).await?;
    let ids: HashSet<_> = results.iter().map(|result| id_of(&result.name).to_owned()).collect();
    ensure!(ids.len() == EACH, "{results:?}");
    let all = recipients * EACH;
    let began = Instant::now();
    wait_until(&format!("{all} connections are held"), LIMIT, async || Ok(holding.held() == all))
        .await
        .with_context(|| format!("{} are", holding.held()))?;
    let held_after = began.elapsed();

    // Now others.
    let load = Load {
        tenant: well,
        event_types: vec!["well.event".into()],
        min_revision,
        messages: PER_SECOND * 20,
        batch: 1,
        per_second: PER_SECOND,
        bytes: 500,
        keys: 0,
    };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;
    let acknowledged = publisher.finish(LIMIT).await?;
    cluster.receiver.wait_for_all("/well", &acknowledged, Duration::from_secs(5)).await?;
    ensure!(holding.answered() == 0, "they were to hold what they have");

    holding.shared.answers.send_replace(true);
    let began = Instant::now();
    wait_until("all that was held arrives", LIMIT, async || Ok(holding.answered() == all))
        .await
        .with_context(|| format!("{} of {all} have", holding.answered()))?;
    say(&format!(
        "{all} connections held within {held_after:?}, {:?}: {} of {} delivered to another meanwhile; all arrived {:?} after they \
         answered again",
        cluster.shape,
        acknowledged.len(),
        PER_SECOND * 20,
        began.elapsed()
    ));
    Ok(())
}

on_both_shapes!(held, options(), others_are_delivered_to_while_very_many_connections_are_held);
