//! What this machine can do at the most: requests by a bare HTTP client to the same recipients, records by a bare producer into the same Kafka, and
//! records that go through it twice, as every delivery does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use hookwire_bench::load::{now_us, payload};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::recipients::{Expected, HOSTS, Recipients};

/// Partitions of a topic, as many as ours have.
const PARTITIONS: i32 = 12;
/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Requests a second over a connection for each host.
pub async fn http(recipients: &Recipients, requests: usize, bytes: usize) -> Result<f64> {
    let expected = Expected { messages: requests, fan_out: 1 };
    recipients.expect(expected).await?;
    let mut connections = JoinSet::new();
    for host in 0..HOSTS {
        let address = recipients.address(host);
        connections.spawn(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            for number in (host..requests).step_by(HOSTS) {
                let body = Full::new(Bytes::from(payload(number, now_us(), bytes)));
                let request = Request::post("/0").header("host", &address).body(body)?;
                let response = sender.send_request(request).await?;
                ensure!(response.status().is_success(), "{}", response.status());
            }
            drop(sender);
            anyhow::Ok(connection.await??)
        });
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    recipients.all(expected, PATIENCE).await?;
    Ok(requests as f64 / recipients.seen().await?.span().as_secs_f64())
}

/// Records a second into one topic, and records a second that go on from there into a second one and are read from it.
pub async fn kafka(brokers: &str, records: usize, bytes: usize) -> Result<(f64, f64)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let topics = ["first", "second"].map(|name| format!("bare-{}-{name}", std::process::id()));
    let admin: AdminClient<_> = config.create()?;
    let new: Vec<_> = topics.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
    for made in admin.create_topics(&new, &AdminOptions::new()).await? {
        made.map_err(|(topic, error)| anyhow::anyhow!("{topic}: {error}"))?;
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let rates = tokio::task::block_in_place(|| {
        let produced = produce(&config, &topics[0], records, bytes)?;
        anyhow::Ok((produced, hops(&config, &topics, records, bytes)?))
    });
    admin.delete_topics(&names, &AdminOptions::new()).await?;
    rates
}

fn producer(config: &ClientConfig) -> Result<ThreadedProducer<DefaultProducerContext>> {
    let mut config = config.clone();
    // Ours waits for nothing, and this for as long as it is worth it: it is the ceiling.
    config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "5");
    Ok(config.set("queue.buffering.max.messages", "1000000").create()?)
}

fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, number: usize, value: &[u8]) -> Result<()> {
    let partition = i32::try_from(number)? % PARTITIONS;
    let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(value);
    producer.send(record).map_err(|(error, _)| error.into())
}

fn produce(config: &ClientConfig, topic: &str, records: usize, bytes: usize) -> Result<f64> {
    let producer = producer(config)?;
    send(&producer, topic, 0, b"the first asks where everything is")?;
    producer.flush(PATIENCE)?;
    let began = Instant::now();
    for number in 0..records {
        send(&producer, topic, number, payload(number, 0, bytes).as_bytes())?;
    }
    producer.flush(PATIENCE)?;
    Ok(records as f64 / began.elapsed().as_secs_f64())
}

fn hops(config: &ClientConfig, topics: &[String; 2], records: usize, bytes: usize) -> Result<f64> {
    let (first, second) = (consumer(config, &topics[0])?, consumer(config, &topics[1])?);
    let (out, on) = (producer(config)?, producer(config)?);
    let passed = AtomicUsize::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        let forward = scope.spawn(|| -> Result<()> {
            while passed.load(Ordering::Relaxed) < records {
                let Some(record) = first.poll(Duration::from_millis(10)) else { continue };
                let record = record?;
                send(&on, &topics[1], usize::try_from(record.offset())?, record.payload().unwrap_or_default())?;
            }
            Ok(())
        });
        let count = scope.spawn(|| -> Result<()> {
            while passed.load(Ordering::Relaxed) < records {
                ensure!(began.elapsed() < PATIENCE, "{passed:?} have passed");
                if let Some(record) = second.poll(Duration::from_millis(10)) {
                    record?;
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        for number in 0..records {
            send(&out, &topics[0], number, payload(number, 0, bytes).as_bytes())?;
        }
        for thread in [forward, count] {
            thread.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(records as f64 / began.elapsed().as_secs_f64())
}

/// Reads what comes from now on.
fn consumer(config: &ClientConfig, topic: &str) -> Result<BaseConsumer<DefaultConsumerContext>> {
    let mut config = config.clone();
    let consumer: BaseConsumer = config.set("group.id", "bare").set("enable.auto.commit", "false").create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let (_, next) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
        partitions.add_partition_offset(topic, partition, Offset::Offset(next))?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}
