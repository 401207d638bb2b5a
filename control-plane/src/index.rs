//! The index: what dispatch and deliver say in `attempts`, and what came to nothing in `dead-letters`, so that people can ask.
//!
//! * [`Observe`]: whoever wants to see every attempt, such as health

use async_trait::async_trait;
use hookwire_proto::log::AttemptRecord;

/// Sees every attempt that is in the log, whatever the index keeps of it.
#[async_trait]
pub trait Observe: Send + Sync + 'static {
    /// Attempts of one tenant, in the order of the log. Their offset is finished only after this has returned, so what
    /// follows from them is to be durable by then, however long that takes; dropped when the partition is another's. At least
    /// once: after a crash the same attempts come again.
    async fn observe(&self, attempts: &[AttemptRecord]);
}
