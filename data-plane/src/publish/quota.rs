//! How much a tenant may publish through this node: for each tenant a bucket of tokens that fills at an even pace (GCRA).
//!
//! A request is taken while the bucket is not empty, and then whole, so that the bucket may owe up to one batch. What a bucket owes it
//! makes up for before the next is taken: over time it is never more than the quota.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::validate::MAX_MESSAGES;

/// So many buckets are kept without looking whether some are full, which need not be.
const FEW: usize = 1_024;

/// How many messages are taken in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// From token to token.
    interval_ns: i64,
    /// How long the bucket takes to fill, without its first token.
    tolerance_ns: i64,
}

impl Quota {
    /// So many messages a second in the long run, and `burst` at once after a pause; 0 stands for what comes in one second, at least 1.
    pub fn new(messages_per_second: f64, burst: i32) -> Self {
        // What is no quota at all is one message in about three years; a cast saturates.
        let interval_ns = ((1e9 / messages_per_second.max(1e-8)).ceil() as i64).max(1);
        let burst = if burst > 0 { burst.into() } else { (messages_per_second as i64).max(1) };
        Self { interval_ns, tolerance_ns: interval_ns.saturating_mul(burst - 1) }
    }
}

/// The buckets of all tenants.
#[derive(Debug)]
pub(super) struct Quotas {
    /// Of tenants that have none of their own.
    usual: Option<Quota>,
    epoch: Instant,
    buckets: Mutex<Buckets>,
}

/// When each bucket is full, in nanoseconds since some time. One that is not here is full.
#[derive(Debug)]
struct Buckets {
    full_ns: HashMap<String, i64>,
    /// When there are so many, those that are full are forgotten.
    many: usize,
}

impl Quotas {
    /// `messages_per_second` for tenants without a quota of their own; 0: they have none.
    pub(super) fn new(messages_per_second: f64) -> Self {
        let usual = (messages_per_second > 0.0).then(|| Quota::new(messages_per_second, 0));
        let buckets = Mutex::new(Buckets { full_ns: HashMap::new(), many: FEW });
        Self { usual, epoch: Instant::now(), buckets }
    }

    /// Takes so many messages of a tenant, all or none.
    ///
    /// # Errors
    /// How long it is until some are taken again.
    pub(super) fn take(&self, tenant: &str, own: Option<Quota>, messages: usize) -> Result<(), Duration> {
        let Some(quota) = own.or(self.usual) else { return Ok(()) };
        let now_ns = i64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(tenant, quota, messages, now_ns)
    }
}

impl Buckets {
    fn take(&mut self, tenant: &str, quota: Quota, messages: usize, now_ns: i64) -> Result<(), Duration> {
        let interval = |messages: usize| quota.interval_ns.saturating_mul(i64::try_from(messages).unwrap_or(i64::MAX));
        if let Some(full_ns) = self.full_ns.get_mut(tenant) {
            // Not more than the quota that it has now lets it owe: it may have had a smaller one when it was used up.
            let most = now_ns.saturating_add(quota.tolerance_ns).saturating_add(interval(MAX_MESSAGES));
            *full_ns = (*full_ns).clamp(now_ns, most);
            let wait_ns = u64::try_from(*full_ns - now_ns - quota.tolerance_ns).unwrap_or_default();
            if wait_ns > 0 {
                return Err(Duration::from_nanos(wait_ns));
            }
            *full_ns = full_ns.saturating_add(interval(messages));
            return Ok(());
        }
        if self.full_ns.len() >= self.many {
            self.full_ns.retain(|_, full_ns| *full_ns > now_ns);
            self.many = (self.full_ns.len() * 2).max(FEW);
        }
        self.full_ns.insert(tenant.to_owned(), now_ns.saturating_add(interval(messages)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn buckets() -> Buckets {
        Buckets { full_ns: HashMap::new(), many: FEW }
    }

    #[test]
    fn a_burst_is_taken_and_then_so_many_a_second() {
        let (mut buckets, quota) = (buckets(), Quota::new(10.0, 5));
        for _ in 0..5 {
            buckets.take("a", quota, 1, 0).unwrap();
        }
        assert_eq!(buckets.take("a", quota, 1, 0), Err(Duration::from_millis(100)));
        buckets.take("b", quota, 1, 0).unwrap();
        buckets.take("a", quota, 1, SECOND / 10).unwrap();
        assert_eq!(buckets.take("a", quota, 1, SECOND / 10), Err(Duration::from_millis(100)));
    }

    #[test]
    fn a_batch_that_is_larger_than_the_burst_is_taken_and_made_up_for() {
        let (mut buckets, quota) = (buckets(), Quota::new(10.0, 1));
        buckets.take("a", quota, 100, 0).unwrap();
        assert_eq!(buckets.take("a", quota, 1, 0), Err(Duration::from_secs(10)));
        buckets.take("a", quota, 1, 10 * SECOND).unwrap();
    }

    #[test]
    fn a_larger_quota_helps_at_once() {
        let mut buckets = buckets();
        buckets.take("a", Quota::new(0.01, 1), 1_000, 0).unwrap();
        let larger = Quota::new(1_000.0, 1);
        assert_eq!(buckets.take("a", larger, 1, 0), Err(Duration::from_secs(1)));
        buckets.take("a", larger, 1, SECOND).unwrap();
    }

    #[test]
    fn idle_buckets_are_forgotten() {
        let (mut buckets, quota) = (buckets(), Quota::new(1.0, 1));
        for n in 0..10_000 {
            buckets.take(&n.to_string(), quota, 1, n * SECOND).unwrap();
        }
        assert!(buckets.full_ns.len() <= FEW, "{}", buckets.full_ns.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_without_a_quota_has_the_usual_one_if_there_is_one() {
        let (without, with) = (Quotas::new(0.0), Quotas::new(2.0));
        assert!((0..1_000).all(|_| without.take("a", None, 1_000).is_ok()));
        assert!(without.take("a", Some(Quota::new(1.0, 1)), 1).is_ok());
        assert!(without.take("a", Some(Quota::new(1.0, 1)), 1).is_err());
        assert!(with.take("a", None, 2).is_ok() && with.take("a", None, 1).is_err());
        assert!(with.take("b", Some(Quota::new(100.0, 0)), 50).is_ok(), "its own goes before");
    }

    proptest! {
        /// Whatever is asked for and when: in no time more is taken than the quota's rate, one burst and one batch.
        #[test]
        fn no_more_is_taken_than_the_quota_says(
            rate in 0.01..1e6_f64, burst in 1..100_i32,
            asked in proptest::collection::vec((0..2 * SECOND, 1..=MAX_MESSAGES), 1..200),
        ) {
            let (mut buckets, quota) = (buckets(), Quota::new(rate, burst));
            let (mut now, mut taken) = (0, 0);
            for (later, messages) in asked {
                now += later;
                if buckets.take("a", quota, messages, now).is_ok() {
                    taken += messages;
                }
                let most = rate * now as f64 / 1e9 + f64::from(burst) + MAX_MESSAGES as f64;
                prop_assert!(taken as f64 <= most, "{taken} of {most}");
            }
        }
    }
}
