//! What a new replay must be.

use std::collections::HashSet;

use hookwire_proto::name;
use hookwire_proto::v1::Replay;
use hookwire_proto::v1::dead_letter::Reason;
use hookwire_proto::v1::replay::{DeadLetters, Deliveries, Messages, Selection};
use prost_types::Timestamp;

use super::new_subscription;
use super::validate::Violations;

const MAX_DELIVERIES: usize = 1_000;
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// As many as a log may have partitions.
const MAX_OFFSET_RANGES: usize = 1_000;

/// Checks what people have set.
pub(super) fn check(violations: &mut Violations, new: &Replay, parent: &str) {
    violations.description("replay.description", &new.description);
    let rate = new.deliveries_per_second;
    if rate != 0.0 && !(0.01..=100_000.0).contains(&rate) {
        violations.add("replay.deliveries_per_second", "must be 0.01 to 100000, or 0 for as fast as they are taken");
    }
    match &new.selection {
        Some(Selection::Deliveries(named)) => check_named(violations, named, parent),
        Some(Selection::DeadLetters(selection)) => check_dead_letters(violations, selection, parent),
        Some(Selection::Messages(selection)) => check_messages(violations, selection, parent),
        None => violations.add("replay.selection", "is required: set `deliveries`, `dead_letters` or `messages`"),
    }
}

fn check_named(violations: &mut Violations, named: &Deliveries, parent: &str) {
    const FIELD: &str = "replay.deliveries.deliveries";
    if !(1..=MAX_DELIVERIES).contains(&named.deliveries.len()) {
        return violations.add(FIELD, format!("must be 1 to {MAX_DELIVERIES} deliveries"));
    }
    check_names(violations, FIELD, &named.deliveries, parent, |name| name::Delivery::parse(name).map(drop));
}

/// Each must be a name, of the same tenant, and there once.
fn check_names(
    violations: &mut Violations,
    field: &str,
    names: &[String],
    parent: &str,
    parse: impl Fn(&str) -> Result<(), name::Error>,
) {
    let mut seen = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        let at = format!("{field}[{at}]");
        if violations.check(&at, parse(name)).is_some() {
            if name::tenant_of(name) != Some(parent) {
                violations.add(at, "must be of the same tenant as parent");
            } else if !seen.insert(name) {
                violations.add(at, "is there already; leave it out");
            }
        }
    }
}

fn check_dead_letters(violations: &mut Violations, selection: &DeadLetters, parent: &str) {
    const FIELD: &str = "replay.dead_letters";
    let (at, subscription) = (format!("{FIELD}.subscription"), &selection.subscription);
    if violations.check(&at, name::Subscription::parse(subscription)).is_some()
        && name::tenant_of(subscription) != Some(parent)
    {
        violations.add(at, "must be of the same tenant as parent");
    }
    for (at, reason) in selection.reasons.iter().enumerate() {
        match Reason::try_from(*reason) {
            Ok(Reason::Unspecified | Reason::Deleted) | Err(_) => {
                violations.add(format!("{FIELD}.reasons[{at}]"), "must be a reason other than REASON_DELETED");
            }
            Ok(_) => {}
        }
    }
    check_times(violations, FIELD, &selection.start_time, &selection.end_time);
}

fn check_messages(violations: &mut Violations, selection: &Messages, parent: &str) {
    const FIELD: &str = "replay.messages";
    let at = format!("{FIELD}.subscriptions");
    if selection.subscriptions.len() > MAX_SUBSCRIPTIONS {
        violations.add(at, format!("must be at most {MAX_SUBSCRIPTIONS} subscriptions; all of the tenant if left out"));
    } else {
        let parse = |name: &str| name::Subscription::parse(name).map(drop);
        check_names(violations, &at, &selection.subscriptions, parent, parse);
    }
    new_subscription::check_event_types(violations, &format!("{FIELD}.event_types"), &selection.event_types);
    check_times(violations, FIELD, &selection.start_time, &selection.end_time);
    let at = format!("{FIELD}.offset_ranges");
    if selection.offset_ranges.len() > MAX_OFFSET_RANGES {
        return violations.add(at, format!("must be at most {MAX_OFFSET_RANGES} ranges"));
    }
    let mut seen = HashSet::new();
    for (number, range) in selection.offset_ranges.iter().enumerate() {
        let at = format!("{at}[{number}]");
        if range.partition < 0 {
            violations.add(format!("{at}.partition"), "must be 0 or more");
        } else if !seen.insert(range.partition) {
            violations.add(format!("{at}.partition"), "is there already: at most one range for each partition");
        }
        if range.start_offset < 0 {
            violations.add(format!("{at}.start_offset"), "must be 0 or more");
        }
        if range.end_offset != 0 && range.end_offset <= range.start_offset {
            violations.add(
                format!("{at}.end_offset"),
                "must be after start_offset, or 0 for all up to the replay's beginning",
            );
        }
    }
}

fn check_times(violations: &mut Violations, field: &str, start: &Option<Timestamp>, end: &Option<Timestamp>) {
    let seconds = |time: &Option<Timestamp>| time.map(|time| (time.seconds, time.nanos));
    for (name, time) in [("start_time", start), ("end_time", end)] {
        // From 0001 to 9999, as protobuf has it.
        if time.is_some_and(|time| {
            !(-62_135_596_800..=253_402_300_799).contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos)
        }) {
            violations.add(format!("{field}.{name}"), "must be a time");
        }
    }
    if let (Some(start), Some(end)) = (seconds(start), seconds(end))
        && start >= end
    {
        violations.add(format!("{field}.end_time"), "must be after start_time");
    }
}
