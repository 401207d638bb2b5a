//! What follows when the addresses that requests to recipients come from change.

use crate::store::EgressChange;

/// Logs a change of the set, once for each however many control planes there are. Recipients and the operator are told by the event
/// `hookwire.egress.changed`, whose notice was written down with the change.
pub fn changed(change: &EgressChange) {
    tracing::info!(
        before = change.before.join(" "),
        after = change.after.join(" "),
        complete = change.complete,
        "the addresses that requests come from have changed"
    );
}
