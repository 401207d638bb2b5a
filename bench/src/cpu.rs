//! The time that processes have used, as Linux counts it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Ticks of a second in `/proc`: the same on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// Measures what something takes.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    server: Option<u32>,
}

/// What something took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From the beginning to the end.
    pub time: Duration,
    /// CPU of this process.
    pub own: Duration,
    /// CPU of the server and all that it has started.
    pub server: Duration,
}

/// When something began, and what had been used by then.
#[derive(Debug)]
pub struct Began {
    meter: Meter,
    at: Instant,
    own: Duration,
    server: Duration,
}

impl Meter {
    /// Of this process, and of a server by its first process, if there is one.
    pub fn new(server: Option<u32>) -> Self {
        Self { server }
    }

    /// Begins.
    ///
    /// # Errors
    /// Where there is no `/proc`, or no such server.
    pub fn begin(self) -> Result<Began> {
        Ok(Began { meter: self, own: of_this_process()?, server: self.of_server()?, at: Instant::now() })
    }

    fn of_server(self) -> Result<Duration> {
        self.server.map_or(Ok(Duration::ZERO), of_family)
    }
}

impl Began {
    /// What it has taken since.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn took(&self) -> Result<Took> {
        let time = self.at.elapsed();
        let (own, server) = (of_this_process()?, self.meter.of_server()?);
        Ok(Took { time, own: own.saturating_sub(self.own), server: server.saturating_sub(self.server) })
    }
}

/// What this process has used.
///
/// # Errors
/// Where there is no `/proc`.
pub fn of_this_process() -> Result<Duration> {
    Ok(Stat::read("self")?.own)
}

/// What a process and all that it has started have used; those that are gone count as far as it has waited for them.
///
/// # Errors
/// When there is no such process.
pub fn of_family(parent: u32) -> Result<Duration> {
    let stat = Stat::read(&parent.to_string())?;
    let mut used = stat.own + stat.children;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // It may end while this reads.
        let Ok(child) = Stat::read(&name.to_string_lossy()) else { continue };
        if child.parent == parent {
            used += child.own;
        }
    }
    Ok(used)
}

/// The process that has started another.
///
/// # Errors
/// When there is no such process.
pub fn parent_of(process: u32) -> Result<u32> {
    Ok(Stat::read(&process.to_string())?.parent)
}

struct Stat {
    parent: u32,
    own: Duration,
    children: Duration,
}

impl Stat {
    fn read(process: &str) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in parentheses may hold anything.
        let (_, rest) = text.rsplit_once(')').context("a name in parentheses")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |index: usize| -> Result<u64> { Ok(fields.get(index).context("a field")?.parse()?) };
        let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS);
        Ok(Self {
            parent: u32::try_from(field(1)?)?,
            own: time(field(11)? + field(12)?),
            children: time(field(13)? + field(14)?),
        })
    }
}
