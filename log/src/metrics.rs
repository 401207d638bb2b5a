//! What both planes show to operators, in the text format of OpenMetrics 1.0 which Prometheus reads: how far consumer groups are behind,
//! and what the process uses. Every name begins with `hookwire_`, but for those of the process, which have their usual ones.
//!
//! Labels are bounded: stages, topics, partitions and outcomes, never a tenant, a subscription or a URL.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::forward::now_ms;
use crate::{Bounds, Error, Finisher, Log, Offset, Topic};

/// The content type of a page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How often consumer groups are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// Labels of one name.
pub type Label = [(&'static str, &'static str); 1];

/// A metric with nothing to tell it apart.
pub fn one<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Metrics that differ in a label, all of them there from the beginning, so that the first of something rare is seen as a change.
pub fn each<M: TypedMetric + EncodeMetric + Debug + Clone + Default + Send + Sync + 'static, const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [M; N] {
    let family = Family::<Label, M>::default();
    registry.register(name, help, family.clone());
    values.map(|value| M::clone(&family.get_or_create(&[(label, value)])))
}

/// A histogram of seconds, with these upper bounds.
pub fn seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

/// A registry with what both planes have, and the consumer groups of this process to be told to it.
pub fn registry() -> (Registry, Groups) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let groups = Groups::new(registry.sub_registry_with_prefix("hookwire"));
    (registry, groups)
}

/// The page.
pub fn page(registry: &Registry) -> String {
    let mut page = String::new();
    text::encode(&mut page, registry).expect("a string takes everything");
    page
}

/// Which stage reads which partition of which topic.
type Of = [(&'static str, String); 3];

/// The partitions that the stages of this process own, and how far each is behind. Clones share it.
#[derive(Debug, Clone)]
pub struct Groups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    owned: Mutex<OwnedNow>,
    /// How many owners there have been.
    owners: AtomicU64,
    unfinished: Family<Of, Gauge>,
    oldest: Family<Of, Gauge>,
    failures: Counter,
}

/// What is owned by stage, topic and partition, and the number of its owner: a partition may have come back to this process while the
/// owner from whom it was revoked still ends.
type OwnedNow = BTreeMap<Key, (u64, Finisher)>;
type Key = (&'static str, Topic, i32);

/// A partition that is owned, until this is dropped.
#[derive(Debug)]
pub struct Owned {
    groups: Groups,
    key: Key,
    owner: u64,
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut owned = self.groups.owned();
        if owned.get(&self.key).is_some_and(|(owner, _)| *owner == self.owner) {
            owned.remove(&self.key);
        }
    }
}

impl Default for Groups {
    /// Groups that nobody looks at.
    fn default() -> Self {
        Self::new(&mut Registry::default())
    }
}

impl Groups {
    fn new(registry: &mut Registry) -> Self {
        let unfinished = one(
            registry,
            "unfinished_records",
            "Records of an owned partition that are not finished: read or not, up to its end",
        );
        let oldest = Family::default();
        registry.register_with_unit(
            "oldest_unfinished_age",
            "Age of the oldest of these; 0 if there is none. In a tier of retries this is what its delay wants",
            Unit::Seconds,
            Family::clone(&oldest),
        );
        let failures = one(
            registry,
            "log_look_failures",
            "How often the log did not say where a partition ends, when that was looked at (every 5 s)",
        );
        Self(Arc::new(Inner { owned: Mutex::default(), owners: AtomicU64::new(0), unfinished, oldest, failures }))
    }

    fn owned(&self) -> MutexGuard<'_, OwnedNow> {
        self.0.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stage owns a partition from now on.
    #[must_use]
    pub fn own(&self, stage: &'static str, topic: Topic, number: i32, finisher: Finisher) -> Owned {
        let (key, owner) = ((stage, topic, number), self.0.owners.fetch_add(1, Ordering::Relaxed));
        self.owned().insert(key, (owner, finisher));
        Owned { groups: self.clone(), key, owner }
    }

    /// Looks at them every 5 s, for as long as this runs.
    pub async fn look(self, log: Arc<dyn Log>) {
        let mut shown = Vec::new();
        loop {
            let owned = self.owned().clone();
            let mut ends = HashMap::new();
            let mut now_shown = Vec::new();
            for ((stage, topic, number), (_, finisher)) in owned {
                let of = [
                    ("stage", stage.to_owned()),
                    ("topic", log.layout().name(topic)),
                    ("partition", number.to_string()),
                ];
                let bounds = match ends.get(&(topic, number)) {
                    Some(bounds) => Ok(*bounds),
                    None => log.bounds(topic, number).await,
                };
                let looked = match bounds {
                    Ok(bounds) => {
                        ends.insert((topic, number), bounds);
                        oldest_age_s(&*log, topic, number, &finisher, bounds).await
                    }
                    Err(error) => Err(error),
                };
                match looked {
                    Ok((unfinished, age_s)) => {
                        self.0.unfinished.get_or_create(&of).set(unfinished);
                        self.0.oldest.get_or_create(&of).set(age_s);
                    }
                    // What was seen before stays, and grows no older: the failures say so.
                    Err(_) => _ = self.0.failures.inc(),
                }
                now_shown.push(of);
            }
            for of in shown.iter().filter(|of| !now_shown.contains(of)) {
                self.0.unfinished.remove(of);
                self.0.oldest.remove(of);
            }
            shown = now_shown;
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// How many records are not finished, and how many seconds the oldest has been there.
async fn oldest_age_s(
    log: &dyn Log,
    topic: Topic,
    number: i32,
    finisher: &Finisher,
    bounds: Bounds,
) -> Result<(i64, i64), Error> {
    let (first, unfinished): (Offset, u64) = finisher.unfinished_up_to(bounds.next);
    if unfinished == 0 {
        return Ok((0, 0));
    }
    let record = log.read(topic, number, first.max(bounds.low), 1, 1).await?.into_iter().next();
    let age_ms = record.map_or(0, |record| now_ms().saturating_sub(record.time_ms).max(0));
    Ok((i64::try_from(unfinished).unwrap_or(i64::MAX), age_ms / 1_000))
}

/// What the process uses, by `/proc/self`; nothing where there is none.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<u64>| match value {
            Some(value) => {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
            }
            None => Ok(()),
        };
        gauge("process_resident_memory", "Memory that it has", Some(&Unit::Bytes), resident_bytes())?;
        let open = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        gauge("process_open_fds", "File descriptors that are open, connections among them", None, open)?;
        gauge("process_max_fds", "File descriptors that it may open", None, max_fds())?;
        let cpu = ConstCounter::new(cpu_seconds().unwrap_or_default());
        cpu.encode(encoder.encode_descriptor(
            "process_cpu",
            "Processor time that it has used",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)
    }
}

/// A number in a line of a file of `/proc/self`.
fn number_of(file: &str, line: &str, column: usize) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).ok()?;
    text.lines().find_map(|text| text.strip_prefix(line))?.split_whitespace().nth(column)?.parse().ok()
}

fn resident_bytes() -> Option<u64> {
    number_of("status", "VmRSS:", 0).map(|kib| kib * 1024)
}

fn max_fds() -> Option<u64> {
    number_of("limits", "Max open files", 0)
}

/// User and system time, which Linux tells in ticks: for programs a hundredth of a second on every architecture.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may have spaces in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer;
    use crate::offsets::Committed;

    #[test]
    fn a_partition_that_has_come_back_is_looked_at_when_its_owner_before_ends() {
        let groups = Groups::default();
        let own = || {
            let (_, partition) = consumer::partition(Topic::Deliveries, 3, &Committed::default(), &Default::default());
            groups.own("deliver", Topic::Deliveries, 3, partition.finisher())
        };
        let (before, now) = (own(), own());
        drop(before);
        assert_eq!(groups.owned().len(), 1);
        drop(now);
        assert!(groups.owned().is_empty());
    }

    #[test]
    fn the_page_is_of_the_process_and_ends_as_it_must() {
        let (mut registry, _groups) = registry();
        let counters: [Counter; 2] = each(&mut registry, "things", "Things", "kind", ["one", "other"]);
        counters[1].inc();
        let page = page(&registry);
        for line in ["things_total{kind=\"one\"} 0", "things_total{kind=\"other\"} 1", "# EOF"] {
            assert!(page.lines().any(|is| is == line), "{line} is not in {page}");
        }
        let value = |name: &str| {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{name} is not in {page}"))
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
