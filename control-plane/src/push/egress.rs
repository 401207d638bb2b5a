//! What follows when the addresses that requests to recipients come from change.

use crate::store::EgressChange;

/// Logs a change of the set, once for each however many control planes there are (not at all if the one that noticed it is killed between
/// writing it down and this). Recipients learn of it from the list alone, whose `update_time` says when: the event
/// `hookwire.egress.changed` is published by nobody yet (issue 4, points 6 and 8), and here is where it is to be.
pub fn changed(change: &EgressChange) {
    tracing::info!(
        before = change.before.join(" "),
        after = change.after.join(" "),
        complete = change.complete,
        "the addresses that requests come from have changed"
    );
}
