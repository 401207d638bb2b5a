//! Repeats: which message ids a partition of `messages` has held lately, so that whoever publishes a message again under an id of
//! its own does no harm.
//!
//! A record is a repeat if its publisher chose its id and a *lower* offset of its partition holds that id, appended at most the
//! window before it. Ids are learnt in the order of offsets, and a record is judged by what is below it alone. So a message whose
//! fan-out was cut off is never its own repeat, however often it is read again; and below every repeat there is a record that was
//! dispatched, or will be, since offsets are committed contiguously. The other mistake, a repeat that is not noticed, is one delivery
//! too many: ids are forgotten where there would be too many of them.
//!
//! * [`Known`]: what is known, in memory (pure)
//! * `segment`: what is written down of it in `ids` (pure)
//! * `owner`: what the owner of a partition reads before it begins, and writes

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use aws_lc_rs::digest;
use hookwire_log::Offset;
use serde::{Deserialize, Serialize};

use crate::stage::{InvalidSetting, ms};

mod owner;
mod segment;
#[cfg(test)]
mod tests;

pub use owner::{Ids, Telling};

/// The longest window: what is written down must be there for longer, also for an owner that comes late.
const MAX_WINDOW: Duration = Duration::from_secs(30 * 60);

/// Settings of noticing repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long after a message another of the same id is a repeat, by the log's clock. 1 s to 30 min, 10 min by default.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Messages of a partition whose ids are remembered, at most: beyond that the oldest are forgotten before their time. 200,000
    /// by default, about 12 MB, which is the whole window at 333 messages a second and partition.
    pub max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: Duration::from_secs(600), max: 200_000 }
    }
}

impl Settings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the setting and says what to write instead.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let wrong = |setting, detail| Err(InvalidSetting { setting, detail });
        if !(Duration::from_secs(1)..=MAX_WINDOW).contains(&self.window) {
            return wrong("dispatch.repeats.window", "must be \"1s\" to \"30m\"");
        }
        if !(1_000..=10_000_000).contains(&self.max) {
            return wrong("dispatch.repeats.max", "must be 1000 to 10000000");
        }
        Ok(())
    }

    fn window_ms(&self) -> i64 {
        ms(self.window)
    }
}

/// A tenant's message id: the first 16 bytes of SHA-256 over tenant, line feed and id. Among 200,000, one of 10^33 messages is taken
/// for a repeat by chance; and nobody can choose an id that is taken for another tenant's in less than some 2^128 tries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; Self::BYTES]);

impl Id {
    const BYTES: usize = 16;

    /// Of a message of `tenants/{tenant}`.
    pub fn new(tenant: &str, message_id: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        // A line feed is in neither, so that they can't run into each other.
        for part in [tenant, "\n", message_id] {
            hash.update(part.as_bytes());
        }
        Self(hash.finish().as_ref()[..Self::BYTES].try_into().expect("SHA-256 is longer"))
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A record of `messages`, as far as repeats go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its offset.
    pub offset: Offset,
    /// When the log appended it, in milliseconds since 1970: by a clock that no publisher has, the same for every reader.
    pub time_ms: i64,
    /// Its id.
    pub id: Id,
}

/// What is known of one partition. Pure.
#[derive(Debug)]
pub struct Known {
    window_ms: i64,
    max: usize,
    /// What was learnt and is not forgotten, in the order of offsets and times.
    order: VecDeque<(i64, Id)>,
    /// How many were forgotten: the number of the first in `order`.
    gone: u64,
    /// The number of the last of each id.
    last: HashMap<Id, u64>,
    /// The time of the latest: a clock that is set back does not make the window longer.
    now_ms: i64,
    /// What was written down and is to be learnt when its turn has come, ascending.
    ahead: VecDeque<Entry>,
    /// How many were forgotten before their time.
    early: u64,
}

impl Known {
    /// Knows what earlier owners have written down, in the order of offsets.
    pub fn new(settings: &Settings, written: Vec<Entry>) -> Self {
        debug_assert!(written.is_sorted_by_key(|entry| entry.offset), "an offset before a lower one");
        Self {
            window_ms: settings.window_ms(),
            max: settings.max.max(1),
            order: VecDeque::new(),
            gone: 0,
            last: HashMap::new(),
            now_ms: i64::MIN,
            ahead: written.into(),
            early: 0,
        }
    }

    /// Learns of a record; whether a lower offset holds its id, within the window and as far as that is remembered. Records come
    /// in the order of their offsets; those that earlier owners have finished do not come, and are what was written down.
    pub fn learn(&mut self, entry: Entry) -> bool {
        while let Some(written) = self.ahead.front().copied().filter(|written| written.offset <= entry.offset) {
            self.ahead.pop_front();
            // The record itself may be written down, too.
            if written.offset < entry.offset {
                self.add(written);
            }
        }
        self.add(entry)
    }

    /// How many were forgotten before their time, since this was last asked.
    pub fn take_early(&mut self) -> u64 {
        std::mem::take(&mut self.early)
    }

    fn add(&mut self, entry: Entry) -> bool {
        self.now_ms = self.now_ms.max(entry.time_ms);
        let oldest_ms = self.now_ms.saturating_sub(self.window_ms);
        while self.order.front().is_some_and(|(time_ms, _)| *time_ms < oldest_ms) {
            self.forget();
        }
        let number = self.gone + self.order.len() as u64;
        let is_known = self.last.insert(entry.id, number).is_some();
        self.order.push_back((self.now_ms, entry.id));
        while self.order.len() > self.max {
            self.forget();
            self.early += 1;
        }
        is_known
    }

    fn forget(&mut self) {
        let Some((_, id)) = self.order.pop_front() else { return };
        // Unless it has come again since.
        if self.last.get(&id) == Some(&self.gone) {
            self.last.remove(&id);
        }
        self.gone += 1;
    }
}
