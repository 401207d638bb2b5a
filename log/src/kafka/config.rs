//! Settings of the connection to Kafka, and what librdkafka is told.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::{Error, MAX_RECORD_BYTES};

/// What a record in quarantine is wrapped in, and keys and framing: added to a topic's limit on top of the value.
const ROOM: usize = 64 * 1024;
/// The largest batch of every topic but quarantine.
pub(super) const MAX_BATCH_BYTES: usize = MAX_RECORD_BYTES + ROOM;
/// The largest value in quarantine, whose records hold a whole record of another topic.
pub(super) const MAX_QUARANTINE_BYTES: usize = MAX_RECORD_BYTES + ROOM;
/// The largest batch of quarantine.
pub(super) const MAX_QUARANTINE_BATCH_BYTES: usize = MAX_QUARANTINE_BYTES + ROOM;

/// How to reach Kafka and what to expect of it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Brokers to ask for the others, as `host:port`.
    pub brokers: Vec<String>,
    /// TLS to the brokers; none by default, which is for the loopback only.
    pub tls: Option<Tls>,
    /// How to authenticate; not at all by default.
    pub sasl: Option<Sasl>,
    /// How long a member of a group may be silent before its partitions go to others. The broker's
    /// `group.min.session.timeout.ms` (6 s unless changed) is the least it allows.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// How long a group waits for a member that finishes what it began. Longer than every drain timeout.
    #[serde(with = "humantime_serde")]
    pub max_poll_interval: Duration,
    /// How long an append may take, retries included, before it is said to have failed.
    #[serde(with = "humantime_serde")]
    pub delivery_timeout: Duration,
    /// How long an append waits for company. None by default: under load batches form by themselves, as the records that
    /// arrive while requests are under way.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How batches are compressed.
    pub compression: Compression,
    /// Appends that may wait for the brokers, in bytes; beyond, the log counts as unavailable.
    pub max_pending_bytes: usize,
    /// Copies of each partition. 3 by default, and 1 where there is a single broker.
    pub replication_factor: Option<i32>,
    /// Copies that must have a record before it is acknowledged. 2 by default, and 1 where there is a single broker.
    pub min_insync_replicas: Option<i32>,
    /// How long records are kept.
    pub retention: Retention,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".into()],
            tls: None,
            sasl: None,
            session_timeout: Duration::from_secs(6),
            max_poll_interval: Duration::from_secs(120),
            delivery_timeout: Duration::from_secs(10),
            linger: Duration::ZERO,
            compression: Compression::default(),
            max_pending_bytes: 256 * 1024 * 1024,
            replication_factor: None,
            min_insync_replicas: None,
            retention: Retention::default(),
        }
    }
}

/// TLS to the brokers. Their names are always verified.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates (PEM) that sign the brokers'; the system's by default.
    pub ca_file: Option<PathBuf>,
    /// Our certificate (PEM), for brokers that ask for one; goes with `key_file`.
    pub certificate_file: Option<PathBuf>,
    /// Our private key (PEM).
    pub key_file: Option<PathBuf>,
}

/// How to authenticate to the brokers.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sasl {
    /// `SCRAM-SHA-512` by default.
    pub mechanism: Mechanism,
    /// The user.
    pub user: String,
    /// File that holds the password; a line end at its end is not part of it.
    pub password_file: Option<PathBuf>,
    /// The password itself, for the environment rather than for a file. Never printed.
    #[serde(skip_serializing)]
    pub password: Option<SecretString>,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Mechanism {
    /// SCRAM with SHA-512.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// SCRAM with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The password in clear, inside of TLS.
    #[serde(rename = "PLAIN")]
    Plain,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
        }
    }
}

/// How batches are compressed on their way and in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// Little work for JSON at a third of its size, and every record is stored three times: the default.
    #[default]
    Lz4,
    /// Smaller, for more work.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How long records are kept, by topic. `hookwire topics apply` only ever lengthens what a topic has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// `messages`, `deliveries` and the retry tiers: longer than the oldest delivery can live. By default that of the default
    /// schedule (76 h) and 7 days.
    #[serde(with = "humantime_serde")]
    pub messages: Duration,
    /// `dead-letters`: how long a replay can have them again. 30 days by default.
    #[serde(with = "humantime_serde")]
    pub dead_letters: Duration,
    /// `attempts`: how long the control plane may be away without missing any. 7 days by default.
    #[serde(with = "humantime_serde")]
    pub attempts: Duration,
    /// `quarantine`. 7 days by default.
    #[serde(with = "humantime_serde")]
    pub quarantine: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self {
            messages: Duration::from_secs(76 * 3_600) + days(7),
            dead_letters: days(30),
            attempts: days(7),
            quarantine: days(7),
        }
    }
}

impl Settings {
    /// Checks what can be checked without Kafka.
    ///
    /// # Errors
    /// [`Error::Setting`], which says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        if self.brokers.is_empty() {
            return wrong("kafka.brokers", "name at least one broker, such as [\"kafka-1.internal:9094\"]");
        }
        if let Some(broker) = self.brokers.iter().find(|broker| host(broker).is_none()) {
            return wrong("kafka.brokers", format!("`{broker}` must be host:port, such as \"kafka-1.internal:9094\""));
        }
        let between = |setting, value: Duration, low: u64, high: u64| {
            if (Duration::from_secs(low)..=Duration::from_secs(high)).contains(&value) {
                return Ok(());
            }
            wrong(setting, format!("must be {low}s to {high}s"))
        };
        between("kafka.session_timeout", self.session_timeout, 1, 300)?;
        between("kafka.delivery_timeout", self.delivery_timeout, 1, 300)?;
        between("kafka.max_poll_interval", self.max_poll_interval, 10, 3_600)?;
        if self.max_poll_interval < self.session_timeout {
            return wrong("kafka.max_poll_interval", "must not be shorter than kafka.session_timeout");
        }
        if self.linger > Duration::from_millis(100) {
            return wrong(
                "kafka.linger",
                "must be at most 100ms: every append waits that long, several times on a message's way",
            );
        }
        if self.max_pending_bytes < 4 * MAX_QUARANTINE_BATCH_BYTES {
            return wrong("kafka.max_pending_bytes", "must be at least 8388608 (8 MiB)");
        }
        self.validate_copies()?;
        self.validate_security()
    }

    fn validate_copies(&self) -> Result<(), Error> {
        let replication = self.replication_factor.unwrap_or(i32::MAX);
        if !(1..=i32::MAX).contains(&replication) {
            return wrong("kafka.replication_factor", "must be at least 1; 3 in production");
        }
        if self.min_insync_replicas.is_some_and(|min| min < 1 || min > replication) {
            return wrong("kafka.min_insync_replicas", "must be 1 to kafka.replication_factor; 2 with 3 copies");
        }
        let Retention { messages, dead_letters, attempts, quarantine } = &self.retention;
        for (setting, time) in [
            ("kafka.retention.messages", messages),
            ("kafka.retention.dead_letters", dead_letters),
            ("kafka.retention.attempts", attempts),
            ("kafka.retention.quarantine", quarantine),
        ] {
            if *time < Duration::from_secs(60) {
                return wrong(setting, "must be at least 1m; days, in production");
            }
        }
        Ok(())
    }

    fn validate_security(&self) -> Result<(), Error> {
        let public = self.brokers.iter().find(|broker| !host(broker).is_some_and(is_loopback));
        if let (None, Some(broker)) = (&self.tls, public) {
            return wrong(
                "kafka.tls",
                format!("must be set, since {broker} is not on the loopback: [kafka.tls] ca_file = \"…\""),
            );
        }
        if let Some(tls) = &self.tls
            && tls.certificate_file.is_some() != tls.key_file.is_some()
        {
            return wrong("kafka.tls.key_file", "goes with certificate_file: set both, or neither");
        }
        let Some(sasl) = &self.sasl else { return Ok(()) };
        if sasl.user.is_empty() {
            return wrong("kafka.sasl.user", "must be set");
        }
        match (&sasl.password_file, &sasl.password) {
            (Some(_), Some(_)) => wrong("kafka.sasl.password", "and password_file are both set: keep one"),
            (None, None) => wrong("kafka.sasl.password_file", "must name the file that holds the password"),
            _ => Ok(()),
        }
    }

    /// Checks what a member asks for against what the group allows.
    pub(super) fn validate_drain(&self, drain_timeout: Duration) -> Result<(), Error> {
        // The final commit comes after the drain.
        if drain_timeout + Duration::from_secs(10) > self.max_poll_interval {
            return wrong(
                "kafka.max_poll_interval",
                format!(
                    "must be at least 10 s longer than the drain timeout ({}), or the group gives the partitions away while \
                     they are drained",
                    humantime::format_duration(drain_timeout)
                ),
            );
        }
        Ok(())
    }

    /// What all clients are told.
    pub(super) fn client(&self) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", "hookwire")
            .set("allow.auto.create.topics", "false")
            .set("message.max.bytes", MAX_QUARANTINE_BATCH_BYTES.to_string())
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("socket.timeout.ms", "10000")
            // A broker that was killed is back soon: look often.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.fast.interval.ms", "100")
            // A broker that was restarted gets the handshakes of all clients at once: who gives up soon makes it begin anew.
            .set("socket.connection.setup.timeout.ms", "10000")
            .set_log_level(RDKafkaLogLevel::Info);
        config.set(
            "security.protocol",
            match (&self.tls, &self.sasl) {
                (None, None) => "plaintext",
                (None, Some(_)) => "sasl_plaintext",
                (Some(_), None) => "ssl",
                (Some(_), Some(_)) => "sasl_ssl",
            },
        );
        if let Some(tls) = &self.tls {
            config.set("ssl.endpoint.identification.algorithm", "https");
            // Ours is linked statically and does not know the system's certificates: it must look for them.
            config.set("ssl.ca.location", tls.ca_file.as_deref().map_or(Ok("probe"), path)?);
            if let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) {
                config.set("ssl.certificate.location", path(certificate)?).set("ssl.key.location", path(key)?);
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanism", sasl.mechanism.name())
                .set("sasl.username", &sasl.user)
                .set("sasl.password", sasl.password()?.expose_secret());
        }
        Ok(config)
    }

    /// What the producer is told.
    pub(super) fn producer(&self) -> Result<ClientConfig, Error> {
        let mut config = self.client()?;
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("delivery.timeout.ms", ms(self.delivery_timeout))
            .set("request.timeout.ms", ms(self.delivery_timeout.min(Duration::from_secs(5))))
            // In milliseconds with a fraction.
            .set("linger.ms", format!("{:.3}", self.linger.as_secs_f64() * 1_000.0))
            .set("compression.type", self.compression.name())
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", (self.max_pending_bytes / 1024).to_string())
            .set("retry.backoff.ms", "50");
        Ok(config)
    }

    /// What every consumer is told: offsets are ours alone.
    pub(super) fn consumer(&self, group: &str) -> Result<ClientConfig, Error> {
        let mut config = self.client()?;
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            // A fetch that waits for records holds up the next one from the same broker, which a partition that is read on
            // after a pause, or that is new, needs.
            .set("fetch.wait.max.ms", "20")
            .set("fetch.error.backoff.ms", "50")
            // What is ahead of us in librdkafka, for all partitions together, and in one fetch of one partition: bounds memory,
            // and what is thrown away when a partition is paused.
            .set("queued.max.messages.kbytes", "16384")
            .set("queued.min.messages", "4000")
            .set("max.partition.fetch.bytes", (256 * 1024).to_string())
            .set("fetch.max.bytes", (8 * 1024 * 1024).to_string())
            // The default is a second, for which everything would stand still whenever these limits are met.
            .set("fetch.queue.backoff.ms", "2");
        Ok(config)
    }
}

impl Sasl {
    fn password(&self) -> Result<SecretString, Error> {
        match (&self.password_file, &self.password) {
            (Some(file), _) => match std::fs::read_to_string(file) {
                Ok(password) => Ok(password.trim_end_matches(['\r', '\n']).into()),
                Err(error) => wrong("kafka.sasl.password_file", format!("{}: {error}", file.display())),
            },
            (None, password) => Ok(password.clone().unwrap_or_default()),
        }
    }
}

/// A duration as librdkafka and Kafka want it.
pub(super) fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn path(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Setting {
        setting: "kafka.tls",
        detail: format!("{} is not UTF-8: rename the file", path.display()),
    })
}

/// The host of `host:port`.
fn host(broker: &str) -> Option<&str> {
    let (host, port) = broker.rsplit_once(':')?;
    let number = port.parse::<u16>().ok()?;
    (number > 0 && !host.is_empty() && !host.contains([' ', ',', '/'])).then_some(host.trim_matches(['[', ']']))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn wrong<T>(setting: &'static str, detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::Setting { setting, detail: detail.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> &'static str {
        let mut settings = Settings::default();
        change(&mut settings);
        match settings.validate() {
            Err(Error::Setting { setting, .. }) => setting,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn sasl() -> Sasl {
        Sasl { user: "alice".into(), password: Some("hush".into()), ..Sasl::default() }
    }

    #[test]
    fn defaults_are_valid() {
        Settings::default().validate().expect("valid");
    }

    #[test]
    fn wrong_settings_are_named() {
        assert_eq!(refused(|s| s.brokers.clear()), "kafka.brokers");
        assert_eq!(refused(|s| s.brokers = vec!["kafka".into()]), "kafka.brokers");
        assert_eq!(refused(|s| s.session_timeout = Duration::ZERO), "kafka.session_timeout");
        assert_eq!(refused(|s| s.linger = Duration::from_secs(1)), "kafka.linger");
        assert_eq!(refused(|s| s.min_insync_replicas = Some(0)), "kafka.min_insync_replicas");
        assert_eq!(refused(|s| s.retention.attempts = Duration::ZERO), "kafka.retention.attempts");
        assert_eq!(
            refused(|s| (s.replication_factor, s.min_insync_replicas) = (Some(1), Some(2))),
            "kafka.min_insync_replicas"
        );
    }

    #[test]
    fn nothing_goes_in_clear_beyond_the_loopback() {
        let remote = |s: &mut Settings| s.brokers = vec!["kafka-1.internal:9092".into()];
        assert_eq!(refused(remote), "kafka.tls");
        let with_tls = Settings {
            brokers: vec!["kafka-1.internal:9092".into()],
            tls: Some(Tls::default()),
            sasl: Some(sasl()),
            ..Settings::default()
        };
        with_tls.validate().expect("valid");
    }

    #[test]
    fn a_password_comes_from_one_place_and_is_never_printed() {
        assert_eq!(refused(|s| s.sasl = Some(Sasl { password: None, ..sasl() })), "kafka.sasl.password_file");
        assert_eq!(
            refused(|s| s.sasl = Some(Sasl { password_file: Some("f".into()), ..sasl() })),
            "kafka.sasl.password"
        );
        let settings = Settings { sasl: Some(sasl()), ..Settings::default() };
        assert!(!format!("{settings:?}{:?}", settings.client().expect("valid")).contains("hush"));
    }

    #[test]
    fn a_drain_must_fit_into_the_groups_patience() {
        let settings = Settings::default();
        settings.validate_drain(Duration::from_secs(20)).expect("fits");
        assert!(settings.validate_drain(settings.max_poll_interval).is_err());
    }
}
