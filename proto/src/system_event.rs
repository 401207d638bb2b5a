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

/// Whether a subscription to `pattern` wants the system event `event_type`.
pub fn is_named_by(event_type: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => prefix.ends_with('.') && event_type.starts_with(prefix),
        None => pattern == event_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_event_is_named_in_full_or_by_a_prefix_and_not_by_everything() {
        assert!(ALL.iter().all(|one| is_system_event(one)) && is_system_event(PING));
        assert!(!is_system_event("hookwires.ping") && !is_system_event("invoice.hookwire"));
        for pattern in ["hookwire.secret.expiring", "hookwire.secret.*", "hookwire.*"] {
            assert!(is_named_by(SECRET_EXPIRING, pattern), "{pattern}");
        }
        for pattern in ["*", "hookwire.delivery.*", "hookwire.secret", "invoice.*"] {
            assert!(!is_named_by(SECRET_EXPIRING, pattern), "{pattern}");
        }
    }
}
