//! What follows when the addresses that requests to recipients come from change.

use crate::store::EgressChange;

/// Called with the old and the new set when the set has changed, once for each change however many control planes there are (unless the one
/// that noticed it is killed between writing it down and this).
pub async fn changed(change: &EgressChange) {
    tracing::info!(
        before = change.before.join(" "),
        after = change.after.join(" "),
        complete = change.complete,
        "the addresses that requests come from have changed"
    );
}
