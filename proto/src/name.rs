//! Resource names (AIP-122) and ids: parsed, checked and made here and nowhere else.
//!
//! A name is text in the API and in records; these types exist where its parts are needed.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A name or an id that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name is not of the resource's pattern.
    #[error("must be a name of the form `{pattern}`")]
    Pattern {
        /// The pattern, such as `tenants/{tenant}`.
        pattern: &'static str,
    },
    /// A chosen id, or the one in a name, is malformed.
    #[error("the id must be {rule}")]
    Id {
        /// What an id must be, for people.
        rule: &'static str,
    },
}

/// What ids of tenants, subscriptions, secrets and API keys must be, for people.
pub const ID_RULE: &str =
    "1 to 63 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen";
/// What message ids must be, for people.
pub const MESSAGE_ID_RULE: &str = "1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_` and `-`";
/// What event types must be, for people.
pub const EVENT_TYPE_RULE: &str =
    "1 to 128 characters: parts of `A-Z`, `a-z`, `0-9` and `_`, joined by dots, such as `invoice.paid`";

/// Checks an id against [`ID_RULE`].
///
/// # Errors
/// [`Error::Id`].
pub fn check_id(id: &str) -> Result<(), Error> {
    let valid = (1..=63).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && !id.ends_with('-')
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if valid { Ok(()) } else { Err(Error::Id { rule: ID_RULE }) }
}

/// Checks a message id against [`MESSAGE_ID_RULE`].
///
/// # Errors
/// [`Error::Id`].
pub fn check_message_id(id: &str) -> Result<(), Error> {
    let valid = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if valid { Ok(()) } else { Err(Error::Id { rule: MESSAGE_ID_RULE }) }
}

/// Checks an event type against [`EVENT_TYPE_RULE`].
///
/// # Errors
/// [`Error::Id`].
pub fn check_event_type(event_type: &str) -> Result<(), Error> {
    let valid = event_type.len() <= 128
        && event_type
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    if valid { Ok(()) } else { Err(Error::Id { rule: EVENT_TYPE_RULE }) }
}

/// What a subscription may ask for, for people.
pub const EVENT_PATTERN_RULE: &str = "an event type such as `invoice.paid`, a prefix such as `invoice.*`, or `*`";

/// Checks what a subscription asks for against [`EVENT_PATTERN_RULE`].
///
/// # Errors
/// [`Error::Id`].
pub fn check_event_pattern(pattern: &str) -> Result<(), Error> {
    let named = pattern.strip_suffix(".*").unwrap_or(pattern);
    let valid = pattern == "*" || check_event_type(named).is_ok();
    if valid { Ok(()) } else { Err(Error::Id { rule: EVENT_PATTERN_RULE }) }
}

/// What node ids must be, for people.
pub const NODE_ID_RULE: &str = "1 to 63 lower-case letters, digits and hyphens";

/// Checks a node's id against [`NODE_ID_RULE`].
///
/// # Errors
/// [`Error::Id`].
pub fn check_node_id(id: &str) -> Result<(), Error> {
    let in_id = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=63).contains(&id.len()) && id.bytes().all(in_id);
    if valid { Ok(()) } else { Err(Error::Id { rule: NODE_ID_RULE }) }
}

/// Checks an attempt's id: `att_` and 32 hexadecimal digits.
///
/// # Errors
/// [`Error::Id`].
pub fn check_attempt_id(id: &str) -> Result<(), Error> {
    check_key(id, ATTEMPT, "`att_` and 32 hexadecimal digits")
}

/// Checks a delivery's id: `dlv_` and 32 hexadecimal digits.
///
/// # Errors
/// [`Error::Id`].
pub fn check_delivery_id(id: &str) -> Result<(), Error> {
    check_key(id, DELIVERY, "`dlv_` and 32 hexadecimal digits")
}

/// Checks a dead letter's id: `dlt_` and 32 hexadecimal digits.
///
/// # Errors
/// [`Error::Id`].
pub fn check_dead_letter_id(id: &str) -> Result<(), Error> {
    check_key(id, DEAD_LETTER, "`dlt_` and 32 hexadecimal digits")
}

/// What an attempt's id begins with.
pub const ATTEMPT: &str = "att_";
/// What a delivery's id begins with.
pub const DELIVERY: &str = "dlv_";
/// What a dead letter's id begins with.
pub const DEAD_LETTER: &str = "dlt_";

fn check_key(id: &str, prefix: &str, rule: &'static str) -> Result<(), Error> {
    key_of(prefix, id).map(drop).ok_or(Error::Id { rule })
}

/// The 16 bytes that an id holds in hex behind its prefix, such as [`ATTEMPT`]; `None` if it is none. What gets through
/// [`id_of_key`] again is the same id.
pub fn key_of(prefix: &str, id: &str) -> Option<[u8; 16]> {
    let digits = id.strip_prefix(prefix)?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != 32 || !digits.bytes().all(is_hex) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

/// The id that holds these bytes.
pub fn id_of_key(prefix: &str, key: [u8; 16]) -> String {
    format!("{prefix}{}", hex::encode(key))
}

/// Checks an id that is not the last of its name.
fn check_above(collection: &str, id: &str) -> Result<(), Error> {
    if collection == "messages" { check_message_id(id) } else { check_id(id) }
}

macro_rules! resource {
    ($(#[$doc:meta])* $type:ident, $pattern:literal, $check:ident, [$($collection:literal $field:ident),+]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type {
            $(
                #[doc = concat!("Id below `", $collection, "/`.")]
                pub $field: String,
            )+
        }

        impl $type {
            /// The pattern of these names.
            pub const PATTERN: &'static str = $pattern;

            /// Parses a name.
            ///
            /// # Errors
            /// [`Error::Pattern`] for another form, [`Error::Id`] for a malformed id.
            pub fn parse(name: &str) -> Result<Self, Error> {
                let wrong = || Error::Pattern { pattern: Self::PATTERN };
                let mut parts = name.split('/');
                $(
                    if parts.next() != Some($collection) {
                        return Err(wrong());
                    }
                    let $field = parts.next().ok_or_else(wrong)?.to_owned();
                )+
                if parts.next().is_some() {
                    return Err(wrong());
                }
                let ids = [$(($collection, &$field)),+];
                for (at, (collection, id)) in ids.iter().enumerate() {
                    if at + 1 == ids.len() { $check(id)? } else { check_above(collection, id)? }
                }
                Ok(Self { $($field),+ })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                $(
                    write!(f, "{separator}{}/{}", $collection, self.$field)?;
                    separator = "/";
                )+
                let _ = separator;
                Ok(())
            }
        }
    };
}

resource!(
    /// `tenants/{tenant}`
    Tenant, "tenants/{tenant}", check_id, ["tenants" tenant]
);
resource!(
    /// `tenants/{tenant}/eventTypes/{event_type}`
    EventType, "tenants/{tenant}/eventTypes/{event_type}", check_event_type,
    ["tenants" tenant, "eventTypes" event_type]
);
resource!(
    /// `tenants/{tenant}/subscriptions/{subscription}`
    Subscription, "tenants/{tenant}/subscriptions/{subscription}", check_id,
    ["tenants" tenant, "subscriptions" subscription]
);
resource!(
    /// `tenants/{tenant}/subscriptions/{subscription}/secrets/{secret}`
    Secret, "tenants/{tenant}/subscriptions/{subscription}/secrets/{secret}", check_id,
    ["tenants" tenant, "subscriptions" subscription, "secrets" secret]
);
resource!(
    /// `tenants/{tenant}/messages/{message}`
    Message, "tenants/{tenant}/messages/{message}", check_message_id,
    ["tenants" tenant, "messages" message]
);
resource!(
    /// `tenants/{tenant}/messages/{message}/deliveries/{delivery}`
    Delivery, "tenants/{tenant}/messages/{message}/deliveries/{delivery}", check_delivery_id,
    ["tenants" tenant, "messages" message, "deliveries" delivery]
);
resource!(
    /// `tenants/{tenant}/messages/{message}/attempts/{attempt}`
    Attempt, "tenants/{tenant}/messages/{message}/attempts/{attempt}", check_attempt_id,
    ["tenants" tenant, "messages" message, "attempts" attempt]
);
resource!(
    /// `tenants/{tenant}/subscriptions/{subscription}/deadLetters/{dead_letter}`
    DeadLetter, "tenants/{tenant}/subscriptions/{subscription}/deadLetters/{dead_letter}", check_dead_letter_id,
    ["tenants" tenant, "subscriptions" subscription, "deadLetters" dead_letter]
);
resource!(
    /// `tenants/{tenant}/replays/{replay}`
    Replay, "tenants/{tenant}/replays/{replay}", check_id, ["tenants" tenant, "replays" replay]
);
resource!(
    /// `apiKeys/{api_key}`
    ApiKey, "apiKeys/{api_key}", check_id, ["apiKeys" api_key]
);
resource!(
    /// `auditEntries/{audit_entry}`
    AuditEntry, "auditEntries/{audit_entry}", check_id, ["auditEntries" audit_entry]
);
resource!(
    /// `nodes/{node}`
    Node, "nodes/{node}", check_node_id, ["nodes" node]
);

/// What the text of a symmetric signing secret begins with (Standard Webhooks).
pub const SECRET_PREFIX: &str = "whsec_";

/// A symmetric signing secret as it is shown, once: `whsec_` and its bytes in standard base64.
pub fn secret_text(key: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(key))
}

/// The tenant of a parent that stands for all of a tenant's resources of a collection, `tenants/{tenant}/{collection}/-` (AIP-159);
/// `None` if it is none.
pub fn all_of(name: &str, collection: &str) -> Option<Tenant> {
    let tenant = name.strip_suffix("/-")?.strip_suffix(collection)?.strip_suffix('/')?;
    Tenant::parse(tenant).ok()
}

/// The tenant part, `tenants/{tenant}`, of a name below a tenant; `None` if it has none. No other check.
pub fn tenant_of(name: &str) -> Option<&str> {
    let id = name.strip_prefix("tenants/")?;
    let end = id.find('/').unwrap_or(id.len());
    (end > 0).then(|| &name[.."tenants/".len() + end])
}

/// The last id of a name.
pub fn last_id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A new id for a resource: a letter and 128 random, time-ordered bits in hex.
pub fn new_id(letter: char) -> String {
    debug_assert!(letter.is_ascii_lowercase(), "an id begins with a letter");
    format!("{letter}{}", uuid::Uuid::now_v7().simple())
}

/// A new message id: `msg_` and a UUID of version 7, ordered by time.
pub fn new_message_id() -> String {
    format!("msg_{}", uuid::Uuid::now_v7().simple())
}

/// A new attempt id: `att_` and a UUID of version 7, whose time gives the attempt's day.
pub fn new_attempt_id() -> String {
    id_of_key(ATTEMPT, uuid::Uuid::now_v7().into_bytes())
}

/// The id of the delivery of a message to a subscription: the same whoever computes it, and however often.
///
/// `message` is the message's resource name, `replay` the replay's or empty.
pub fn delivery_id(message: &str, subscription: &str, replay: &str) -> String {
    // A line feed is in no name, so that the parts can't run into each other.
    let hash = digest::digest(&digest::SHA256, format!("{message}\n{subscription}\n{replay}").as_bytes());
    id_of_key(DELIVERY, hash.as_ref()[..16].try_into().expect("SHA-256 is longer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_print_as_they_were_parsed() {
        for name in ["tenants/acme", "tenants/a-1"] {
            assert_eq!(Tenant::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
        let name = "tenants/acme/subscriptions/s1/secrets/k1";
        assert_eq!(Secret::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        let name = "tenants/acme/eventTypes/Invoice.paid_2";
        assert_eq!(EventType::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
    }

    #[test]
    fn another_form_is_told_from_a_malformed_id() {
        for name in ["", "tenants", "tenants/a/b", "tenant/a", "tenants/a/subscriptions/b", "/tenants/a"] {
            assert_eq!(Tenant::parse(name), Err(Error::Pattern { pattern: Tenant::PATTERN }), "{name}");
        }
        let long = format!("tenants/{}", "a".repeat(64));
        for name in ["tenants/", "tenants/A", "tenants/1a", "tenants/a-", "tenants/a_b", "tenants/ä", long.as_str()] {
            assert_eq!(Tenant::parse(name), Err(Error::Id { rule: ID_RULE }), "{name}");
        }
        for name in [
            "tenants/a/eventTypes/",
            "tenants/a/eventTypes/a..b",
            "tenants/a/eventTypes/.a",
            "tenants/a/eventTypes/a-b",
        ] {
            assert_eq!(EventType::parse(name), Err(Error::Id { rule: EVENT_TYPE_RULE }), "{name}");
        }
    }

    #[test]
    fn subscriptions_ask_for_types_prefixes_of_whole_parts_and_everything() {
        let longest = "a".repeat(128);
        for pattern in ["*", "invoice.paid", "invoice.*", "a.b.*", &longest, &format!("{longest}.*")] {
            assert_eq!(check_event_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in ["", "*.paid", "inv*", ".*", "**", "*.*", "a.*.*", "a.*b", "a b", &"a".repeat(129)] {
            assert_eq!(check_event_pattern(pattern), Err(Error::Id { rule: EVENT_PATTERN_RULE }), "{pattern}");
        }
    }

    #[test]
    fn tenant_of_needs_a_tenant() {
        assert_eq!(tenant_of("tenants/a/subscriptions/b"), Some("tenants/a"));
        assert_eq!(tenant_of("tenants/a"), Some("tenants/a"));
        assert_eq!(tenant_of("tenants/"), None);
        assert_eq!(tenant_of("apiKeys/k"), None);
    }

    #[test]
    fn new_ids_are_valid() {
        assert_eq!(check_id(&new_id('s')), Ok(()));
        assert_eq!(check_message_id(&new_message_id()), Ok(()));
    }

    #[test]
    fn delivery_ids_are_stable() {
        let id = delivery_id("tenants/a/messages/m", "tenants/a/subscriptions/s", "");
        assert_eq!(id, delivery_id("tenants/a/messages/m", "tenants/a/subscriptions/s", ""));
        assert_ne!(id, delivery_id("tenants/a/messages/m", "tenants/a/subscriptions/s", "tenants/a/replays/r"));
        assert_eq!(id.len(), "dlv_".len() + 32);
    }

    #[test]
    fn ids_that_hold_bytes_give_them_back() {
        let attempt = format!("tenants/acme/messages/A_-z/attempts/{}", new_attempt_id());
        assert_eq!(Attempt::parse(&attempt).map(|n| n.to_string()), Ok(attempt));
        let key = key_of(DELIVERY, "dlv_0123456789abcdef0123456789abcdef").expect("an id");
        assert_eq!(id_of_key(DELIVERY, key), "dlv_0123456789abcdef0123456789abcdef");
        for wrong in ["dlv_", "dlv_0123456789ABCDEF0123456789abcdef", "att_0123456789abcdef0123456789abcdef", "dlv_+"] {
            assert_eq!(key_of(DELIVERY, wrong), None, "{wrong}");
            assert!(check_delivery_id(wrong).is_err());
        }
    }

    #[test]
    fn a_dash_stands_for_all_of_a_tenant() {
        assert_eq!(all_of("tenants/a/messages/-", "messages"), Some(Tenant { tenant: "a".into() }));
        for wrong in ["tenants/a/messages/b", "tenants/A/messages/-", "tenants/a/subscriptions/-", "messages/-", "-"] {
            assert_eq!(all_of(wrong, "messages"), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(name in "\\PC{0,80}") {
            if let Ok(parsed) = Subscription::parse(&name) {
                prop_assert_eq!(parsed.to_string(), name.clone());
            }
            if let Ok(parsed) = EventType::parse(&name) {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }
    }
}
