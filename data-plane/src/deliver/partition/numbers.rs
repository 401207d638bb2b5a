//! An owner in numbers, for operators.

use std::time::Duration;

use super::{Entry, Owner};
use crate::metrics::Lanes;

/// How often they are counted.
pub(super) const EVERY: Duration = Duration::from_secs(1);

impl Owner {
    /// Counts, and tells the node.
    pub(super) fn count(&mut self) {
        let now = self.clock.now_ms();
        let (mut lanes, mut queued, mut deferred) = ([0; 4], 0, 0);
        for Entry { lane, .. } in self.lanes.values() {
            let state = match () {
                () if lane.is_idle(now) => 0,
                () if lane.is_pausing_beyond(now) => 3,
                () if lane.is_healthy(now) => 1,
                () => 2,
            };
            lanes[state] += 1;
            queued += lane.queued();
            deferred += usize::try_from(lane.backlog()).unwrap_or(usize::MAX);
        }
        let waiting = self.soon.len() + self.parked.len() + usize::from(self.waiting.is_some());
        let deliveries = [self.attempts.len(), queued, waiting, deferred, self.ordered.held()];
        self.share.set(Lanes { lanes, deliveries: deliveries.map(|count| i64::try_from(count).unwrap_or(i64::MAX)) });
    }
}
