//! Making and checking the topics.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::config::{MAX_BATCH_BYTES, MAX_QUARANTINE_BATCH_BYTES, Settings, ms};
use super::context::Voice;
use super::{blocking, unavailable};
use crate::topic::IDS_RETENTION;
use crate::{Error, Layout, Topic};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at whether a change has reached the brokers.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What [`apply`] did to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its name.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// What was done.
    pub change: Change,
}

/// What was done to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was missing.
    Created,
    /// These of its settings were changed, as `name: old -> new`.
    Altered(Vec<String>),
    /// It was as it should be.
    Unchanged,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} partitions): ", self.topic, self.partitions)?;
        match &self.change {
            Change::Created => f.write_str("created"),
            Change::Altered(settings) => write!(f, "changed {}", settings.join(", ")),
            Change::Unchanged => f.write_str("unchanged"),
        }
    }
}

/// Makes the topics that are missing and corrects the settings of the others where that is safe: retention is only ever
/// lengthened, and partitions are never added, since that would move keys to other partitions.
///
/// # Errors
/// [`Error::Setting`]; [`Error::Mismatch`] for what can't be changed, and then nothing is; [`Error::Unavailable`].
pub async fn apply(settings: &Settings, layout: &Layout) -> Result<Vec<Report>, Error> {
    let admin = Admin::open(settings, layout)?;
    let cluster = admin.cluster().await?;
    let copies = Copies::of(settings, cluster.brokers);
    if copies.replication > cluster.brokers {
        return Err(Error::Setting {
            setting: "kafka.replication_factor",
            detail: format!(
                "{} copies need as many brokers, and there are {}: start more, or write replication_factor = {1} and \
                 min_insync_replicas = 1",
                copies.replication, cluster.brokers
            ),
        });
    }
    let wanted = wanted(settings, layout, copies);
    let fixed: Vec<_> = wanted.iter().filter_map(|topic| topic.wrong_shape(cluster.topics.get(&topic.name))).collect();
    if !fixed.is_empty() {
        return Err(Error::Mismatch { detail: fixed.join("; ") });
    }

    let (there, missing): (Vec<_>, Vec<_>) = wanted.iter().partition(|topic| cluster.topics.contains_key(&topic.name));
    admin.create(&missing, copies).await?;
    let mut changes: HashMap<&str, Change> =
        missing.iter().map(|topic| (topic.name.as_str(), Change::Created)).collect();
    for (topic, config) in there.iter().zip(admin.configs(&there).await?) {
        let differences = topic.differences(&config);
        if !differences.is_empty() {
            admin.alter(&topic.name, &config, &differences).await?;
            let altered = differences.iter().map(Difference::to_string).collect();
            changes.insert(&topic.name, Change::Altered(altered));
        }
    }
    if !changes.is_empty() {
        admin.settled(&wanted).await?;
    }
    let report = |topic: &Wanted| Report {
        topic: topic.name.clone(),
        partitions: topic.partitions,
        change: changes.remove(topic.name.as_str()).unwrap_or(Change::Unchanged),
    };
    Ok(wanted.iter().map(report).collect())
}

/// Checks that the topics are as the layout and the settings say.
///
/// # Errors
/// [`Error::Setting`]; [`Error::Mismatch`], which says all that differs and what to do; [`Error::Unavailable`].
pub async fn check(settings: &Settings, layout: &Layout) -> Result<(), Error> {
    let admin = Admin::open(settings, layout)?;
    let brokers = admin.cluster().await?.brokers;
    admin.check(&wanted(settings, layout, Copies::of(settings, brokers))).await
}

/// How often each record is stored.
#[derive(Debug, Clone, Copy)]
struct Copies {
    replication: i32,
    min_insync: i32,
}

impl Copies {
    /// A single broker is somebody's laptop; with more, one may die without loss or standstill.
    fn of(settings: &Settings, brokers: i32) -> Self {
        let replication = settings.replication_factor.unwrap_or(if brokers == 1 { 1 } else { 3 });
        let min_insync = settings.min_insync_replicas.unwrap_or(if replication == 1 { 1 } else { 2 });
        Self { replication, min_insync }
    }
}

/// A topic as it should be.
#[derive(Debug)]
struct Wanted {
    name: String,
    partitions: i32,
    replication: i32,
    config: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Exactly(String),
    /// Or -1, which is no limit.
    AtLeast(i64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(value) => f.write_str(value),
            Self::AtLeast(value) => write!(f, "{value}"),
        }
    }
}

impl Value {
    fn is_met(&self, actual: &str) -> bool {
        match self {
            Self::Exactly(value) => actual == value,
            Self::AtLeast(value) => actual.parse::<i64>().is_ok_and(|actual| actual == -1 || actual >= *value),
        }
    }
}

fn wanted(settings: &Settings, layout: &Layout, copies: Copies) -> Vec<Wanted> {
    let exactly = |value: &str| Value::Exactly(value.into());
    let at_least = |value: usize| Value::AtLeast(i64::try_from(value).unwrap_or(i64::MAX));
    let topic = |topic: Topic| {
        let limit = if topic == Topic::Quarantine { MAX_QUARANTINE_BATCH_BYTES } else { MAX_BATCH_BYTES };
        let mut config = vec![
            // Delays and positions by time rely on it.
            ("message.timestamp.type", exactly("LogAppendTime")),
            ("max.message.bytes", at_least(limit)),
            ("min.insync.replicas", Value::AtLeast(copies.min_insync.into())),
            ("unclean.leader.election.enable", exactly("false")),
            ("cleanup.policy", exactly(if topic == Topic::Held { "compact" } else { "delete" })),
        ];
        let retention = match topic {
            Topic::Held => None,
            Topic::Messages | Topic::Deliveries | Topic::Retries(_) => Some(settings.retention.messages),
            Topic::DeadLetters => Some(settings.retention.dead_letters),
            Topic::Attempts => Some(settings.retention.attempts),
            Topic::Ids => Some(IDS_RETENTION),
            Topic::Quarantine => Some(settings.retention.quarantine),
        };
        if let Some(retention) = retention {
            let retention = ms(retention).parse().unwrap_or(i64::MAX);
            config.push(("retention.ms", Value::AtLeast(retention)));
            // By time only: by size, a flood of one tenant would delete what others wait for.
            config.push(("retention.bytes", exactly("-1")));
        }
        Wanted {
            name: layout.name(topic),
            partitions: layout.partitions(topic),
            replication: copies.replication,
            config,
        }
    };
    layout.topics().into_iter().map(topic).collect()
}

impl Wanted {
    /// What can't be changed and is not as it should be.
    fn wrong_shape(&self, shape: Option<&Shape>) -> Option<String> {
        let shape = shape?;
        if shape.partitions != self.partitions {
            return Some(format!(
                "{} has {} partitions and not {}, which can't be changed, since it would move keys: set the count to {1}, or a \
                 new log.generation",
                self.name, shape.partitions, self.partitions
            ));
        }
        (shape.replication < self.replication).then(|| {
            format!(
                "{} has {} copies and not {}: add replicas with kafka-reassign-partitions, or set kafka.replication_factor \
                 to {1}",
                self.name, shape.replication, self.replication
            )
        })
    }

    fn differences(&self, config: &ConfigResource) -> Vec<Difference<'_>> {
        let difference = |(name, wanted): &(&'static str, Value)| {
            let actual = config.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
            let differs = !wanted.is_met(&actual);
            differs.then(|| Difference { topic: &self.name, name, actual, wanted: wanted.to_string() })
        };
        self.config.iter().filter_map(difference).collect()
    }
}

/// A setting of a topic that is not as it should be.
struct Difference<'a> {
    topic: &'a str,
    name: &'static str,
    actual: String,
    wanted: String,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.name, self.actual, self.wanted)
    }
}

/// What is there.
struct Cluster {
    brokers: i32,
    topics: HashMap<String, Shape>,
}

struct Shape {
    partitions: i32,
    replication: i32,
}

struct Admin {
    client: std::sync::Arc<AdminClient<Voice>>,
}

impl Admin {
    fn open(settings: &Settings, layout: &Layout) -> Result<Self, Error> {
        settings.validate()?;
        layout.validate()?;
        let client: AdminClient<Voice> =
            settings.client()?.create_with_context(Voice::new("admin")).map_err(|error| unavailable(&error))?;
        Ok(Self { client: client.into() })
    }

    async fn cluster(&self) -> Result<Cluster, Error> {
        let client = self.client.clone();
        blocking(move || {
            // All topics: to ask for one by its name may create it.
            let metadata = client.inner().fetch_metadata(None, TIMEOUT).map_err(|error| unavailable(&error))?;
            let length = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
            let shape = |topic: &rdkafka::metadata::MetadataTopic| {
                let copies = topic.partitions().iter().map(|partition| partition.replicas().len()).min();
                let partitions = length(topic.partitions().len());
                (topic.name().to_owned(), Shape { partitions, replication: length(copies.unwrap_or_default()) })
            };
            let topics = metadata.topics().iter().map(shape).filter(|(_, shape)| shape.partitions > 0).collect();
            Ok(Cluster { brokers: length(metadata.brokers().len()), topics })
        })
        .await
    }

    async fn create(&self, missing: &[&Wanted], copies: Copies) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        let values: Vec<Vec<_>> = missing
            .iter()
            .map(|topic| topic.config.iter().map(|(name, value)| (*name, value.to_string())).collect())
            .collect();
        let new: Vec<_> = missing
            .iter()
            .zip(&values)
            .map(|(topic, values)| {
                let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(copies.replication));
                values.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        for result in self.client.create_topics(&new, &options()).await.map_err(|error| unavailable(&error))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(failed("create", &topic, code)),
            }
        }
        Ok(())
    }

    /// The settings of topics, in their order.
    async fn configs(&self, topics: &[&Wanted]) -> Result<Vec<ConfigResource>, Error> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        let mut found = HashMap::new();
        for result in self.client.describe_configs(&asked, &options()).await.map_err(|error| unavailable(&error))? {
            let config = result.map_err(|code| unavailable(&KafkaError::AdminOp(code)))?;
            if let OwnedResourceSpecifier::Topic(name) = &config.specifier {
                found.insert(name.clone(), config);
            }
        }
        let missing = |name: &str| Error::Unavailable { detail: format!("the brokers do not describe {name}") };
        topics.iter().map(|topic| found.remove(&topic.name).ok_or_else(|| missing(&topic.name))).collect()
    }

    async fn alter(&self, topic: &str, config: &ConfigResource, differences: &[Difference<'_>]) -> Result<(), Error> {
        // The request replaces all that is set for the topic: what others have set must be said again.
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for entry in config.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic) {
            if let Some(value) = &entry.value {
                alter = alter.set(&entry.name, value);
            }
        }
        for difference in differences {
            alter = alter.set(difference.name, &difference.wanted);
        }
        for result in self.client.alter_configs([&alter], &options()).await.map_err(|error| unavailable(&error))? {
            result.map_err(|(_, code)| failed("alter", topic, code))?;
        }
        Ok(())
    }

    async fn check(&self, wanted: &[Wanted]) -> Result<(), Error> {
        let cluster = self.cluster().await?;
        let (there, missing): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|topic| cluster.topics.contains_key(&topic.name));
        let mut wrong: Vec<_> =
            there.iter().filter_map(|topic| topic.wrong_shape(cluster.topics.get(&topic.name))).collect();
        let mut to_apply: Vec<_> = missing.iter().map(|topic| format!("{} is missing", topic.name)).collect();
        for (topic, config) in there.iter().zip(self.configs(&there).await?) {
            let describe = |difference: &Difference<'_>| {
                let Difference { topic, name, actual, wanted } = difference;
                format!("{topic} has {name} = {actual} and not {wanted}")
            };
            to_apply.extend(topic.differences(&config).iter().map(describe));
        }
        if !to_apply.is_empty() {
            wrong.push(format!("{}: run `hookwire topics apply`", to_apply.join("; ")));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::Mismatch { detail: wrong.join("; ") }) }
    }

    /// Waits until the brokers have heard of all that was changed.
    async fn settled(&self, wanted: &[Wanted]) -> Result<(), Error> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.check(wanted).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

fn failed(what: &str, topic: &str, code: RDKafkaErrorCode) -> Error {
    Error::Unavailable { detail: format!("could not {what} {topic}: {code}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_broker_means_three_copies() {
        let settings = Settings::default();
        let copies = |settings: &Settings, brokers| {
            let Copies { replication, min_insync } = Copies::of(settings, brokers);
            (replication, min_insync)
        };
        assert_eq!(copies(&settings, 1), (1, 1));
        assert_eq!(copies(&settings, 2), (3, 2));
        assert_eq!(copies(&settings, 9), (3, 2));
        assert_eq!(copies(&Settings { replication_factor: Some(1), ..settings }, 9), (1, 1));
    }

    #[test]
    fn retention_may_be_longer_than_asked_for() {
        let value = Value::AtLeast(1_000);
        assert!(value.is_met("1000") && value.is_met("2000") && value.is_met("-1"));
        assert!(!value.is_met("999") && !value.is_met(""));
    }
}
