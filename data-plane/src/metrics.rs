//! What operators see of a node at `/metrics`: names, kinds and meanings are in the README's table.
//!
//! Whoever counts has its counters at hand: nothing is looked up for a message. Labels are bounded, see [`hookwire_log::metrics`].

use std::sync::Arc;
use std::time::Duration;

use hookwire_log::metrics::{self, Groups, each, one, seconds};
use hookwire_proto::log::{AttemptOutcome, AttemptRecord, AttemptResult, DeadReason};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// How a publication ends.
const RESULTS: [&str; 3] = ["acknowledged", "unacknowledged", "refused"];
/// What comes of a message in dispatch.
const DISPATCHED: [&str; 3] = ["dispatched", "repeated", "quarantined"];
/// What the recipient answers, or why there is no answer, as [`AttemptError`](hookwire_proto::log::AttemptError) numbers it.
const ANSWERS: [&str; 20] = [
    "2xx",
    "3xx",
    "429",
    "4xx",
    "5xx",
    "other",
    "unknown",
    "dns",
    "egress",
    "connect",
    "tls",
    "timeout",
    "broken",
    "protocol",
    "request",
    "token",
    "certificate_expired",
    "certificate_name",
    "certificate_untrusted",
    "proxy",
];
/// Where in [`ANSWERS`] reasons begin.
const NO_ANSWER: usize = 6;
/// As [`AttemptOutcome`] numbers them.
const OUTCOMES: [&str; 4] = ["unknown", "delivered", "retry", "dead"];
/// As [`DeadReason`] numbers them.
const DEAD: [&str; 8] = ["unknown", "exhausted", "expired", "gone", "backlog", "paused", "deleted", "body_lost"];
/// See [`Lanes`].
const LANES: [&str; 4] = ["idle", "healthy", "slowed", "pausing"];
const DELIVERIES: [&str; 5] = ["under_way", "queued", "waiting", "deferred", "ordered"];

/// Upper bounds, in seconds, of what takes as long as an attempt does.
const ATTEMPT_SECONDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0];
/// Of what is short while all is well.
const PROMPT_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

/// The metrics of a node. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    kept: Arc<Kept>,
}

struct Kept {
    groups: Groups,
    published: [Counter; 3],
    acknowledgement: Histogram,
    dispatched: [Counter; 3],
    fanned_out: Counter,
    answers: [Counter; 20],
    outcomes: [Counter; 4],
    attempt: Histogram,
    delay: Histogram,
    dead: [Counter; 8],
    lanes: [Gauge; 4],
    deliveries: [Gauge; 5],
    ready: Gauge,
    revision: Gauge,
    stale: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let (mut all, groups) = metrics::registry();
        let registry = all.sub_registry_with_prefix("hookwire");
        let stale = Gauge::default();
        registry.register_with_unit(
            "config_stale",
            "For how long the node has been cut off from the control plane; 0 while it is not",
            Unit::Seconds,
            stale.clone(),
        );
        let kept = Kept {
            groups,
            published: each(
                registry,
                "published_messages",
                "Messages that were published through this node: durable, not acknowledged by the log in time, or refused",
                "result",
                RESULTS,
            ),
            acknowledgement: seconds(
                registry,
                "publish_acknowledgement",
                "From the append of a message to the log's acknowledgement",
                &PROMPT_SECONDS,
            ),
            dispatched: each(
                registry,
                "dispatched_messages",
                "Messages that dispatch is done with: each subscription has a delivery, published before, or unreadable",
                "result",
                DISPATCHED,
            ),
            fanned_out: one(registry, "dispatched_deliveries", "Deliveries that dispatch has made of messages"),
            answers: each(
                registry,
                "attempts",
                "Attempts that have ended, by the recipient's answer or why there is none; pings among them",
                "answer",
                ANSWERS,
            ),
            outcomes: each(
                registry,
                "attempt_outcomes",
                "The same by what the delivery came to: it has arrived, it is tried again, or it is a dead letter",
                "outcome",
                OUTCOMES,
            ),
            attempt: seconds(registry, "attempt_duration", "How long attempts took", &ATTEMPT_SECONDS),
            delay: seconds(
                registry,
                "first_attempt_delay",
                "From a message's publication to the beginning of the first attempt of a delivery of it; replays are left out",
                &PROMPT_SECONDS,
            ),
            dead: each(
                registry,
                "dead_letters",
                "Deliveries that became dead letters; paused: they wait until their subscription is enabled",
                "reason",
                DEAD,
            ),
            lanes: each(
                registry,
                "lanes",
                "Lanes of subscriptions on this node: nothing to do, as fast as may be, slowed down by its recipient, or not asking it for now",
                "state",
                LANES,
            ),
            deliveries: each(
                registry,
                "deliveries",
                "Deliveries that this node holds: requests, in a lane's queue, waiting for their time or their configuration; and of its \
                 lanes those that wait in the log: deferred, or in order",
                "state",
                DELIVERIES,
            ),
            ready: one(registry, "ready", "1 if /readyz says so, or else 0"),
            revision: one(registry, "config_revision", "Revision of the configuration that the node works with"),
            stale,
        };
        Self { registry: Arc::new(all), kept: Arc::new(kept) }
    }
}

impl Metrics {
    /// The consumer groups, to be told what is owned.
    pub fn groups(&self) -> &Groups {
        &self.kept.groups
    }

    /// The page, with what only a look can tell.
    pub fn page(&self, is_ready: bool, revision: i64, stale: Duration) -> String {
        self.kept.ready.set(is_ready.into());
        self.kept.revision.set(revision);
        self.kept.stale.set(i64::try_from(stale.as_secs()).unwrap_or(i64::MAX));
        metrics::page(&self.registry)
    }

    /// A message was acknowledged by the log after so long.
    pub(crate) fn acknowledged(&self, after: Duration) {
        self.kept.published[0].inc();
        self.kept.acknowledgement.observe(after.as_secs_f64());
    }

    /// A message was not acknowledged in time.
    pub(crate) fn unacknowledged(&self) {
        self.kept.published[1].inc();
    }

    /// Messages were refused before they were appended.
    pub(crate) fn refused(&self, messages: usize) {
        self.kept.published[2].inc_by(messages as u64);
    }

    /// All deliveries of a message are durable.
    pub(crate) fn dispatched(&self, deliveries: i32) {
        self.kept.dispatched[0].inc();
        self.kept.fanned_out.inc_by(u64::try_from(deliveries).unwrap_or_default());
    }

    /// A message was published before.
    pub(crate) fn repeated(&self) {
        self.kept.dispatched[1].inc();
    }

    /// A message is in quarantine.
    pub(crate) fn quarantined(&self) {
        self.kept.dispatched[2].inc();
    }

    /// An attempt has ended and is recorded.
    pub(crate) fn attempted(&self, attempt: &AttemptRecord) {
        let result = attempt.result.as_ref();
        let duration_us = result.map_or(0, |result| result.duration_us);
        self.kept.answers[result.map_or(NO_ANSWER, answer)].inc();
        self.kept.attempt.observe(duration_us as f64 / 1e6);
        if attempt.ping {
            return;
        }
        self.kept.outcomes[index(attempt.outcome, &OUTCOMES)].inc();
        if attempt.outcome() == AttemptOutcome::Dead {
            self.kept.dead[index(attempt.dead_reason, &DEAD)].inc();
        }
        if attempt.number == 1 && attempt.replay.is_empty() && attempt.publish_time_ms > 0 {
            let delay_ms = attempt.time_ms.saturating_sub(attempt.publish_time_ms).max(0);
            self.kept.delay.observe(delay_ms as f64 / 1e3);
        }
    }

    /// A delivery became a dead letter without another attempt.
    pub(crate) fn dead(&self, reason: DeadReason) {
        self.kept.dead[index(reason.into(), &DEAD)].inc();
    }

    /// What an owner has a share in.
    pub(crate) fn share(&self) -> Share {
        Share { metrics: self.clone(), lanes: Lanes::default() }
    }
}

/// A place in a list of names, whose first is for what a later version knows.
fn index(number: i32, names: &[&str]) -> usize {
    usize::try_from(number).ok().filter(|number| *number < names.len()).unwrap_or_default()
}

fn answer(result: &AttemptResult) -> usize {
    match result.status {
        200..=299 => 0,
        300..=399 => 1,
        429 => 2,
        400..=499 => 3,
        500..=599 => 4,
        1.. => 5,
        _ => NO_ANSWER + index(result.error, &ANSWERS[NO_ANSWER..]),
    }
}

/// The lanes of an owner and their deliveries, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lanes {
    /// Lanes: idle, healthy, slowed, pausing.
    pub lanes: [i64; 4],
    /// Deliveries: under way, queued, waiting for their time, deferred, ordered and in `held`.
    pub deliveries: [i64; 5],
}

/// What an owner adds to the node's gauges, for as long as there is this.
pub(crate) struct Share {
    metrics: Metrics,
    lanes: Lanes,
}

impl Share {
    /// From now on it is this.
    pub fn set(&mut self, lanes: Lanes) {
        let gauges = self.metrics.kept.lanes.iter().chain(&self.metrics.kept.deliveries);
        let before = self.lanes.lanes.iter().chain(&self.lanes.deliveries);
        let after = lanes.lanes.iter().chain(&lanes.deliveries);
        for ((gauge, before), after) in gauges.zip(before).zip(after) {
            gauge.inc_by(after - before);
        }
        self.lanes = lanes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(Lanes::default());
    }
}

#[cfg(test)]
mod tests {
    use hookwire_log::forward::now_ms;
    use hookwire_proto::log::{AttemptError, MessageRecord};

    use super::*;
    use crate::support::{Recipients, Reply, World, eventually, message};

    #[test]
    fn every_answer_and_reason_has_its_name() {
        let of = |status, error: AttemptError| {
            ANSWERS[answer(&AttemptResult { status, error: error.into(), ..Default::default() })]
        };
        for (status, name) in [(204, "2xx"), (301, "3xx"), (404, "4xx"), (429, "429"), (503, "5xx"), (700, "other")] {
            assert_eq!(of(status, AttemptError::Unspecified), name);
        }
        for number in 1..14 {
            let error = AttemptError::try_from(number).unwrap();
            assert_eq!(of(0, error), error.as_str_name().trim_start_matches("ATTEMPT_ERROR_").to_lowercase());
        }
        assert!(AttemptError::try_from(14).is_err(), "it needs a name here");
        for number in 1..8 {
            let reason = DeadReason::try_from(number).unwrap();
            let name = reason.as_str_name().trim_start_matches("DEAD_REASON_").to_lowercase();
            assert_eq!(DEAD[index(number, &DEAD)], name);
        }
        assert!(DeadReason::try_from(8).is_err(), "it needs a name here");
        assert_eq!((index(99, &DEAD), index(-1, &DEAD)), (0, 0));
    }

    #[tokio::test]
    async fn what_happens_is_counted() {
        let world = World::new(&["well", "ill"]);
        let recipients = Recipients::new(|attempt| {
            Reply::Status(if attempt.subscription.name.ends_with("ill") { 500 } else { 200 })
        });
        let running = [world.dispatch(), world.deliver(&recipients), world.retry()];
        let look = tokio::spawn(world.metrics.groups().clone().look(world.log.clone()));
        for id in ["m1", "m2"] {
            world.publish(MessageRecord { client_chosen_id: true, ..message(id) }).await;
        }
        world.publish(MessageRecord { client_chosen_id: true, ..message("m1") }).await;
        let shows = |line: &str| world.metrics.page(true, 1, Duration::ZERO).lines().any(|is| is == line);
        for line in [
            "hookwire_dispatched_messages_total{result=\"dispatched\"} 2",
            "hookwire_dispatched_messages_total{result=\"repeated\"} 1",
            "hookwire_dispatched_deliveries_total 4",
            "hookwire_attempts_total{answer=\"2xx\"} 2",
            "hookwire_attempts_total{answer=\"5xx\"} 8",
            "hookwire_attempt_outcomes_total{outcome=\"retry\"} 6",
            "hookwire_dead_letters_total{reason=\"exhausted\"} 2",
            "hookwire_first_attempt_delay_seconds_count 4",
            "hookwire_lanes{state=\"idle\"} 2",
            "hookwire_deliveries{state=\"under_way\"} 0",
            "hookwire_unfinished_records{stage=\"deliver\",topic=\"hookwire.deliveries\",partition=\"0\"} 0",
            "hookwire_oldest_unfinished_age_seconds{stage=\"dispatch\",topic=\"hookwire.messages\",partition=\"0\"} 0",
        ] {
            eventually(line, async || shows(line)).await;
        }
        for stage in running {
            stage.stop().await;
        }
        assert!(shows("hookwire_lanes{state=\"idle\"} 0"), "they went with their owner");
        look.abort();
    }

    #[test]
    fn shares_add_up_and_go_with_their_owners() {
        let metrics = Metrics::default();
        let (mut one, mut other) = (metrics.share(), metrics.share());
        let lanes = |slowed, queued| Lanes { lanes: [0, 0, slowed, 0], deliveries: [0, queued, 0, 0, 0] };
        one.set(lanes(2, 10));
        other.set(lanes(1, 5));
        one.set(lanes(1, 20));
        let shown = || (metrics.kept.lanes[2].get(), metrics.kept.deliveries[1].get());
        assert_eq!(shown(), (2, 25));
        drop(one);
        assert_eq!(shown(), (1, 5));
    }

    #[test]
    fn a_replay_and_a_ping_say_nothing_about_delay() {
        let metrics = Metrics::default();
        let attempt = AttemptRecord {
            number: 1,
            publish_time_ms: now_ms() - 50,
            time_ms: now_ms(),
            outcome: AttemptOutcome::Delivered.into(),
            result: Some(AttemptResult { status: 200, ..Default::default() }),
            ..Default::default()
        };
        metrics.attempted(&attempt);
        metrics.attempted(&AttemptRecord { replay: "tenants/t/replays/r".into(), ..attempt.clone() });
        metrics.attempted(&AttemptRecord { ping: true, ..attempt.clone() });
        let page = metrics.page(true, 7, Duration::ZERO);
        for line in [
            "hookwire_first_attempt_delay_seconds_count 1",
            "hookwire_attempts_total{answer=\"2xx\"} 3",
            "hookwire_attempt_outcomes_total{outcome=\"delivered\"} 2",
            "hookwire_config_revision 7",
            "hookwire_ready 1",
        ] {
            assert!(page.lines().any(|is| is == line), "{line} is not in {page}");
        }
    }
}
