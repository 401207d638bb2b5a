//! Deletes secrets some time after they have expired. Nodes stop using them at their time by themselves; this only tidies up.
//! Every control plane does it, whichever comes first.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// How often it is looked for them.
const EVERY: Duration = Duration::from_secs(30);
/// How long they stay, so that people see what has happened, and a node whose clock is behind does not miss one too early.
const KEPT: Duration = Duration::from_secs(60);
/// Subscriptions that are looked at each time; the rest waits for the next.
const LIMIT: u64 = 200;

/// Deletes expired secrets until `shutdown`.
pub async fn run(store: Store, shutdown: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        match store.delete_expired_secrets(OffsetDateTime::now_utc() - KEPT, LIMIT).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "expired secrets deleted"),
            // The next time; push says that the store is away.
            Err(error) => tracing::debug!(%error, "expired secrets cannot be deleted"),
        }
    }
}
