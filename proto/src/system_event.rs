//! Event types of what Hookwire itself has to say. Nobody registers or publishes them, and `*` does not mean them: they reach only
//! subscriptions that name them, or a prefix such as `hookwire.*`.

/// The first part of each.
pub const RESERVED: &str = "hookwire";

/// A ping: what `PingSubscription` sends.
pub const PING: &str = "hookwire.ping";
/// Hookwire has disabled a subscription.
pub const SUBSCRIPTION_DISABLED: &str = "hookwire.subscription.disabled";
/// Deliveries of a subscription have run out of retries.
pub const DELIVERY_EXHAUSTED: &str = "hookwire.delivery.exhausted";
/// A secret is about to expire.
pub const SECRET_EXPIRING: &str = "hookwire.secret.expiring";
/// The addresses that requests to recipients come from have changed.
pub const EGRESS_CHANGED: &str = "hookwire.egress.changed";

/// Those that a subscription may name.
pub const ALL: [&str; 4] = [SUBSCRIPTION_DISABLED, DELIVERY_EXHAUSTED, SECRET_EXPIRING, EGRESS_CHANGED];

/// Whether it is one of them, or will be.
pub fn is_system_event(event_type: &str) -> bool {
    event_type.split('.').next() == Some(RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_makes_a_system_event() {
        assert!(ALL.iter().all(|one| is_system_event(one)) && is_system_event(PING));
        assert!(!is_system_event("hookwires.ping") && !is_system_event("invoice.hookwire"));
    }
}
