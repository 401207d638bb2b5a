//! The topics, how many partitions each has, and which one a record belongs to.

use std::fmt;
use std::time::Duration;

use hookwire_proto::log as proto;
use twox_hash::XxHash3_64;

use crate::Error;

/// A topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// What was published.
    Messages,
    /// One record for each message and subscription.
    Deliveries,
    /// Deliveries that wait; the index of the tier in [`Layout::retry_tiers`].
    Retries(u8),
    /// Ordered deliveries that wait for their key (compacted).
    Held,
    /// Deliveries that came to nothing.
    DeadLetters,
    /// Attempts and messages for the index, in batches.
    Attempts,
    /// Which message ids `messages` has held lately; partition n speaks of partition n of `messages`.
    Ids,
    /// What no stage could handle.
    Quarantine,
}

/// How long `ids` keeps a record: well beyond the longest window in which repeats of messages are told.
pub const IDS_RETENTION: Duration = Duration::from_secs(3_600);

/// The topics of one generation and their partitions. The same on every node: the control plane pushes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Numbered from 1.
    pub generation: i32,
    /// What topic and group names begin with.
    pub prefix: String,
    /// Partitions of `messages` and of `ids`.
    pub messages_partitions: i32,
    /// Partitions of `deliveries`, `held` and `dead-letters`.
    pub deliveries_partitions: i32,
    /// Partitions of each retry tier.
    pub retries_partitions: i32,
    /// Partitions of `attempts`.
    pub attempts_partitions: i32,
    /// Delays of the tiers, ascending.
    pub retry_tiers: Vec<Duration>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            generation: 1,
            prefix: "hookwire".into(),
            messages_partitions: 12,
            deliveries_partitions: 12,
            retries_partitions: 4,
            attempts_partitions: 6,
            retry_tiers: [5, 30, 5 * 60, 30 * 60, 2 * 3600, 8 * 3600].map(Duration::from_secs).to_vec(),
        }
    }
}

impl Layout {
    /// Checks that this can be a layout: prefix of letters, digits, `.`, `_` and `-` (1 to 100), 1 to 1,000 partitions each,
    /// 1 to 16 tiers, ascending, of whole milliseconds, none over 30 days.
    ///
    /// # Errors
    /// [`Error::Setting`], which says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, detail: &str| Err(Error::Setting { setting, detail: detail.into() });
        let in_prefix = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if self.generation < 1 {
            return wrong("log.generation", "must be at least 1");
        }
        if !(1..=100).contains(&self.prefix.len()) || !self.prefix.bytes().all(in_prefix) {
            return wrong("log.prefix", "must be 1 to 100 letters, digits, `.`, `_` and `-`");
        }
        for (setting, count) in [
            ("log.messages_partitions", self.messages_partitions),
            ("log.deliveries_partitions", self.deliveries_partitions),
            ("log.retries_partitions", self.retries_partitions),
            ("log.attempts_partitions", self.attempts_partitions),
        ] {
            if !(1..=1_000).contains(&count) {
                return wrong(setting, "must be 1 to 1000");
            }
        }
        let tiers = &self.retry_tiers;
        let whole = |tier: &Duration| tier.subsec_nanos().is_multiple_of(1_000_000) && !tier.is_zero();
        if !(1..=16).contains(&tiers.len())
            || !tiers.iter().all(whole)
            || !tiers.is_sorted_by(|a, b| a < b)
            || tiers.iter().any(|tier| *tier > Duration::from_secs(30 * 86_400))
        {
            return wrong(
                "log.retry_tiers",
                "must be 1 to 16 delays, ascending, of whole milliseconds, none over 30 days, such as [\"5s\", \"30s\", \"5m\"]",
            );
        }
        Ok(())
    }

    /// All topics.
    pub fn topics(&self) -> Vec<Topic> {
        let tiers =
            (0..self.retry_tiers.len()).map(|tier| Topic::Retries(u8::try_from(tier).expect("at most 16 tiers")));
        [Topic::Messages, Topic::Deliveries]
            .into_iter()
            .chain(tiers)
            .chain([Topic::Held, Topic::DeadLetters, Topic::Attempts, Topic::Ids, Topic::Quarantine])
            .collect()
    }

    /// How many partitions a topic has.
    pub fn partitions(&self, topic: Topic) -> i32 {
        match topic {
            Topic::Messages | Topic::Ids => self.messages_partitions,
            Topic::Deliveries | Topic::Held | Topic::DeadLetters => self.deliveries_partitions,
            Topic::Retries(_) => self.retries_partitions,
            Topic::Attempts => self.attempts_partitions,
            Topic::Quarantine => 1,
        }
    }

    /// The partition for a key: XXH3 (64 bits, seed 0) of the key, modulo the partitions. Never changes within a generation.
    pub fn partition(&self, topic: Topic, key: &[u8]) -> i32 {
        let partitions = u64::from(self.partitions(topic).unsigned_abs());
        i32::try_from(XxHash3_64::oneshot(key) % partitions).expect("at most 1,000 partitions")
    }

    /// A topic's name in the log, such as `hookwire.retries.5m`.
    pub fn name(&self, topic: Topic) -> String {
        let name = match topic {
            Topic::Messages => "messages".into(),
            Topic::Deliveries => "deliveries".into(),
            Topic::Retries(tier) => {
                let delay = self.retry_tiers.get(usize::from(tier)).copied().unwrap_or_default();
                format!("retries.{}", Delay(delay))
            }
            Topic::Held => "held".into(),
            Topic::DeadLetters => "dead-letters".into(),
            Topic::Attempts => "attempts".into(),
            Topic::Ids => "ids".into(),
            Topic::Quarantine => "quarantine".into(),
        };
        match self.generation {
            1 => format!("{}.{name}", self.prefix),
            generation => format!("{}.{name}.g{generation}", self.prefix),
        }
    }

    /// The delay of a topic that holds its records back; zero for the others.
    pub fn delay(&self, topic: Topic) -> Duration {
        match topic {
            Topic::Retries(tier) => self.retry_tiers.get(usize::from(tier)).copied().unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    /// The tier for a delivery that is due in `remaining`: the largest that fits, where one that is longer by at most `slack`
    /// percent fits, too; `None` if even the smallest doesn't.
    pub fn tier(&self, remaining: Duration, slack: u32) -> Option<Topic> {
        let longest = remaining.saturating_mul(100 + slack) / 100;
        let tier = self.retry_tiers.iter().rposition(|tier| *tier <= longest)?;
        Some(Topic::Retries(u8::try_from(tier).expect("at most 16 tiers")))
    }
}

impl From<&Layout> for proto::Layout {
    fn from(layout: &Layout) -> Self {
        Self {
            generation: layout.generation,
            prefix: layout.prefix.clone(),
            messages_partitions: layout.messages_partitions,
            deliveries_partitions: layout.deliveries_partitions,
            retries_partitions: layout.retries_partitions,
            attempts_partitions: layout.attempts_partitions,
            retry_tiers_ms: layout
                .retry_tiers
                .iter()
                .map(|tier| i64::try_from(tier.as_millis()).unwrap_or(i64::MAX))
                .collect(),
        }
    }
}

impl TryFrom<proto::Layout> for Layout {
    type Error = Error;

    fn try_from(layout: proto::Layout) -> Result<Self, Error> {
        let layout = Self {
            generation: layout.generation,
            prefix: layout.prefix,
            messages_partitions: layout.messages_partitions,
            deliveries_partitions: layout.deliveries_partitions,
            retries_partitions: layout.retries_partitions,
            attempts_partitions: layout.attempts_partitions,
            retry_tiers: layout
                .retry_tiers_ms
                .into_iter()
                .map(|tier| Duration::from_millis(u64::try_from(tier).unwrap_or_default()))
                .collect(),
        };
        layout.validate()?;
        Ok(layout)
    }
}

/// A delay as topic names have it: in the largest unit that divides it.
struct Delay(Duration);

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let (unit, name) = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit))
            .unwrap_or((1, "ms"));
        write!(f, "{}{name}", ms / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_named_as_the_design_has_them() {
        let layout = Layout::default();
        let names: Vec<_> = layout.topics().into_iter().map(|topic| layout.name(topic)).collect();
        assert_eq!(
            names,
            [
                "hookwire.messages",
                "hookwire.deliveries",
                "hookwire.retries.5s",
                "hookwire.retries.30s",
                "hookwire.retries.5m",
                "hookwire.retries.30m",
                "hookwire.retries.2h",
                "hookwire.retries.8h",
                "hookwire.held",
                "hookwire.dead-letters",
                "hookwire.attempts",
                "hookwire.ids",
                "hookwire.quarantine"
            ]
        );
        let next = Layout { generation: 2, ..layout };
        assert_eq!(next.name(Topic::Deliveries), "hookwire.deliveries.g2");
    }

    #[test]
    fn placement_never_changes() {
        // Records outlive deployments: these figures are the contract, not this code.
        let layout = Layout { deliveries_partitions: 1_000, ..Layout::default() };
        let places =
            ["", "a", "tenants/acme/subscriptions/one"].map(|key| layout.partition(Topic::Deliveries, key.as_bytes()));
        assert_eq!(places, [138, 719, 238]);
    }

    #[test]
    fn the_largest_tier_that_fits_is_taken() {
        let layout = Layout::default();
        let tier = |seconds| layout.tier(Duration::from_secs(seconds), 0);
        assert_eq!(tier(4), None);
        assert_eq!(tier(5), Some(Topic::Retries(0)));
        assert_eq!(tier(29), Some(Topic::Retries(0)));
        assert_eq!(tier(3_600), Some(Topic::Retries(3)));
        assert_eq!(tier(1_000_000), Some(Topic::Retries(5)));
        assert_eq!(layout.tier(Duration::from_millis(4_999), 2), Some(Topic::Retries(0)));
        assert_eq!(layout.tier(Duration::from_millis(4_900), 2), None);
        assert_eq!(layout.tier(Duration::MAX, 100), Some(Topic::Retries(5)));
    }

    #[test]
    fn a_layout_survives_the_wire_and_nonsense_does_not() {
        let layout = Layout::default();
        assert_eq!(Layout::try_from(proto::Layout::from(&layout)).expect("valid"), layout);
        for wrong in [
            Layout { generation: 0, ..layout.clone() },
            Layout { prefix: "a b".into(), ..layout.clone() },
            Layout { deliveries_partitions: 0, ..layout.clone() },
            Layout { retry_tiers: vec![], ..layout.clone() },
            Layout { retry_tiers: vec![Duration::from_secs(30), Duration::from_secs(5)], ..layout.clone() },
        ] {
            assert!(Layout::try_from(proto::Layout::from(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
