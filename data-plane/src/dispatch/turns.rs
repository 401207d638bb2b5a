//! Tenants in turn: what one has very much of does not stand in front of what another has little of. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What waits for its turn: of a tenant in the order in which it came, and of the tenants one each in turn.
#[derive(Debug)]
pub struct Turns<T> {
    /// Those that have something.
    tenants: HashMap<Arc<str>, VecDeque<T>>,
    /// The same, in turn.
    order: VecDeque<Arc<str>>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Comes last of its tenant's.
    pub fn push(&mut self, tenant: Arc<str>, item: T) {
        let items = self.tenants.entry(tenant.clone()).or_default();
        items.push_back(item);
        if items.len() == 1 {
            self.order.push_back(tenant);
        }
    }

    /// The next, of the first tenant that may have a turn.
    pub fn pop(&mut self, may: impl Fn(&Arc<str>) -> bool) -> Option<T> {
        let tenant = self.order.remove(self.order.iter().position(may)?)?;
        let items = self.tenants.get_mut(&tenant)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
        item
    }

    /// Keeps only these.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.tenants.retain(|_, items| {
            items.retain(&keep);
            !items.is_empty()
        });
        self.order.retain(|tenant| self.tenants.contains_key(tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(items: &[(&str, usize)]) -> Turns<(Arc<str>, usize)> {
        let mut turns = Turns::default();
        for (tenant, item) in items {
            turns.push(Arc::from(*tenant), (Arc::from(*tenant), *item));
        }
        turns
    }

    fn all(turns: &mut Turns<(Arc<str>, usize)>) -> Vec<String> {
        std::iter::from_fn(|| turns.pop(|_| true)).map(|(tenant, item)| format!("{tenant}{item}")).collect()
    }

    #[test]
    fn tenants_have_turns_and_each_keeps_its_order() {
        let mut turns = turns(&[("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("c", 0), ("b", 1)]);
        assert_eq!(all(&mut turns), ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]);
        assert!(turns.is_empty() && turns.tenants.is_empty());
    }

    #[test]
    fn who_may_not_keeps_its_place_and_holds_up_nobody() {
        let mut turns = turns(&[("a", 0), ("a", 1), ("b", 0), ("c", 0)]);
        let not_a = |tenant: &Arc<str>| **tenant != *"a";
        let of = |popped: Option<(Arc<str>, usize)>| popped.map(|(tenant, _)| tenant.to_string());
        assert_eq!(of(turns.pop(not_a)), Some("b".into()));
        assert_eq!(of(turns.pop(|_| true)), Some("a".into()));
        assert_eq!(of(turns.pop(not_a)), Some("c".into()));
        assert_eq!(of(turns.pop(not_a)), None);
        assert!(!turns.is_empty());
    }

    #[test]
    fn who_has_nothing_left_has_no_turn_either() {
        let mut turns = turns(&[("a", 0), ("b", 0), ("b", 1)]);
        turns.retain(|(_, item)| *item > 0);
        assert_eq!(all(&mut turns), ["b1"]);
        assert!(turns.is_empty());
    }
}
