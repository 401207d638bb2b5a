//! How many messages of a tenant the log has at a time, without having acknowledged them, while other tenants publish through this node as
//! well: the log takes what it gets in turn, so that all would wait for those that one tenant publishes at once. Who is alone may have any
//! number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::company::Company;

/// Messages of a tenant that is not alone: as many as fill a request of some dozen kilobytes to each partition.
pub(super) const SHARED: usize = 128;

/// So many tenants are kept without looking whether some have nothing under way.
const FEW: usize = 1_024;

/// The places of all tenants.
#[derive(Debug)]
pub(super) struct Shares {
    epoch: Instant,
    tenants: Mutex<Tenants>,
}

#[derive(Debug)]
struct Tenants {
    company: Company,
    places: HashMap<String, Arc<Semaphore>>,
    /// When there are so many, those that nobody holds are forgotten.
    many: usize,
}

impl Default for Shares {
    fn default() -> Self {
        let tenants = Tenants { company: Company::default(), places: HashMap::new(), many: FEW };
        Self { epoch: Instant::now(), tenants: Mutex::new(tenants) }
    }
}

impl Shares {
    /// Messages of a tenant have come.
    pub(super) fn came(&self, tenant: &str) {
        let now_ms = self.now_ms();
        self.tenants().company.came(tenant, now_ms);
    }

    /// Whether no other tenant has published lately.
    pub(super) fn is_alone(&self, tenant: &str) -> bool {
        let now_ms = self.now_ms();
        self.tenants().company.is_alone(tenant, now_ms)
    }

    /// A tenant's places, the same ones for all who ask for them while somebody has them.
    pub(super) fn places(&self, tenant: &str) -> Arc<Semaphore> {
        let mut tenants = self.tenants();
        if let Some(places) = tenants.places.get(tenant) {
            return Arc::clone(places);
        }
        if tenants.places.len() >= tenants.many {
            tenants.places.retain(|_, places| Arc::strong_count(places) > 1);
            tenants.many = (tenants.places.len() * 2).max(FEW);
        }
        let places = Arc::new(Semaphore::new(SHARED));
        tenants.places.insert(tenant.to_owned(), Arc::clone(&places));
        places
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn tenants(&self) -> MutexGuard<'_, Tenants> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_tenants_own_and_are_forgotten_when_nobody_has_them() {
        let shares = Shares::default();
        let held = shares.places("a");
        held.clone().try_acquire_many_owned(SHARED as u32).unwrap().forget();
        for tenant in 0..2 * FEW {
            assert_eq!(shares.places(&tenant.to_string()).available_permits(), SHARED);
        }
        assert!(shares.tenants().places.len() <= FEW + 1);
        assert_eq!(shares.places("a").available_permits(), 0, "somebody has them");
        drop(held);
    }
}
