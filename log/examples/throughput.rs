//! Prints how many durable appends a second the embedded log makes, and how long a record takes to a consumer:
//! `cargo run --release -p hookwire-log --example throughput [directory]`.

#![allow(clippy::print_stdout, reason = "it is what it is for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookwire_log::embedded::{EmbeddedLog, Settings};
use hookwire_log::{ConsumerOptions, Layout, Log, NewRecord, Topic};

const FOR: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from).join("hookwire-throughput");
    println!("writers  appends/s  p50 µs  p99 µs   (1 KB, fsync)");
    for writers in [1_000, 64, 1] {
        let log = EmbeddedLog::open(Settings { dir: dir.clone(), ..Settings::default() }, Layout::default())?;
        append(log.clone(), writers).await?;
        log.close().await;
        std::fs::remove_dir_all(&dir)?;
    }
    let log = EmbeddedLog::open(Settings { dir: dir.clone(), ..Settings::default() }, Layout::default())?;
    arrive(log.clone()).await?;
    log.close().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn record(partition: usize, value: Bytes) -> NewRecord {
    let partition = i32::try_from(partition % 12).unwrap_or_default();
    NewRecord { topic: Topic::Messages, partition, key: Bytes::from_static(b"key"), value }
}

async fn append(log: Arc<EmbeddedLog>, writers: usize) -> anyhow::Result<()> {
    let value = Bytes::from((0..1_024u32).map(|n| ((n * n * 31) >> 3) as u8).collect::<Vec<_>>());
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (log, count, value) = (log.clone(), count.clone(), value.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < FOR {
                    let before = Instant::now();
                    log.append(record(writer, value.clone())).await?;
                    took.push(before.elapsed());
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, hookwire_log::Error>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    println!("{writers:>7}  {rate:>9.0}  {:>6}  {:>6}", percentile(&mut took, 50), percentile(&mut took, 99));
    Ok(())
}

/// From before the append to the consumer, and from its acknowledgement, one record at a time.
async fn arrive(log: Arc<EmbeddedLog>) -> anyhow::Result<()> {
    let mut consumer = log.join("throughput", &[Topic::Messages], ConsumerOptions::default())?;
    let mut partition = loop {
        match consumer.assigned().await {
            Some(partition) if partition.number() == 0 => break partition,
            Some(_) => {}
            None => anyhow::bail!("the log was closed"),
        }
    };
    let mut took = Vec::new();
    for _ in 0..2_000 {
        let before = Instant::now();
        let appended = log.append(record(0, Bytes::from_static(&[7; 1_024])));
        let received = partition.next().await;
        took.push(before.elapsed());
        appended.await?;
        if let Some(record) = received {
            partition.finish(record.offset);
        }
    }
    println!("append to arrival: p50 {} µs, p99 {} µs", percentile(&mut took, 50), percentile(&mut took, 99));
    drop(partition);
    consumer.leave().await;
    Ok(())
}

fn percentile(took: &mut [Duration], percent: usize) -> u128 {
    took.sort_unstable();
    took.get(took.len() * percent / 100).map_or(0, Duration::as_micros)
}
