//! The tenants whose deliveries share a partition: one that has very many, be it a flood of messages or one message to very many
//! subscriptions, leaves the others their part of the node. Pure: time is passed in, in milliseconds since 1970.
//!
//! While others have deliveries, too, a tenant may have only so many young attempts: those that have just begun, and still want to be
//! signed, connected and sent. One that waits for its recipient is not young, since it takes nothing from anybody. The lanes of a tenant
//! that has as many as it may stand in line, and begin one attempt each in turn.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::company::Company;

/// Young attempts of a tenant in a partition, while it is not alone there.
const PLACES: usize = 16;
/// For how long an attempt is young, unless it ends before.
const YOUNG_MS: i64 = 50;

/// A young attempt's place, to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// The tenants of a partition.
#[derive(Debug, Default)]
pub struct Tenants {
    company: Company,
    /// Those with young attempts, or with lanes in line.
    tenants: HashMap<Arc<str>, Tenant>,
    /// Tenants with lanes in line, in turn.
    lines: VecDeque<Arc<str>>,
    /// By age: whose they are, and until when they are young.
    young: BTreeMap<Place, (Arc<str>, i64)>,
    next: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    young: usize,
    line: VecDeque<Arc<str>>,
    in_line: HashSet<Arc<str>>,
}

impl Tenants {
    /// A delivery of a tenant has come.
    pub fn came(&mut self, tenant: &str, now_ms: i64) {
        self.company.came(tenant, now_ms);
    }

    /// Whether nobody else has had a delivery lately.
    pub fn is_alone(&self, tenant: &str, now_ms: i64) -> bool {
        self.company.is_alone(tenant, now_ms)
    }

    /// Whether a tenant may begin an attempt without standing in line.
    pub fn may_begin(&mut self, tenant: &str, now_ms: i64) -> bool {
        self.grow_old(now_ms);
        let Some(known) = self.tenants.get(tenant) else { return true };
        (known.line.is_empty() && known.young < PLACES) || self.is_alone(tenant, now_ms)
    }

    /// A tenant begins an attempt.
    pub fn begin(&mut self, tenant: &str, now_ms: i64) -> Place {
        let tenant = self.name(tenant);
        self.tenants.entry(tenant.clone()).or_default().young += 1;
        let place = Place(self.next);
        self.next += 1;
        self.young.insert(place, (tenant, now_ms.saturating_add(YOUNG_MS)));
        place
    }

    /// An attempt has ended.
    pub fn ended(&mut self, place: Place) {
        if let Some((tenant, _)) = self.young.remove(&place) {
            self.leaves(&tenant);
        }
    }

    /// A lane stands in line, if it does not yet.
    pub fn line_up(&mut self, tenant: &str, lane: &Arc<str>) {
        let name = self.name(tenant);
        let tenant = self.tenants.entry(name.clone()).or_default();
        if !tenant.in_line.insert(lane.clone()) {
            return;
        }
        tenant.line.push_back(lane.clone());
        if tenant.line.len() == 1 {
            self.lines.push_back(name);
        }
    }

    /// The next lane that may begin one attempt. It stands in line no more.
    pub fn next_in_line(&mut self, now_ms: i64) -> Option<Arc<str>> {
        self.grow_old(now_ms);
        for _ in 0..self.lines.len() {
            let name = self.lines.pop_front()?;
            let is_alone = self.is_alone(&name, now_ms);
            let tenant = self.tenants.get_mut(&name)?;
            if tenant.young >= PLACES && !is_alone {
                self.lines.push_back(name);
                continue;
            }
            let lane = tenant.line.pop_front()?;
            tenant.in_line.remove(&lane);
            if !tenant.line.is_empty() {
                self.lines.push_back(name);
            } else if tenant.young == 0 {
                self.tenants.remove(&name);
            }
            return Some(lane);
        }
        None
    }

    /// When there is a place for those in line, if no attempt ends before; that may be now.
    pub fn wake_ms(&self) -> Option<i64> {
        if self.lines.iter().any(|tenant| self.tenants[tenant].young < PLACES) {
            return Some(i64::MIN);
        }
        let (_, until_ms) = self.young.first_key_value().filter(|_| !self.lines.is_empty())?.1;
        Some(*until_ms)
    }

    fn grow_old(&mut self, now_ms: i64) {
        while let Some(oldest) = self.young.first_entry().filter(|oldest| oldest.get().1 <= now_ms) {
            let (tenant, _) = oldest.remove();
            self.leaves(&tenant);
        }
    }

    fn leaves(&mut self, name: &Arc<str>) {
        let tenant = self.tenants.get_mut(name).expect("it has a young attempt");
        tenant.young -= 1;
        if tenant.young == 0 && tenant.line.is_empty() {
            self.tenants.remove(name);
        }
    }

    fn name(&self, tenant: &str) -> Arc<str> {
        self.tenants.get_key_value(tenant).map_or_else(|| tenant.into(), |(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(n: usize) -> Arc<str> {
        format!("lane{n}").into()
    }

    /// Two tenants that have deliveries, the first as many young attempts as it may have.
    fn full() -> (Tenants, Vec<Place>) {
        let mut tenants = Tenants::default();
        tenants.came("a", 0);
        tenants.came("b", 0);
        let places = (0..PLACES)
            .map(|_| {
                assert!(tenants.may_begin("a", 0));
                tenants.begin("a", 0)
            })
            .collect();
        (tenants, places)
    }

    #[test]
    fn who_is_alone_begins_what_it_likes_until_another_comes() {
        let mut tenants = Tenants::default();
        tenants.came("a", 0);
        for now in 0..1_000 {
            assert!(tenants.is_alone("a", now) && tenants.may_begin("a", 0));
            tenants.begin("a", 0);
        }
        tenants.came("b", 0);
        assert!(!tenants.may_begin("a", 0) && tenants.may_begin("b", 0));
    }

    #[test]
    fn a_place_is_free_when_an_attempt_has_ended_or_is_young_no_more() {
        let (mut tenants, places) = full();
        assert!(!tenants.may_begin("a", YOUNG_MS - 1) && tenants.may_begin("b", YOUNG_MS - 1));
        tenants.ended(places[3]);
        assert!(tenants.may_begin("a", 1));
        tenants.begin("a", 1);
        assert!(!tenants.may_begin("a", 1));
        assert!(tenants.may_begin("a", YOUNG_MS));
        // Those that grew old meanwhile have none to give back.
        places.into_iter().for_each(|place| tenants.ended(place));
        for _ in 1..PLACES {
            assert!(tenants.may_begin("a", YOUNG_MS));
            tenants.begin("a", YOUNG_MS);
        }
        assert!(!tenants.may_begin("a", YOUNG_MS));
    }

    #[test]
    fn lanes_in_line_take_turns_and_nobody_passes_them() {
        let (mut tenants, places) = full();
        assert_eq!(tenants.wake_ms(), None, "nobody waits");
        (0..3).for_each(|n| tenants.line_up("a", &lane(n)));
        tenants.line_up("a", &lane(0));
        assert_eq!((tenants.next_in_line(1), tenants.wake_ms()), (None, Some(YOUNG_MS)));
        tenants.ended(places[0]);
        assert!(!tenants.may_begin("a", 1), "others are in line");
        assert_eq!(tenants.next_in_line(1), Some(lane(0)));
        tenants.begin("a", 1);
        tenants.line_up("a", &lane(0));
        assert_eq!(tenants.next_in_line(1), None);
        let turns: Vec<_> = std::iter::from_fn(|| tenants.next_in_line(YOUNG_MS)).collect();
        assert_eq!(turns, [lane(1), lane(2), lane(0)]);
        assert!(tenants.may_begin("a", YOUNG_MS));
    }

    #[test]
    fn places_that_another_tenant_has_found_to_be_free_are_not_forgotten() {
        let (mut tenants, _) = full();
        tenants.line_up("a", &lane(0));
        assert_eq!(tenants.wake_ms(), Some(YOUNG_MS));
        assert!(tenants.may_begin("b", YOUNG_MS));
        assert!(tenants.wake_ms().is_some_and(|at_ms| at_ms <= YOUNG_MS));
        assert_eq!((tenants.next_in_line(YOUNG_MS), tenants.wake_ms()), (Some(lane(0)), None));
    }

    #[test]
    fn two_that_have_very_many_take_turns() {
        let (mut tenants, _) = full();
        (0..PLACES).for_each(|_| _ = tenants.begin("b", 0));
        (0..2).for_each(|n| tenants.line_up("a", &lane(n)));
        (2..4).for_each(|n| tenants.line_up("b", &lane(n)));
        let turns: Vec<_> = std::iter::from_fn(|| tenants.next_in_line(YOUNG_MS)).collect();
        assert_eq!(turns, [lane(0), lane(2), lane(1), lane(3)]);
    }

    #[test]
    fn nothing_is_remembered_of_who_has_nothing() {
        let (mut tenants, places) = full();
        tenants.line_up("a", &lane(0));
        places.into_iter().for_each(|place| tenants.ended(place));
        assert_eq!(tenants.next_in_line(0), Some(lane(0)));
        assert!(tenants.tenants.is_empty() && tenants.lines.is_empty() && tenants.young.is_empty());
    }
}
