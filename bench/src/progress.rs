//! How far stages have got.

use std::time::Duration;

use anyhow::Result;
use hookwire_log::{Log, Topic};
use hookwire_tests::wait_until;

/// Waits until consumer groups have finished all that there is in the topics that they read.
///
/// # Errors
/// When it takes longer than `limit`, or the log can't be asked.
pub async fn finished(log: &dyn Log, groups: &[(&str, Topic)], limit: Duration) -> Result<()> {
    wait_until("everything is finished", limit, async || {
        for &(group, topic) in groups {
            for partition in 0..log.layout().partitions(topic) {
                let next = log.bounds(topic, partition).await?.next;
                let committed = log.committed(group, topic, partition).await?;
                if committed.map_or(0, |committed| committed.next) < next {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })
    .await
    .map(drop)
}
