//! Which event types a pattern selects: a type (`invoice.paid`), a prefix (`invoice.*`) or `*` for all. One rule for whoever matches.

use std::iter::once;

use crate::system_event::is_system_event;

/// The patterns that select an event type, each as its beginning and its end: the type itself, its prefixes, and `*`, which does not
/// mean [system events](crate::system_event). A look-up for each finds all subscriptions to a type.
pub fn selecting(event_type: &str) -> impl Iterator<Item = (&str, &'static str)> {
    let prefixes = event_type.match_indices('.').map(|(dot, _)| (&event_type[..=dot], "*"));
    let all = (!is_system_event(event_type)).then_some(("", "*"));
    once((event_type, "")).chain(prefixes).chain(all)
}

/// Whether a pattern selects an event type.
pub fn selects(pattern: &str, event_type: &str) -> bool {
    selecting(event_type).any(|(beginning, end)| pattern.strip_prefix(beginning) == Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_selected_by_itself_its_prefixes_and_everything() {
        let of = |event_type| selecting(event_type).map(|(begin, end)| format!("{begin}{end}")).collect::<Vec<_>>();
        assert_eq!(of("invoice.paid.late"), ["invoice.paid.late", "invoice.*", "invoice.paid.*", "*"]);
        assert_eq!(of("invoice"), ["invoice", "*"]);
        assert_eq!(of("hookwire.secret.expiring"), ["hookwire.secret.expiring", "hookwire.*", "hookwire.secret.*"]);
        assert!(selects("invoice.*", "invoice.paid") && selects("*", "invoice.paid"));
        assert!(!selects("invoice.*", "invoice") && !selects("invoice", "invoice.paid"));
    }

    #[test]
    fn a_system_event_is_named_in_full_or_by_a_prefix_and_not_by_everything() {
        use crate::system_event::SECRET_EXPIRING;
        for pattern in ["hookwire.secret.expiring", "hookwire.secret.*", "hookwire.*"] {
            assert!(selects(pattern, SECRET_EXPIRING), "{pattern}");
        }
        for pattern in ["*", "hookwire.delivery.*", "hookwire.secret", "invoice.*"] {
            assert!(!selects(pattern, SECRET_EXPIRING), "{pattern}");
        }
    }
}
