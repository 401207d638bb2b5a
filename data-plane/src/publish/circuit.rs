//! Whether the log is away, as far as publishing can tell, so that callers need not wait to be told so.
//!
//! It counts as away when an append fails or is not acknowledged in time, and none was acknowledged since that one was begun: where
//! only some partitions are in trouble, the others keep it open. While it is away, one call at a time is let through to see whether it
//! is back; any acknowledgement says that it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;

use crate::error::Error;

/// What is known of the log.
#[derive(Debug)]
pub(super) struct Circuit {
    epoch: Instant,
    /// When an append was acknowledged last, in microseconds since `epoch`.
    acknowledged: AtomicU64,
    is_away: AtomicBool,
    is_probed: AtomicBool,
}

/// The call that sees whether the log is back. The next one does when this is dropped.
#[derive(Debug)]
pub(super) struct Probe(Arc<Circuit>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.is_probed.store(false, Ordering::Release);
    }
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            acknowledged: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            is_probed: AtomicBool::new(false),
        }
    }
}

impl Circuit {
    /// Lets a call append; with a probe to be kept until its appends have come to something, if the log is away.
    ///
    /// # Errors
    /// [`Error::LogUnavailable`] while the log is away and probed already.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Option<Probe>, Error> {
        if !self.is_away() {
            return Ok(None);
        }
        match self.is_probed.swap(true, Ordering::AcqRel) {
            true => Err(Error::LogUnavailable),
            false => Ok(Some(Probe(Arc::clone(self)))),
        }
    }

    /// Whether the log is away.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// An append was acknowledged.
    pub(super) fn acknowledged(&self) {
        self.acknowledged.fetch_max(self.since_epoch(Instant::now()), Ordering::AcqRel);
        if self.is_away() && self.is_away.swap(false, Ordering::AcqRel) {
            tracing::info!("the log acknowledges messages again");
        }
    }

    /// An append that was begun then was not acknowledged.
    pub(super) fn failed(&self, begun: Instant, error: &hookwire_log::Error) {
        if self.acknowledged.load(Ordering::Acquire) < self.since_epoch(begun)
            && !self.is_away.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(%error, "the log does not acknowledge messages: calls are refused until it does");
        }
    }

    fn since_epoch(&self, time: Instant) -> u64 {
        // From 1, so that nothing was acknowledged before the first append.
        u64::try_from(time.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn down() -> hookwire_log::Error {
        hookwire_log::Error::Unavailable { detail: "down".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_log_is_away_one_call_at_a_time_sees_whether_it_is_back() {
        let circuit = Arc::new(Circuit::default());
        assert!(circuit.admit().unwrap().is_none());
        circuit.failed(Instant::now(), &down());
        let probe = circuit.admit().unwrap();
        assert!(probe.is_some());
        assert_eq!(circuit.admit().unwrap_err(), Error::LogUnavailable);
        drop(probe);
        let probe = circuit.admit().unwrap();
        assert!(probe.is_some());
        circuit.acknowledged();
        assert!(circuit.admit().unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_log_that_is_away_is_not_the_log() {
        let circuit = Arc::new(Circuit::default());
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        circuit.acknowledged();
        circuit.failed(begun, &down());
        assert!(circuit.admit().unwrap().is_none(), "another append was acknowledged meanwhile");
        tokio::time::advance(Duration::from_secs(1)).await;
        circuit.failed(Instant::now(), &down());
        assert!(circuit.admit().unwrap().is_some());
    }
}
