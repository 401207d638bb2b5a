//! What each process of a run uses.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hookwire_bench::{cpu, memory};
use hookwire_tests::cluster::{Cluster, Member};

use crate::recipients::Recipients;

/// Who uses something, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Nodes,
    ControlPlanes,
    Kafka,
    PostgreSql,
    Recipients,
    Publisher,
}

impl Who {
    pub const ALL: [Self; 6] =
        [Self::Nodes, Self::ControlPlanes, Self::Kafka, Self::PostgreSql, Self::Recipients, Self::Publisher];

    /// What it is called for people, and in JSON.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Nodes => ("the nodes", "nodes"),
            Self::ControlPlanes => ("the control plane", "control_plane"),
            Self::Kafka => ("Kafka", "kafka"),
            Self::PostgreSql => ("PostgreSQL", "postgresql"),
            Self::Recipients => ("the recipients", "recipients"),
            Self::Publisher => ("the publisher", "publisher"),
        }
    }

    /// Whether it is a part of what delivers.
    pub fn is_hookwire(self) -> bool {
        !matches!(self, Self::Recipients | Self::Publisher)
    }
}

/// The processes of a run.
#[derive(Debug)]
pub struct Processes {
    all: Vec<(Who, u32)>,
}

impl Processes {
    pub fn new(cluster: &Cluster, recipients: &Recipients) -> Result<Self> {
        let of = |who: Who, members: &[Member]| -> Result<Vec<_>> {
            members.iter().map(|member| Ok((who, member.process.id().context("it runs")?))).collect()
        };
        let all = [
            of(Who::Nodes, &cluster.nodes)?,
            of(Who::ControlPlanes, &cluster.control_planes)?,
            vec![(Who::Kafka, written("KAFKA_DIR", "data/node-1/pid")?)],
            vec![(Who::PostgreSql, written("PG_DIR", "data/postmaster.pid")?)],
            vec![(Who::Recipients, recipients.id().context("they run")?)],
            vec![(Who::Publisher, std::process::id())],
        ];
        Ok(Self { all: all.concat() })
    }

    /// What each has used since it began. What the publisher has started is not its own.
    pub fn cpu(&self) -> Result<[Duration; Who::ALL.len()]> {
        let mut used = [Duration::ZERO; Who::ALL.len()];
        for &(who, process) in &self.all {
            used[who as usize] += match who {
                Who::Publisher => cpu::of_this_process()?,
                _ => cpu::of_family(process)?,
            };
        }
        Ok(used)
    }

    /// The most memory that any one of them has had resident, in MiB.
    pub fn peak_mib(&self, who: Who) -> Result<f64> {
        let mut peak = 0;
        for (_, process) in self.all.iter().filter(|(of, _)| *of == who) {
            peak = peak.max(memory::peak(*process)?);
        }
        Ok(peak as f64 / (1024.0 * 1024.0))
    }
}

/// The number of a server's process, which is the first line of a file in the directory that a variable names.
fn written(variable: &str, file: &str) -> Result<u32> {
    let directory = std::env::var(variable).with_context(|| format!("{variable} is not set: use scripts/bench"))?;
    let file = PathBuf::from(directory).join(file);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text.lines().next().context("a number")?.trim().parse()?)
}
