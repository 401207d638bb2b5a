//! When a delivery is tried again, and when no more. Pure.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// By how much jitter makes a delay longer, at most, as a share of it.
pub const JITTER: f64 = 0.1;

/// What `messages` is kept for beyond the longest delay (the log's retention): a delivery must not live longer.
const RETENTION_BEYOND_LONGEST_DELAY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const MAX_ATTEMPTS: usize = 100;

/// The retry schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// How long each attempt waits after the one before it; the first after the message was published. As many attempts are
    /// made as there are delays.
    #[serde(with = "durations")]
    pub delays: Vec<Duration>,
    /// How much later than the schedule alone a delivery may be, for lanes that are over their rate, recipients who ask
    /// for patience, and outages: then it is dead.
    #[serde(with = "humantime_serde")]
    pub margin: Duration,
}

/// A schedule that can't be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct Error {
    /// Name of the setting.
    pub setting: &'static str,
    /// What to write instead.
    pub detail: String,
}

impl Default for Schedule {
    /// Standard Webhooks' example: ten attempts, the last after 75 hours and 35 minutes.
    fn default() -> Self {
        let (minute, hour) = (60, 60 * 60);
        let delays = [0, 5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour];
        Self { delays: delays.map(Duration::from_secs).to_vec(), margin: Duration::from_secs(12 * hour) }
    }
}

/// How much longer an attempt waits than its delay, so that those that failed together do not come back together: up to [`JITTER`] of the
/// delay, but less than `limit`. `chance` from 0 to 1.
pub fn jitter(delay: Duration, limit: Duration, chance: f64) -> Duration {
    let chance = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.0 };
    delay.mul_f64(JITTER).min(limit).mul_f64(chance)
}

impl Schedule {
    /// A subscription's own, which the control plane has checked. A delivery lives for `life`; zero stands for all delays with
    /// their jitter and 12 hours, at most 7 days.
    pub fn of_subscription(delays: Vec<Duration>, life: Duration) -> Self {
        let alone = Self { delays, margin: Duration::ZERO };
        let usual = Duration::from_secs(12 * 60 * 60);
        let life = match life.is_zero() {
            true => alone.life().saturating_add(usual).min(RETENTION_BEYOND_LONGEST_DELAY),
            false => life,
        };
        Self { margin: life.saturating_sub(alone.life()), ..alone }
    }

    /// How long attempt `number` (from 1) waits after the one before it; `None` if there is none of that number.
    pub fn delay_before(&self, number: i32) -> Option<Duration> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.delays.get(index).copied()
    }

    /// From publishing to the deadline, at the longest: all delays with their jitter, and the margin.
    pub fn life(&self) -> Duration {
        let total = self.delays.iter().fold(Duration::ZERO, |total, delay| total.saturating_add(*delay));
        total.saturating_add(total.div_f64(1.0 / JITTER)).saturating_add(self.margin)
    }

    /// After this no attempt of a message that was published then is begun.
    pub fn deadline(&self, published: SystemTime) -> SystemTime {
        published.checked_add(self.life()).unwrap_or(published)
    }

    /// Refuses what can't be kept.
    ///
    /// # Errors
    /// Names the setting and says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, detail: String| Err(Error { setting, detail });
        if self.delays.is_empty() || self.delays.len() > MAX_ATTEMPTS {
            let detail =
                format!("write 1 to {MAX_ATTEMPTS} delays, one for each attempt, such as [\"0s\", \"5s\", \"5m\"]");
            return wrong("retry.delays", detail);
        }
        let longest = self.delays.iter().max().copied().unwrap_or_default();
        let limit = longest.saturating_add(RETENTION_BEYOND_LONGEST_DELAY);
        if self.delays.iter().any(|delay| *delay > RETENTION_BEYOND_LONGEST_DELAY) || self.life() > limit {
            let detail =
                "a delivery would outlive its message in the log, which is kept for the longest delay and 7 days; \
                          write fewer or shorter delays, or a smaller retry.margin"
                    .to_owned();
            return wrong("retry.delays", detail);
        }
        Ok(())
    }
}

/// A list of durations, each as humantime writes it.
mod durations {
    use std::time::Duration;

    use humantime_serde::Serde;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        durations.iter().copied().map(Serde::from).collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        let durations = Vec::<Serde<Duration>>::deserialize(deserializer)?;
        Ok(durations.into_iter().map(Serde::into_inner).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_the_specifications_example() {
        let schedule = Schedule::default();
        let total: Duration = schedule.delays.iter().sum();
        assert_eq!(schedule.delays.len(), 10);
        assert_eq!(schedule.delay_before(1), Some(Duration::ZERO));
        assert_eq!(total, Duration::from_secs(75 * 3600 + 35 * 60 + 5));
        assert_eq!(schedule.validate(), Ok(()));
    }

    #[test]
    fn there_are_as_many_attempts_as_delays() {
        let schedule = Schedule { delays: vec![Duration::ZERO, Duration::from_secs(1)], ..Schedule::default() };
        assert_eq!(schedule.delay_before(2), Some(Duration::from_secs(1)));
        for number in [i32::MIN, -1, 0, 3, i32::MAX] {
            assert_eq!(schedule.delay_before(number), None, "{number}");
        }
    }

    #[test]
    fn a_schedule_is_written_with_units_and_nothing_unknown() {
        let schedule: Schedule = serde_json::from_str(r#"{"delays": ["0s", "1m 30s"], "margin": "1h"}"#).unwrap();
        let expected =
            Schedule { delays: vec![Duration::ZERO, Duration::from_secs(90)], margin: Duration::from_secs(3600) };
        assert_eq!(schedule, expected);
        let written = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&written).unwrap(), schedule);
        assert!(serde_json::from_str::<Schedule>(r#"{"delay": []}"#).is_err());
        assert!(serde_json::from_str::<Schedule>(r#"{"delays": [5]}"#).is_err());
    }

    #[test]
    fn what_outlives_its_message_is_refused() {
        let day = Duration::from_secs(24 * 3600);
        let refused = [
            Schedule { delays: vec![], margin: day },
            Schedule { delays: vec![Duration::ZERO; MAX_ATTEMPTS + 1], margin: day },
            Schedule { delays: vec![Duration::ZERO, day * 8], margin: Duration::ZERO },
            Schedule { delays: vec![Duration::ZERO], margin: day * 8 },
            Schedule { delays: vec![day; 10], margin: Duration::ZERO },
            Schedule { delays: vec![Duration::MAX; 3], margin: Duration::MAX },
        ];
        for schedule in refused {
            assert_eq!(schedule.validate().map_err(|error| error.setting), Err("retry.delays"), "{schedule:?}");
        }
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_tenth_and_the_deadline_after_the_last_attempt(
            seconds in prop::collection::vec(0u64..100_000, 1..20), chance in any::<f64>(), limit in 0u64..100,
            margin in 0u64..1000,
        ) {
            let schedule = Schedule {
                delays: seconds.iter().copied().map(Duration::from_secs).collect(),
                margin: Duration::from_secs(margin),
            };
            let mut total = Duration::ZERO;
            for delay in &schedule.delays {
                let later = jitter(*delay, Duration::from_secs(limit), chance);
                prop_assert!(later.as_secs_f64() <= (delay.as_secs_f64() * JITTER).min(limit as f64) + 1e-6);
                total += *delay + later;
            }
            let published = SystemTime::UNIX_EPOCH;
            let slack = Duration::from_millis(1);
            prop_assert!(published + total <= schedule.deadline(published) + slack);
        }
    }
}
