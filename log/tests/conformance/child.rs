//! What this program does when a test starts it to kill it: the test below is the child's `main`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hookwire_log::{ConsumerOptions, Log, Partition, Topic, forward};

use crate::backend::{Backend, from_environment};
use crate::support::{append, until};

/// Tells the child what to do, and where to write what it has done.
const ROLE: &str = "HOOKWIRE_CONFORMANCE_CHILD";
const REPORT: &str = "HOOKWIRE_CONFORMANCE_REPORT";

/// A process that works on the log, and reports line by line.
pub struct Process {
    child: Child,
    report: PathBuf,
}

impl Process {
    /// Starts this program again, as a child with a role.
    pub fn start(backend: &dyn Backend, role: &str, dir: &Path) -> Self {
        let report = dir.join("report");
        File::create(&report).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child::child", "--exact", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(REPORT, &report)
            .envs(backend.environment())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, report }
    }

    /// What it has reported so far: numbers, one record a line.
    pub fn report(&self) -> Vec<Vec<i64>> {
        let text = std::fs::read_to_string(&self.report).unwrap();
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete.lines().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect()
    }

    /// Lets it work until it has reported so many lines, then kills it with signal 9.
    pub async fn kill_after(mut self, lines: usize) -> Vec<Vec<i64>> {
        until("the child's work", async || {
            assert!(self.child.try_wait().unwrap().is_none(), "the child ended by itself");
            self.report().len() >= lines
        })
        .await;
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.report()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: other tests start it and kill it"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let backend = from_environment();
    let report = Arc::new(OpenOptions::new().append(true).open(std::env::var(REPORT).unwrap()).unwrap());
    let log = backend.open().await;
    match role.as_str() {
        "append" => append_for_ever(log, report).await,
        "consume" => consume_for_ever(log, report).await,
        role => panic!("{role} is no role"),
    }
}

/// Reports each append when it was acknowledged, and not before: partition, offset, number.
async fn append_for_ever(log: Arc<dyn Log>, report: Arc<File>) {
    let writers = (0..32_i32).map(|writer| {
        let (log, report) = (log.clone(), report.clone());
        tokio::spawn(async move {
            for n in 0.. {
                let number = n * 32 + writer;
                let partition = writer % 4;
                let appended = append(&*log, Topic::Messages, partition, number.to_string()).await;
                (&*report).write_all(format!("{partition} {} {number}\n", appended.offset).as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// Finishes records out of order: every tenth only when twenty have come after it. Reports each before it is finished:
/// partition, offset, time.
async fn consume_for_ever(log: Arc<dyn Log>, report: Arc<File>) {
    let mut consumer = log.join("killed", &[Topic::Deliveries], ConsumerOptions::default()).unwrap();
    while let Some(partition) = consumer.assigned().await {
        tokio::spawn(consume(partition, report.clone()));
    }
}

async fn consume(mut partition: Partition, report: Arc<File>) {
    let finish = |partition: &Partition, offset| {
        let line = format!("{} {offset} {}\n", partition.number(), forward::now_ms());
        (&*report).write_all(line.as_bytes()).unwrap();
        partition.finish(offset);
    };
    while let Some(record) = partition.next().await {
        if record.offset % 10 != 3 {
            finish(&partition, record.offset);
        }
        if record.offset >= 20 && (record.offset - 20) % 10 == 3 {
            finish(&partition, record.offset - 20);
        }
        // The pace of the work.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
