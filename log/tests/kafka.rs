//! What only Kafka has: topics to make and check, a network, brokers that die, librdkafka's ways. What every log must do is in
//! `conformance`.
//!
//! * `HOOKWIRE_TEST_KAFKA`: bootstrap servers of a broker for tests
//! * `HOOKWIRE_TEST_KAFKA_TLS`, `HOOKWIRE_TEST_KAFKA_CA`: its listener with TLS and SCRAM (user `hookwire`, password `secret`),
//!   and the certificates that sign it
//! * `HOOKWIRE_TEST_KAFKA_SCRIPT`: the script that starts and kills brokers; `KAFKA_DIR`, where it has installed Kafka

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookwire_log::kafka::topics::Change;
use hookwire_log::kafka::{KafkaLog, Sasl, Settings, Tls, topics};
use hookwire_log::{Consumer, ConsumerOptions, Error, Layout, Log, NewRecord, Partition, Topic};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, TopicPartitionList};
use tracing_subscriber::EnvFilter;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A variable of the environment, or the reason why a test is not run.
fn environment(name: &str) -> Option<String> {
    // With RUST_LOG, a test that fails says more.
    let _ = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_test_writer().try_init();
    let value = std::env::var(name).ok();
    if value.is_none() {
        eprintln!("not run: {name} is not set");
    }
    value
}

fn settings(brokers: &str) -> Settings {
    Settings { brokers: brokers.split(',').map(str::to_owned).collect(), ..Settings::default() }
}

/// Topics of a test's own.
fn layout() -> Layout {
    Layout {
        prefix: format!("test-{}", uuid::Uuid::now_v7().simple()),
        messages_partitions: 4,
        deliveries_partitions: 2,
        retries_partitions: 1,
        attempts_partitions: 1,
        retry_tiers: vec![Duration::from_secs(1)],
        ..Layout::default()
    }
}

async fn open(settings: &Settings, layout: &Layout) -> Arc<KafkaLog> {
    topics::apply(settings, layout).await.unwrap();
    KafkaLog::open(settings.clone(), Arc::new(layout.clone())).await.unwrap()
}

fn new(topic: Topic, partition: i32, value: impl Into<Bytes>) -> NewRecord {
    NewRecord { topic, partition, key: Bytes::from_static(b"key"), value: value.into() }
}

async fn append_many(log: &KafkaLog, partition: i32, count: usize) {
    let pending: Vec<_> = (0..count).map(|n| log.append(new(Topic::Messages, partition, n.to_string()))).collect();
    for pending in pending {
        pending.await.unwrap();
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

async fn assigned(consumer: &mut Consumer) -> Partition {
    within("a partition", consumer.assigned()).await.expect("the member has not left")
}

async fn expire(brokers: &str, layout: &Layout, partition: i32, below: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    let below = rdkafka::Offset::Offset(below);
    offsets.add_partition_offset(&layout.name(Topic::Messages), partition, below).unwrap();
    admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_then_left_alone() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let (settings, layout) = (settings(&brokers), layout());
    let missing = topics::check(&settings, &layout).await.unwrap_err().to_string();
    assert!(missing.contains("messages is missing") && missing.contains("`hookwire topics apply`"), "{missing}");
    let made = topics::apply(&settings, &layout).await.unwrap();
    assert!(made.len() == 8 && made.iter().all(|report| report.change == Change::Created), "{made:?}");
    topics::check(&settings, &layout).await.unwrap();
    let again = topics::apply(&settings, &layout).await.unwrap();
    assert!(again.len() == 8 && again.iter().all(|report| report.change == Change::Unchanged), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_is_lengthened_and_never_shortened() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let (mut settings, layout) = (settings(&brokers), layout());
    topics::apply(&settings, &layout).await.unwrap();
    settings.retention.attempts *= 2;
    let refused = KafkaLog::open(settings.clone(), Arc::new(layout.clone())).await.unwrap_err().to_string();
    assert!(refused.contains("attempts has retention.ms = 604800000 and not 1209600000"), "{refused}");
    let changes: Vec<_> = topics::apply(&settings, &layout)
        .await
        .unwrap()
        .into_iter()
        .filter(|report| report.change != Change::Unchanged)
        .map(|report| report.to_string())
        .collect();
    let name = layout.name(Topic::Attempts);
    assert_eq!(changes, [format!("{name} (1 partitions): changed retention.ms: 604800000 -> 1209600000")]);
    settings.retention.attempts /= 2;
    let reports = topics::apply(&settings, &layout).await.unwrap();
    assert!(reports.iter().all(|report| report.change == Change::Unchanged), "{reports:?}");
    KafkaLog::open(settings, Arc::new(layout)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_partitions_is_refused() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let (settings, layout) = (settings(&brokers), layout());
    topics::apply(&settings, &layout).await.unwrap();
    let grown = Layout { messages_partitions: 5, ..layout };
    let applied = topics::apply(&settings, &grown).await.map(drop);
    let opened = KafkaLog::open(settings, Arc::new(grown)).await.map(drop);
    for refused in [applied, opened] {
        let Err(Error::Mismatch { detail }) = refused else { panic!("{refused:?}") };
        assert!(detail.contains("messages has 4 partitions and not 5"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_copies_than_brokers_are_refused() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let settings = Settings { replication_factor: Some(99), ..settings(&brokers) };
    let refused = topics::apply(&settings, &layout()).await;
    assert!(matches!(refused, Err(Error::Setting { setting: "kafka.replication_factor", .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_drained_holds_up_no_other() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let layout = layout();
    let log = open(&settings(&brokers), &layout).await;
    let mut first = log.join("drain", &[Topic::Messages], ConsumerOptions::default()).unwrap();
    let mut owned = BTreeMap::new();
    while owned.len() < 4 {
        let partition = assigned(&mut first).await;
        owned.insert(partition.number(), partition);
    }
    let mut second = log.join("drain", &[Topic::Messages], ConsumerOptions::default()).unwrap();
    within("a revocation", async {
        while owned.values().all(|partition| !is_revoked(partition)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let (draining, mut kept): (Vec<_>, Vec<_>) = owned.into_values().partition(is_revoked);
    assert_eq!((draining.len(), kept.len()), (2, 2));
    // Long after librdkafka has stopped the member's partitions, and while the drain goes on.
    for round in 0..20 {
        for partition in &mut kept {
            let number = partition.number();
            log.append(new(Topic::Messages, number, round.to_string())).await.unwrap();
            let began = Instant::now();
            let record = within("a record of a partition that is kept", partition.next()).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            assert_eq!((record.offset, &record.value[..]), (round, round.to_string().as_bytes()));
            assert!(partition.may_begin());
            partition.finish(record.offset);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(tokio::time::timeout(Duration::ZERO, second.assigned()).await.is_err(), "held until it is drained");
    let mut moved: Vec<_> = draining.iter().map(Partition::number).collect();
    drop(draining);
    let mut taken = vec![assigned(&mut second).await.number(), assigned(&mut second).await.number()];
    taken.sort_unstable();
    moved.sort_unstable();
    assert_eq!(moved, taken);
    drop(kept);
    log.close().await;
}

fn is_revoked(partition: &Partition) -> bool {
    futures::FutureExt::now_or_never(partition.revoked()).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_buffers_pause_and_resume_without_gaps_or_repeats() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let log = open(&settings(&brokers), &layout()).await;
    for partition in 0..4 {
        append_many(&log, partition, 5_000).await;
    }
    let options = ConsumerOptions { max_buffered_records: 50, ..ConsumerOptions::default() };
    let mut consumer = log.join("small", &[Topic::Messages], options).unwrap();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut partition = assigned(&mut consumer).await;
        readers.push(tokio::spawn(async move {
            for offset in 0..5_000 {
                let record = partition.next().await.unwrap();
                assert_eq!((record.offset, &record.value[..]), (offset, offset.to_string().as_bytes()));
                partition.finish(offset);
            }
            partition
        }));
    }
    for reader in readers {
        drop(within("all records", reader).await.unwrap());
    }
    assert_eq!(log.lost_records(), 0);
    log.close().await;
    for partition in 0..4 {
        let log = open(&settings(&brokers), log.layout()).await;
        let committed = log.committed("small", Topic::Messages, partition).await.unwrap().unwrap();
        assert_eq!(committed.next, 5_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_takes_before_it_is_read_is_counted_and_passed() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let layout = layout();
    let log = open(&settings(&brokers), &layout).await;
    append_many(&log, 0, 1_000).await;
    let options = ConsumerOptions { max_buffered_records: 10, ..ConsumerOptions::default() };
    let mut consumer = log.join("late", &[Topic::Messages], options).unwrap();
    let mut partition = assigned(&mut consumer).await;
    while partition.number() != 0 {
        partition = assigned(&mut consumer).await;
    }
    // Ten are read ahead, at least; the rest is taken while they wait.
    let first = within("the first", partition.next()).await.unwrap();
    assert_eq!(first.offset, 0);
    expire(&brokers, &layout, 0, 900).await;
    let mut offsets = vec![0];
    while offsets.last() != Some(&999) {
        offsets.push(within("the rest", partition.next()).await.unwrap().offset);
    }
    let lost = 1_000 - offsets.len();
    assert!(offsets.is_sorted() && lost > 500 && offsets.ends_with(&(900..1_000).collect::<Vec<_>>()), "{offsets:?}");
    assert_eq!(log.lost_records(), u64::try_from(lost).unwrap());
    drop((partition, consumer));
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_and_not_finished_is_committed_as_such() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let log = open(&settings(&brokers), &layout()).await;
    append_many(&log, 2, 10).await;
    let mut consumer = log.join("open", &[Topic::Messages], ConsumerOptions::default()).unwrap();
    let mut partition = assigned(&mut consumer).await;
    while partition.number() != 2 {
        partition = assigned(&mut consumer).await;
    }
    for _ in 0..10 {
        let offset = within("a record", partition.next()).await.unwrap().offset;
        if ![3, 7].contains(&offset) {
            partition.finish(offset);
        }
    }
    within("the commit", async {
        loop {
            let committed = log.committed("open", Topic::Messages, 2).await.unwrap();
            if committed.is_some_and(|committed| {
                committed.horizon == 10 && committed.unfinished == [3..4, 7..8].into_iter().collect()
            }) {
                return;
            }
        }
    })
    .await;
    drop((partition, consumer));
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_longer_than_the_groups_patience_is_refused() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA") else { return };
    let log = open(&settings(&brokers), &layout()).await;
    let options = ConsumerOptions { drain_timeout: Duration::from_secs(3_600), ..ConsumerOptions::default() };
    let refused = log.join("slow", &[Topic::Messages], options).unwrap_err();
    assert!(matches!(refused, Error::Setting { setting: "kafka.max_poll_interval", .. }), "{refused}");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_over_tls_with_scram_works_and_a_wrong_password_does_not() {
    let Some(brokers) = environment("HOOKWIRE_TEST_KAFKA_TLS") else { return };
    let Some(ca_file) = environment("HOOKWIRE_TEST_KAFKA_CA") else { return };
    let password_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&password_file, "secret\n").unwrap();
    let sasl =
        Sasl { user: "hookwire".into(), password_file: Some(password_file.path().to_owned()), ..Sasl::default() };
    let tls = Tls { ca_file: Some(ca_file.into()), ..Tls::default() };
    let secure = Settings { tls: Some(tls), sasl: Some(sasl), ..settings(&brokers) };
    let layout = layout();
    let log = open(&secure, &layout).await;
    let at = log.append(new(Topic::Messages, 1, "sealed")).await.unwrap();
    let read = log.read(Topic::Messages, 1, at.offset, 1, 100).await.unwrap();
    assert_eq!(read[0].value, "sealed");
    let mut consumer = log.join("secure", &[Topic::Messages], ConsumerOptions::default()).unwrap();
    let mut partition = assigned(&mut consumer).await;
    while partition.number() != 1 {
        partition = assigned(&mut consumer).await;
    }
    assert_eq!(within("the record", partition.next()).await.unwrap().value, "sealed");
    drop((partition, consumer));
    log.close().await;

    std::fs::write(&password_file, "guess\n").unwrap();
    let refused = KafkaLog::open(secure, Arc::new(layout)).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
}

/// A broker of a test's own, for it to kill.
struct Broker {
    script: String,
    dir: tempfile::TempDir,
    port: u16,
}

impl Broker {
    fn start() -> Option<Self> {
        let script = environment("HOOKWIRE_TEST_KAFKA_SCRIPT")?;
        let installed = environment("KAFKA_DIR")?;
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&installed).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("libs-") {
                std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        let broker = Self { script, dir, port: free_ports() };
        broker.run(&["start"]);
        Some(broker)
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new(Path::new(&self.script))
            .args(arguments)
            .env("KAFKA_DIR", self.dir.path())
            .env("KAFKA_PORT", self.port.to_string())
            .env("KAFKA_JVM", "-XX:TieredStopAtLevel=1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.run(&["wipe"]);
    }
}

/// The first of three ports that are free, one after another.
fn free_ports() -> u16 {
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 65_000 && (port..port + 3).all(is_free) {
            return port;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_under_load_loses_nothing_that_was_acknowledged() {
    let Some(broker) = tokio::task::spawn_blocking(Broker::start).await.unwrap() else { return };
    let settings = settings(&format!("127.0.0.1:{}", broker.port));
    let layout = layout();
    let log = open(&settings, &layout).await;
    let mut consumer = log.join("killed", &[Topic::Messages], ConsumerOptions::default()).unwrap();
    let (seen, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let progress = Arc::new(AtomicUsize::new(0));
    let arrived = progress.clone();
    let consuming = tokio::spawn(async move {
        while let Some(mut partition) = consumer.assigned().await {
            let (seen, arrived) = (seen.clone(), arrived.clone());
            tokio::spawn(async move {
                while let Some(record) = partition.next().await {
                    let _ = seen.send((record.partition, record.offset, record.value.clone()));
                    partition.finish(record.offset);
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let writing = {
        let log = log.clone();
        tokio::spawn(async move {
            let mut acknowledged = BTreeMap::new();
            let mut failed = 0;
            for batch in 0..300 {
                let value = |n: i32| format!("{batch}/{n}");
                let pending: Vec<_> = (0..20).map(|n| (n, log.append(new(Topic::Messages, n % 4, value(n))))).collect();
                for (n, pending) in pending {
                    match pending.await {
                        Ok(at) => drop(acknowledged.insert((at.partition, at.offset), value(n))),
                        Err(Error::Unavailable { .. }) => failed += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (acknowledged, failed)
        })
    };
    let broker = tokio::task::spawn_blocking(move || {
        for arrived in [500, 3_000] {
            while progress.load(Ordering::Relaxed) < arrived {
                std::thread::sleep(Duration::from_millis(1));
            }
            broker.run(&["kill", "1"]);
            broker.run(&["start"]);
        }
        broker
    })
    .await
    .unwrap();
    let (acknowledged, failed) = within("the writer", writing).await.unwrap();
    let mut there = BTreeMap::new();
    within("all that was acknowledged", async {
        while !acknowledged.keys().all(|place| there.contains_key(place)) {
            let (partition, offset, value) = arrivals.recv().await.unwrap();
            there.insert((partition, offset), value);
        }
    })
    .await;
    let wrong: Vec<_> = acknowledged.iter().filter(|(place, value)| there[*place] != value.as_bytes()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(acknowledged.len() + failed == 6_000 && acknowledged.len() > 5_000, "{} + {failed}", acknowledged.len());
    eprintln!("{} acknowledged and there, {failed} failed", acknowledged.len());
    log.close().await;
    within("the consumer's end", consuming).await.unwrap();
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}
