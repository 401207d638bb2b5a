//! What tests of the message path stand on: a real log in a temporary directory, which can be made unavailable, and
//! recipients that follow a script.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use hookwire_log::embedded::{self, EmbeddedLog};
use hookwire_log::forward::now_ms;
use hookwire_log::offsets::Committed;
use hookwire_log::{
    Appended, Bounds, Consumer, ConsumerOptions, Error, Health, Layout, Log, NewRecord, Offset, Pending, Record, Topic,
    codec,
};
use hookwire_proto::config::{self, resource};
use hookwire_proto::log::{
    AttemptBatch, AttemptError, DeadReason, DeliveryRecord, MessageRecord, Place, QuarantineRecord,
    delivery_record::Body,
};
use hookwire_proto::name;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cache::{Config, Snapshot};
use crate::deliver::attempt::{Answer, Attempt, Failure, Finished, RetryAfter};
use crate::deliver::{self, Attempts, Deliver, lanes};
use crate::dispatch::Dispatch;
use crate::metrics::Metrics;
use crate::owned::Owned;
use crate::retry::schedule::Schedule;
use crate::{attempts, dispatch, retry};

/// A condition that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(ms(5)).await;
    }
}

/// A log that is unavailable when told to be, for appends and for where `ids` ends, and counts what is read of `messages`.
pub struct Fallible {
    inner: Arc<EmbeddedLog>,
    pub is_unavailable: AtomicBool,
    /// So many appends to `deliveries` succeed before it is.
    pub available_for: AtomicUsize,
    pub bodies_read: AtomicUsize,
}

#[async_trait]
impl Log for Fallible {
    fn layout(&self) -> &Arc<Layout> {
        self.inner.layout()
    }

    fn append(&self, record: NewRecord) -> Pending {
        let one = usize::from(record.topic == Topic::Deliveries);
        let left = self.available_for.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(one));
        if self.is_unavailable.load(Ordering::SeqCst) || left.is_err() {
            return Pending::failed(Error::Unavailable { detail: "as told".into() });
        }
        self.inner.append(record)
    }

    async fn read(
        &self,
        topic: Topic,
        partition: i32,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, Error> {
        if topic == Topic::Messages {
            self.bodies_read.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.read(topic, partition, from, max_records, max_bytes).await
    }

    fn now_ms(&self) -> i64 {
        self.inner.now_ms()
    }

    async fn bounds(&self, topic: Topic, partition: i32) -> Result<Bounds, Error> {
        if topic == Topic::Ids && self.is_unavailable.load(Ordering::SeqCst) {
            return Err(Error::Unavailable { detail: "as told".into() });
        }
        self.inner.bounds(topic, partition).await
    }

    async fn offset_at(&self, topic: Topic, partition: i32, time_ms: i64) -> Result<Offset, Error> {
        self.inner.offset_at(topic, partition, time_ms).await
    }

    async fn committed(&self, group: &str, topic: Topic, partition: i32) -> Result<Option<Committed>, Error> {
        self.inner.committed(group, topic, partition).await
    }

    fn join(&self, group: &str, topics: &[Topic], options: ConsumerOptions) -> Result<Consumer, Error> {
        self.inner.join(group, topics, options)
    }

    async fn check(&self) -> Result<Health, Error> {
        self.inner.check().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// What a recipient does with an attempt.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    Status(u16),
    RetryAfter(u16, Duration),
    /// 200 after this long.
    Slow(Duration),
    /// 200 as soon as [`Recipients::gate`] has a permit.
    Gated,
    Fail(AttemptError),
    Panic,
}

/// An attempt that arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub subscription: String,
    pub message: String,
    pub number: i32,
    pub body: Bytes,
    pub at: Instant,
}

type Script = dyn Fn(&Attempt) -> Reply + Send + Sync;

/// All recipients, and what arrived.
pub struct Recipients {
    script: Box<Script>,
    arrivals: Mutex<Vec<Arrival>>,
    under_way: Mutex<HashMap<String, (usize, usize)>>,
    pub gate: Semaphore,
}

impl Recipients {
    pub fn new(script: impl Fn(&Attempt) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            arrivals: Mutex::default(),
            under_way: Mutex::default(),
            gate: Semaphore::new(0),
        })
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    pub fn at(&self, subscription: &str) -> Vec<Arrival> {
        self.arrivals().into_iter().filter(|arrival| arrival.subscription == subscription).collect()
    }

    /// The most attempts that a subscription had under way at a time.
    pub fn most_under_way(&self, subscription: &str) -> usize {
        self.under_way.lock().unwrap().get(subscription).map_or(0, |(_, most)| *most)
    }
}

#[async_trait]
impl Attempts for Recipients {
    async fn attempt(&self, attempt: Attempt) -> Finished {
        let started = SystemTime::now();
        let clock = Instant::now();
        let subscription = attempt.subscription.name.to_string();
        self.arrivals.lock().unwrap().push(Arrival {
            subscription: subscription.clone(),
            message: attempt.message_id.clone(),
            number: attempt.number,
            body: attempt.body.clone(),
            at: clock,
        });
        {
            let mut under_way = self.under_way.lock().unwrap();
            let (now, most) = under_way.entry(subscription.clone()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
        let answer = |status, retry_after| Ok(Answer { status, retry_after, headers: vec![], body: Bytes::new() });
        let result = match (self.script)(&attempt) {
            Reply::Status(status) => answer(status, None),
            Reply::RetryAfter(status, after) => answer(status, Some(RetryAfter::Delay(after))),
            Reply::Slow(time) => {
                tokio::time::sleep(time).await;
                answer(200, None)
            }
            Reply::Gated => {
                self.gate.acquire().await.unwrap().forget();
                answer(200, None)
            }
            Reply::Fail(error) => Err(Failure { error, detail: "as told".into() }),
            Reply::Panic => panic!("as told"),
        };
        self.under_way.lock().unwrap().get_mut(&subscription).unwrap().0 -= 1;
        Finished { result, started, duration: clock.elapsed() }
    }
}

/// A node's worth of stages around a log.
pub struct World {
    pub log: Arc<Fallible>,
    pub config: Config,
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    pub schedule: Schedule,
    pub lanes: lanes::Settings,
    pub attempts: attempts::Sender,
    pub metrics: Metrics,
    _directory: TempDir,
}

/// A stage that runs.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Tells it to leave its group and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it drains").expect("it does not panic");
    }

    /// Ends it where it is, as a process that is killed; what was finished by then is committed.
    pub async fn crash(self) {
        self.task.abort();
        // It ends by having been aborted.
        drop(self.task.await);
    }

    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }
}

impl World {
    /// One partition of each topic, tiers of milliseconds, and one snapshot with these subscriptions of tenant `t`, which
    /// want everything.
    pub fn new(subscriptions: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout {
            messages_partitions: 1,
            deliveries_partitions: 1,
            retries_partitions: 1,
            attempts_partitions: 1,
            retry_tiers: [100, 300, 1_000].map(ms).to_vec(),
            ..Layout::default()
        };
        let settings = embedded::Settings { dir: directory.path().join("log"), ..Default::default() };
        let log = Arc::new(Fallible {
            inner: EmbeddedLog::open(settings, layout).unwrap(),
            is_unavailable: AtomicBool::default(),
            available_for: AtomicUsize::new(usize::MAX),
            bodies_read: AtomicUsize::default(),
        });
        let metrics = Metrics::default();
        let (attempts, collector) = attempts::collector(log.clone(), metrics.clone());
        tokio::spawn(collector);
        let (snapshots, config) = Config::new();
        let world = Self {
            log,
            config,
            snapshots,
            schedule: Schedule { delays: vec![Duration::ZERO, ms(50), ms(150), ms(450)], margin: ms(60_000) },
            lanes: lanes::Settings::default(),
            attempts,
            metrics,
            _directory: directory,
        };
        world.configure(1, subscriptions);
        world
    }

    pub fn configure(&self, revision: i64, subscriptions: &[&str]) {
        self.configure_with(revision, subscriptions, None);
    }

    /// The same, with settings that all of them have.
    pub fn configure_with(
        &self,
        revision: i64,
        subscriptions: &[&str],
        settings: Option<config::SubscriptionSettings>,
    ) {
        let resources = subscriptions.iter().map(|id| config::Resource {
            resource: Some(resource::Resource::Subscription(config::Subscription {
                name: subscription(id),
                url: "https://example.com/".into(),
                event_types: vec!["*".into()],
                max_concurrency: 4,
                settings: settings.clone(),
                ..Default::default()
            })),
        });
        self.snapshots.send_replace(Some(Arc::new(Snapshot::new(revision, resources))));
    }

    /// One subscription with a state that this revision made.
    pub fn configure_state(&self, revision: i64, id: &str, state: config::subscription::State) {
        let resource = config::Subscription {
            name: subscription(id),
            url: "https://example.com/".into(),
            event_types: vec!["*".into()],
            max_concurrency: 4,
            state: state.into(),
            state_revision: revision,
            revision,
            ..Default::default()
        };
        let resource = config::Resource { resource: Some(resource::Resource::Subscription(resource)) };
        self.snapshots.send_replace(Some(Arc::new(Snapshot::new(revision, [resource]))));
    }

    pub fn dispatch(&self) -> Running {
        self.dispatch_with(dispatch::Settings::default())
    }

    pub fn dispatch_with(&self, settings: dispatch::Settings) -> Running {
        let (log, config, schedule) = (self.log.clone(), self.config.clone(), self.schedule.clone());
        let attempts = self.attempts.clone();
        let (owned, metrics) = (Owned::default(), self.metrics.clone());
        let dispatch = Dispatch { log, config, settings, schedule, attempts, owned, metrics };
        run(|shutdown| dispatch::run(dispatch, shutdown))
    }

    pub fn deliver(&self, recipients: &Arc<Recipients>) -> Running {
        let deliver = Deliver {
            log: self.log.clone(),
            config: self.config.clone(),
            lanes: self.lanes.clone(),
            concurrency: 20,
            schedule: self.schedule.clone(),
            attempts: self.attempts.clone(),
            attempter: recipients.clone(),
            node: "node".into(),
            owned: Owned::default(),
            metrics: self.metrics.clone(),
        };
        run(|shutdown| deliver::run(deliver, shutdown))
    }

    pub fn retry(&self) -> Running {
        let (log, metrics) = (self.log.clone(), self.metrics.clone());
        run(|shutdown| retry::run(log, Owned::default(), metrics, shutdown))
    }

    pub async fn publish(&self, message: MessageRecord) -> Appended {
        self.log.inner.append(codec::message(self.log.layout(), &message)).await.unwrap()
    }

    pub async fn append(&self, topic: Topic, delivery: &DeliveryRecord) -> Appended {
        self.log.inner.append(codec::delivery(self.log.layout(), topic, delivery)).await.unwrap()
    }

    /// Everything in a topic.
    pub async fn records(&self, topic: Topic) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let from = records.last().map_or(0, |record| record.offset + 1);
            match self.log.inner.read(topic, 0, from, 10_000, usize::MAX).await.unwrap() {
                more if more.is_empty() => return records,
                more => records.extend(more),
            }
        }
    }

    pub async fn deliveries(&self, topic: Topic) -> Vec<DeliveryRecord> {
        self.records(topic).await.iter().map(|record| codec::decode_delivery(record).unwrap()).collect()
    }

    pub async fn dead(&self) -> Vec<(DeadReason, DeliveryRecord)> {
        let reason = |delivery: &DeliveryRecord| delivery.dead.as_ref().unwrap().reason();
        self.deliveries(Topic::DeadLetters).await.into_iter().map(|delivery| (reason(&delivery), delivery)).collect()
    }

    pub async fn recorded(&self) -> AttemptBatch {
        let mut all = AttemptBatch::default();
        for record in self.records(Topic::Attempts).await {
            let batch = codec::decode_attempts(&record).unwrap();
            all.attempts.extend(batch.attempts);
            all.messages.extend(batch.messages);
        }
        all
    }

    pub async fn quarantined(&self) -> Vec<QuarantineRecord> {
        self.records(Topic::Quarantine).await.iter().map(|record| codec::decode_quarantine(record).unwrap()).collect()
    }

    /// Whether a group has finished everything that is in a topic.
    pub async fn is_finished(&self, group: &str, topic: Topic) -> bool {
        let next = self.log.bounds(topic, 0).await.unwrap().next;
        let committed = self.log.committed(group, topic, 0).await.unwrap();
        next == 0 || committed.is_some_and(|committed| committed.next == next)
    }
}

fn run<T>(stage: impl FnOnce(CancellationToken) -> T) -> Running
where
    T: Future<Output = Result<(), crate::stage::Error>> + Send + 'static,
{
    let shutdown = CancellationToken::new();
    let running = stage(shutdown.clone());
    Running { shutdown, task: tokio::spawn(async move { running.await.unwrap() }) }
}

pub fn subscription(id: &str) -> String {
    format!("tenants/t/subscriptions/{id}")
}

pub fn message(id: &str) -> MessageRecord {
    MessageRecord {
        tenant: "tenants/t".into(),
        message_id: id.into(),
        event_type: "invoice.paid".into(),
        payload: Bytes::from(format!("{{\"id\":\"{id}\"}}")),
        content_type: "application/json".into(),
        publish_time_ms: now_ms(),
        revision: 1,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        tracestate: "a=b".into(),
        ..Default::default()
    }
}

/// A first delivery, as dispatch makes it.
pub fn delivery(message: &str, to: &str) -> DeliveryRecord {
    let subscription = subscription(to);
    DeliveryRecord {
        delivery_id: name::delivery_id(&format!("tenants/t/messages/{message}"), &subscription, ""),
        subscription,
        message: Some(Place { generation: 1, partition: 0, offset: 0 }),
        message_id: message.into(),
        event_type: "invoice.paid".into(),
        body: Some(Body::Inline(Bytes::from_static(b"{}"))),
        publish_time_ms: now_ms(),
        revision: 1,
        attempt: 1,
        deadline_ms: now_ms() + 60_000,
        ..Default::default()
    }
}
