//! How a receiver answers, as it was told on the command line. Pure.

use std::time::Duration;

/// What the receiver was told.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Fail the first so many requests of each message, then succeed.
    pub fail: Option<u32>,
    /// Status of failures, or of every answer where `fail` is not set.
    pub status: Option<u16>,
    /// `retry-after` of failures.
    pub retry_after: Option<Duration>,
    /// How long the answer takes.
    pub delay: Duration,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `retry-after`, in seconds.
    pub retry_after: Option<u64>,
}

impl Plan {
    /// The answer to a request whose message was asked about `before` times before.
    pub fn answer(&self, before: u32) -> Answer {
        let fails = match self.fail {
            Some(first) => before < first,
            None => self.status.is_some() || self.retry_after.is_some(),
        };
        if !fails {
            return Answer { status: 200, retry_after: None };
        }
        let usual = if self.retry_after.is_some() { 429 } else { 500 };
        // Whole seconds are all that the header can say: never earlier than asked for.
        let retry_after = self.retry_after.map(|after| after.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        Answer { status: self.status.unwrap_or(usual), retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn succeeds_unless_told_otherwise() {
        assert_eq!(Plan::default().answer(0), Answer { status: 200, retry_after: None });
    }

    #[test]
    fn fails_the_first_and_then_succeeds() {
        let plan = Plan { fail: Some(2), ..Plan::default() };
        let statuses: Vec<_> = (0..4).map(|before| plan.answer(before).status).collect();
        assert_eq!(statuses, [500, 500, 200, 200]);
    }

    #[test]
    fn a_status_alone_is_for_every_answer() {
        let plan = Plan { status: Some(410), ..Plan::default() };
        assert_eq!(plan.answer(99).status, 410);
    }

    #[test]
    fn retry_after_means_too_many_requests_and_rounds_up() {
        let plan = Plan { fail: Some(1), retry_after: Some(Duration::from_millis(1500)), ..Plan::default() };
        assert_eq!(plan.answer(0), Answer { status: 429, retry_after: Some(2) });
        assert_eq!(plan.answer(1), Answer { status: 200, retry_after: None });
        let unavailable = Plan { status: Some(503), ..plan };
        assert_eq!(unavailable.answer(0), Answer { status: 503, retry_after: Some(2) });
    }
}
