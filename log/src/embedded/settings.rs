//! Settings of the embedded log.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::topic::IDS_RETENTION;
use crate::{Error, Layout, Topic};

/// Settings of the embedded log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The directory that holds the log. Made if it is not there; one process at a time may use it.
    pub dir: PathBuf,
    /// How long `messages`, `deliveries` and the retry tiers keep a record: the longest delay that a delivery can have and
    /// some days, so that nothing is taken away that is still under way.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long `dead-letters` keeps a record: until then it can be replayed.
    #[serde(with = "humantime_serde")]
    pub dead_letters_retention: Duration,
    /// How long `attempts` keeps a record. The index has long read it.
    #[serde(with = "humantime_serde")]
    pub attempts_retention: Duration,
    /// How long `quarantine` keeps a record.
    #[serde(with = "humantime_serde")]
    pub quarantine_retention: Duration,
    /// How often old records are looked for, and `held` is compacted.
    #[serde(with = "humantime_serde")]
    pub retention_interval: Duration,
    /// Appends that may wait to be written, in bytes; more are answered with "unavailable".
    pub max_waiting_bytes: usize,
    /// Memory for blocks that were read from disk, in bytes.
    pub cache_bytes: u64,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("hookwire-data/log"),
            retention: DAY * 14,
            dead_letters_retention: DAY * 30,
            attempts_retention: DAY * 7,
            quarantine_retention: DAY * 30,
            retention_interval: Duration::from_secs(60),
            max_waiting_bytes: 64 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`], which says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, detail: &str| Err(Error::Setting { setting, detail: detail.into() });
        if self.dir.as_os_str().is_empty() {
            return wrong("log.embedded.dir", "must name a directory, such as \"hookwire-data/log\"");
        }
        for (setting, duration) in [
            ("log.embedded.retention", self.retention),
            ("log.embedded.dead_letters_retention", self.dead_letters_retention),
            ("log.embedded.attempts_retention", self.attempts_retention),
            ("log.embedded.quarantine_retention", self.quarantine_retention),
            ("log.embedded.retention_interval", self.retention_interval),
        ] {
            if duration < Duration::from_millis(1) {
                return wrong(setting, "must be at least \"1ms\"; \"14d\" is fine for most");
            }
        }
        if self.max_waiting_bytes < 4 * 1024 * 1024 {
            return wrong(
                "log.embedded.max_waiting_bytes",
                "must be at least 4194304, so that the largest record fits",
            );
        }
        if self.cache_bytes < 1024 * 1024 {
            return wrong("log.embedded.cache_bytes", "must be at least 1048576");
        }
        Ok(())
    }

    /// How long a topic keeps its records; `None` for `held`, which is compacted and keeps the newest of each key.
    pub(super) fn retention(&self, topic: Topic) -> Option<Duration> {
        match topic {
            Topic::Messages | Topic::Deliveries | Topic::Retries(_) => Some(self.retention),
            Topic::DeadLetters => Some(self.dead_letters_retention),
            Topic::Attempts => Some(self.attempts_retention),
            Topic::Ids => Some(IDS_RETENTION),
            Topic::Quarantine => Some(self.quarantine_retention),
            Topic::Held => None,
        }
    }

    /// What can't be checked without the layout: nothing may be taken away that still waits for its time.
    pub(super) fn validate_with(&self, layout: &Layout) -> Result<(), Error> {
        self.validate()?;
        let longest = layout.retry_tiers.last().copied().unwrap_or_default();
        if self.retention <= longest {
            return Err(Error::Setting {
                setting: "log.embedded.retention",
                detail: format!("must be longer than the longest retry tier, {}", humantime::format_duration(longest)),
            });
        }
        Ok(())
    }
}
