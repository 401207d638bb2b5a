//! Which steps of deliveries an owner has seen lately.

use std::collections::HashSet;

use hookwire_proto::log::DeliveryRecord;

/// The steps of deliveries that an owner has seen lately, so that a record that is doubled doesn't double all that follow.
#[derive(Default)]
pub(super) struct Seen {
    recent: HashSet<(u128, i32, i32)>,
    older: HashSet<(u128, i32, i32)>,
}

/// The hash that a delivery's id is.
pub(super) fn number(delivery_id: &str) -> Option<u128> {
    delivery_id.strip_prefix("dlv_").and_then(|hex| u128::from_str_radix(hex, 16).ok())
}

impl Seen {
    /// The least number of steps that are remembered.
    pub const REMEMBERED: usize = 8_192;

    pub fn is_new(&mut self, delivery: &DeliveryRecord) -> bool {
        // An id of another form is none of ours: two of those are never taken for one.
        let Some(id) = number(&delivery.delivery_id) else { return true };
        let step = (id, delivery.attempt, delivery.deferrals);
        if self.older.contains(&step) || !self.recent.insert(step) {
            return false;
        }
        if self.recent.len() >= Self::REMEMBERED {
            self.older = std::mem::take(&mut self.recent);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::delivery;

    #[test]
    fn a_step_is_new_once_and_the_next_step_is_another() {
        let mut seen = Seen::default();
        let first = delivery("m", "a");
        assert!(seen.is_new(&first) && !seen.is_new(&first));
        assert!(seen.is_new(&DeliveryRecord { attempt: 2, ..first.clone() }));
        assert!(seen.is_new(&DeliveryRecord { deferrals: 1, ..first.clone() }));
        assert!(seen.is_new(&delivery("m", "b")));
    }

    #[test]
    fn ids_of_another_form_are_never_taken_for_repetitions() {
        let mut seen = Seen::default();
        let other = DeliveryRecord { delivery_id: "other".into(), ..delivery("m", "a") };
        assert!(seen.is_new(&other) && seen.is_new(&other));
    }

    #[test]
    fn so_many_are_remembered_and_not_without_bound() {
        let mut seen = Seen::default();
        let step = |attempt| DeliveryRecord { attempt, ..delivery("m", "a") };
        let many = i32::try_from(Seen::REMEMBERED).unwrap();
        (0..many * 3).for_each(|n| assert!(seen.is_new(&step(n))));
        assert!((many * 2..many * 3).all(|n| !seen.is_new(&step(n))));
        assert!(seen.recent.len() + seen.older.len() <= 2 * Seen::REMEMBERED);
    }
}
