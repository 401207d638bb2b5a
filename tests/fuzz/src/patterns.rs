//! Event types that subscriptions ask for: what the control plane lets pass ([`hookwire_proto::name::check_event_pattern`]), a node's snapshot
//! matches as the words say.

use std::sync::Arc;

use hookwire_data_plane::cache::snapshot::Snapshot;
use hookwire_proto::config::{self, change, resource};
use hookwire_proto::name;

use crate::Target;
use crate::names::is_event_type;

/// Each line but the last is what one of three subscriptions, in turn, asks for from then on: patterns with blanks between them; none deletes it.
/// The last line is an event type.
pub const TARGET: Target = Target {
    name: "patterns",
    check,
    dictionary: &[
        "\n",
        " ",
        "*",
        ".*",
        ".",
        "invoice",
        "paid",
        "invoice.*",
        "invoice.paid",
        "hookwire",
        "hookwire.*",
        "a.b.c",
        "_",
        "Z9",
        "**",
        "-",
        "é",
    ],
};

const TENANT: &str = "tenants/a";

/// Checks that patterns are taken as their rule says, and that a type reaches those subscriptions that ask for it, each once, whatever they
/// asked for before.
///
/// # Panics
/// If not.
pub fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let (lines, event_type) = text.rsplit_once('\n').unwrap_or(("", text));
    let mut snapshot = Snapshot::default();
    let mut wanted: [Vec<&str>; 3] = Default::default();
    for (at, line) in lines.lines().take(40).enumerate() {
        let mut patterns: Vec<&str> = line.split(' ').filter(|pattern| is_taken(pattern)).collect();
        patterns.sort_unstable();
        patterns.dedup();
        snapshot.apply(change(at, &patterns));
        wanted[at % 3] = patterns;
    }
    for event_type in lines.split(['\n', ' ']).chain([event_type]) {
        let event_type = event_type.strip_suffix(".*").unwrap_or(event_type);
        if name::check_event_type(event_type).is_err() {
            continue;
        }
        let mut found: Vec<Arc<str>> =
            snapshot.matching(TENANT, event_type).iter().map(|subscription| subscription.name.clone()).collect();
        found.sort_unstable();
        let asked = wanted.iter().enumerate().filter(|(_, patterns)| patterns.iter().any(|p| wants(p, event_type)));
        let expected: Vec<Arc<str>> = asked.map(|(at, _)| subscription(at).into()).collect();
        assert_eq!(found, expected, "{event_type:?} of {wanted:?}");
        assert!(snapshot.matching("tenants/b", event_type).is_empty(), "{event_type:?} goes to another tenant");
    }
}

fn is_taken(pattern: &str) -> bool {
    let taken = name::check_event_pattern(pattern).is_ok();
    let prefix = pattern.len().checked_sub(2).and_then(|end| pattern.split_at_checked(end));
    let is_prefix = prefix.is_some_and(|(prefix, star)| star == ".*" && is_event_type(prefix));
    assert_eq!(taken, pattern == "*" || is_prefix || is_event_type(pattern), "{pattern:?}");
    taken
}

fn wants(pattern: &str, event_type: &str) -> bool {
    // Everything is everything that is published.
    let is_ours = event_type.split('.').next() == Some("hookwire");
    match pattern.strip_suffix('*') {
        Some("") => !is_ours,
        Some(beginning) => event_type.starts_with(beginning),
        None => pattern == event_type,
    }
}

fn subscription(at: usize) -> String {
    format!("{TENANT}/subscriptions/s{}", at % 3)
}

fn change(at: usize, patterns: &[&str]) -> config::ChangeSet {
    let name = subscription(at);
    let change = if patterns.is_empty() {
        change::Change::Delete(name)
    } else {
        change::Change::Put(config::Resource {
            resource: Some(resource::Resource::Subscription(config::Subscription {
                name,
                url: "https://example.com/".into(),
                event_types: patterns.iter().map(|&pattern| pattern.into()).collect(),
                ..Default::default()
            })),
        })
    };
    config::ChangeSet {
        revision: i64::try_from(at).expect("few lines"),
        changes: vec![config::Change { change: Some(change) }],
    }
}
