//! Resource names and ids ([`hookwire_proto::name`]), against the patterns that the types declare and the rules for ids, written once more.

use hookwire_proto::name::{self, Error};

use crate::Target;

/// The input is a name or an id.
pub const TARGET: Target = Target {
    name: "names",
    check,
    dictionary: &[
        "tenants/",
        "eventTypes/",
        "subscriptions/",
        "secrets/",
        "messages/",
        "deliveries/",
        "attempts/",
        "deadLetters/",
        "replays/",
        "apiKeys/",
        "auditEntries/",
        "nodes/",
        "/",
        "-",
        "_",
        ".",
        "acme",
        "a",
        "Z",
        "0",
        "att_",
        "dlv_",
        "dlt_",
        "0123456789abcdef",
        "é",
        "%2f",
        "\n",
        "\0",
    ],
};

/// One kind of name: its pattern, and what its parser makes of a text, printed.
struct Kind {
    pattern: &'static str,
    read: fn(&str) -> Result<String, Error>,
}

macro_rules! kinds {
    ($($type:ident),+ $(,)?) => {
        [$(Kind {
            pattern: name::$type::PATTERN,
            read: |text| {
                let name = name::$type::parse(text)?;
                assert_eq!(name::$type::parse(&name.to_string()).as_ref(), Ok(&name), "it is not read as it prints");
                Ok(name.to_string())
            },
        }),+]
    };
}

const KINDS: [Kind; 12] = kinds![
    Tenant,
    EventType,
    Subscription,
    Secret,
    Message,
    Delivery,
    Attempt,
    DeadLetter,
    Replay,
    ApiKey,
    AuditEntry,
    Node,
];

/// Checks that exactly those names and ids are taken that the rules allow, by one kind only, and print as they were written.
///
/// # Panics
/// If not.
pub fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let mut taken_by = None;
    for Kind { pattern, read } in &KINDS {
        let (found, expected) = (read(text), expected(pattern, text));
        match found {
            Ok(printed) => {
                assert!(expected.is_ok(), "{text:?} is no {pattern}");
                assert_eq!(printed, text, "{pattern} prints otherwise");
                assert_eq!(taken_by.replace(pattern), None, "{text:?} is a {pattern}, too");
                assert!(text.ends_with(name::last_id(text)));
                let tenant = text.strip_prefix("tenants/").and_then(|rest| rest.split('/').next());
                assert_eq!(name::tenant_of(text), tenant.map(|id| format!("tenants/{id}")).as_deref());
            }
            Err(error) => {
                let of_form = matches!(error, Error::Id { .. });
                assert_eq!(expected, Err(of_form), "{text:?} is refused as {pattern}: {error}");
            }
        }
    }
    all_of(text);
    if let Some(tenant) = name::tenant_of(text) {
        assert!(text.starts_with(tenant) && tenant.matches('/').count() == 1 && !tenant.ends_with('/'));
    }
    for id in text.split('/').chain([text]) {
        ids(id);
    }
}

/// Whether a text is of a pattern: if not, whether at least its form is.
fn expected(pattern: &str, text: &str) -> Result<(), bool> {
    let (pattern, parts): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), text.split('/').collect());
    let variable = |part: &&str| part.starts_with('{');
    let of_form = pattern.len() == parts.len() && pattern.iter().zip(&parts).all(|(p, t)| variable(p) || p == t);
    if !of_form {
        return Err(false);
    }
    let valid = pattern.iter().zip(&parts).filter(|(p, _)| variable(p)).all(|(p, id)| rule(p)(id));
    if valid { Ok(()) } else { Err(true) }
}

fn rule(variable: &str) -> fn(&str) -> bool {
    match variable {
        "{tenant}" | "{subscription}" | "{secret}" | "{replay}" | "{api_key}" | "{audit_entry}" => is_id,
        "{event_type}" => is_event_type,
        "{message}" => {
            |id| bounded(id, 64) && all(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
        }
        "{node}" => is_node_id,
        "{delivery}" => |id| is_key(id, "dlv_"),
        "{attempt}" => |id| is_key(id, "att_"),
        "{dead_letter}" => |id| is_key(id, "dlt_"),
        _ => panic!("there is no rule for {variable}"),
    }
}

fn bounded(id: &str, most: usize) -> bool {
    !id.is_empty() && id.len() <= most
}

fn all(id: &str, of: &str) -> bool {
    id.chars().all(|c| of.contains(c))
}

fn is_node_id(id: &str) -> bool {
    bounded(id, 63) && all(id, "abcdefghijklmnopqrstuvwxyz0123456789-")
}

fn is_id(id: &str) -> bool {
    is_node_id(id) && !id.ends_with('-') && !id.starts_with('-') && !id.starts_with(|c: char| c.is_numeric())
}

/// Also for what subscriptions ask for.
pub(crate) fn is_event_type(id: &str) -> bool {
    const WORD: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    bounded(id, 128) && all(&id.replace('.', ""), WORD) && !format!(".{id}.").contains("..")
}

fn is_key(id: &str, prefix: &str) -> bool {
    id.len() == 36 && id.starts_with(prefix) && all(&id[4..], "0123456789abcdef")
}

fn ids(id: &str) {
    type Check = fn(&str) -> Result<(), Error>;
    let checks: [(&str, Check); 7] = [
        ("{tenant}", name::check_id),
        ("{message}", name::check_message_id),
        ("{event_type}", name::check_event_type),
        ("{node}", name::check_node_id),
        ("{attempt}", name::check_attempt_id),
        ("{delivery}", name::check_delivery_id),
        ("{dead_letter}", name::check_dead_letter_id),
    ];
    for (variable, check) in checks {
        assert_eq!(check(id).is_ok(), rule(variable)(id), "{id:?} as {variable}");
    }
    for prefix in [name::ATTEMPT, name::DELIVERY, name::DEAD_LETTER] {
        let key = name::key_of(prefix, id);
        assert_eq!(key.is_some(), is_key(id, prefix), "{id:?} with {prefix}");
        if let Some(key) = key {
            assert_eq!(name::id_of_key(prefix, key), id);
        }
    }
}

fn all_of(text: &str) {
    for collection in ["messages", "subscriptions"] {
        let tenant = name::all_of(text, collection);
        let rest = format!("/{collection}/-");
        let expected = text.strip_suffix(&rest).filter(|tenant| expected(name::Tenant::PATTERN, tenant).is_ok());
        assert_eq!(tenant.map(|tenant| tenant.to_string()).as_deref(), expected, "{text:?} of {collection}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_of_name_is_left_out() {
        let source = include_str!("../../../proto/src/name.rs");
        assert_eq!(source.matches("\nresource!(").count(), KINDS.len(), "put the new kind into KINDS");
    }
}
