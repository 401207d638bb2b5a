//! Settings of the index.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The index: what of messages, deliveries, attempts and dead letters can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is kept: `all`; `failures` (attempts that failed, with their messages and deliveries, and dead letters); or `none`, and
    /// the API says that the index is off. `all` by default.
    pub policy: Policy,
    /// For how long, in whole days: a day is dropped when all of it is older. 30 days by default, at least 1.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long the first record of a batch waits for others, 100 ms by default: about how much later than in the log an attempt
    /// is in the index.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

/// What the index keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Everything.
    #[default]
    All,
    /// What failed: attempts, and the messages and deliveries of those; dead letters. Of what succeeded at once, nothing.
    Failures,
    /// Nothing.
    None,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::All, retention: DAY * 30, linger: Duration::from_millis(100) }
    }
}

impl Settings {
    /// Checks what cannot work: the setting, and what to write instead.
    pub(crate) fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        if !(DAY..=DAY * 3_660).contains(&self.retention) {
            return Err(("index.retention", "must be \"1d\" to \"3660d\""));
        }
        if self.linger > Duration::from_secs(10) {
            return Err(("index.linger", "must be at most \"10s\""));
        }
        Ok(())
    }

    /// The retention in milliseconds.
    pub(super) fn retention_ms(&self) -> i64 {
        i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX)
    }
}
