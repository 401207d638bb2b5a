//! Between attempts: when a delivery is due again ([`schedule`]), and the topics in which it waits until then
//! ([`scheduler`]).

use hookwire_log::{Layout, Topic};

use crate::stage::until;

pub mod schedule;
pub mod scheduler;

pub use scheduler::run;

/// Where a delivery belongs that is due at `due_ms`: the largest tier that fits what remains, or `deliveries`.
pub(crate) fn topic(layout: &Layout, due_ms: i64, now_ms: i64) -> Topic {
    layout.tier(until(due_ms, now_ms)).unwrap_or(Topic::Deliveries)
}

/// The smallest tier.
pub(crate) const SMALLEST: Topic = Topic::Retries(0);
