//! Field masks (AIP-134, AIP-161): of an update, what it names goes into the resource. For every resource alike, by reflection.
//!
//! Fields that the server sets are passed over wherever they are named, so that what was read may be sent back.

use std::sync::LazyLock;

use hookwire_proto::DESCRIPTORS;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};
use prost_types::FieldMask;

use super::validate::Violations;

/// `google.api.FieldBehavior`.
const OUTPUT_ONLY: i32 = 3;
const IDENTIFIER: i32 = 8;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the descriptors were made by the compiler"));

/// `current`, with what the mask names taken from `update`. No mask, or an empty one: the fields of `update` that are not empty. `*`:
/// every field. An unknown path is a violation of `update_mask`.
pub fn apply<M: Message + Name + Default + Clone>(
    violations: &mut Violations,
    current: &M,
    update: &M,
    mask: Option<&FieldMask>,
) -> M {
    let mut target = dynamic(current);
    let source = dynamic(update);
    let fields = || source.descriptor().fields().collect::<Vec<_>>();
    let names = |fields: Vec<FieldDescriptor>| fields.iter().map(|field| field.name().to_owned()).collect();
    let paths: Vec<String> = match mask {
        Some(mask) if mask.paths == ["*"] => names(fields()),
        Some(mask) if !mask.paths.is_empty() => mask.paths.clone(),
        _ => names(fields().into_iter().filter(|field| source.has_field(field)).collect()),
    };
    for path in &paths {
        if !copy(&mut target, &source, path) {
            violations.add("update_mask", format!("{path:?} is no field of {}; write `*` for all of them", M::NAME));
        }
    }
    target.transcode_to().expect("it was one before")
}

/// Takes one path over; whether there is such a path.
fn copy(target: &mut DynamicMessage, source: &DynamicMessage, path: &str) -> bool {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let Some(field) = source.descriptor().get_field_by_name(name) else { return false };
    if is_set_by_server(&field) {
        return true;
    }
    let Some(rest) = rest else {
        if source.has_field(&field) {
            target.set_field(&field, source.get_field(&field).into_owned());
        } else {
            target.clear_field(&field);
        }
        return true;
    };
    if field.is_list() || field.is_map() || !matches!(field.kind(), Kind::Message(_)) {
        return false;
    }
    let (Value::Message(mut below), Value::Message(from)) =
        (target.get_field(&field).into_owned(), source.get_field(&field).into_owned())
    else {
        return false;
    };
    let found = copy(&mut below, &from, rest);
    if found {
        target.set_field(&field, Value::Message(below));
    }
    found
}

fn is_set_by_server(field: &FieldDescriptor) -> bool {
    let behavior = POOL.get_extension_by_name("google.api.field_behavior").expect("it is imported");
    let options = field.options();
    let behaviors = options.get_extension(&behavior);
    let behaviors = behaviors.as_list().unwrap_or_default();
    behaviors.iter().filter_map(Value::as_enum_number).any(|behavior| matches!(behavior, OUTPUT_ONLY | IDENTIFIER))
}

fn dynamic<M: Message + Name>(message: &M) -> DynamicMessage {
    let descriptor = POOL.get_message_by_name(&M::full_name()).expect("every message is in the descriptors");
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).expect("it is of this type");
    dynamic
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::v1::{SharedKey, Subscription};

    fn current() -> Subscription {
        Subscription {
            name: "tenants/a/subscriptions/s".into(),
            display_name: "Before".into(),
            url: "https://example.com/".into(),
            event_types: vec!["a".into()],
            shared_key: Some(SharedKey { header: "x-key".into(), value: String::new() }),
            max_concurrency: 7,
            revision: 3,
            ..Default::default()
        }
    }

    fn masked(update: &Subscription, paths: &[&str]) -> Result<Subscription, super::super::Error> {
        let mut violations = Violations::default();
        let mask = FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
        let next = apply(&mut violations, &current(), update, Some(&mask));
        violations.finish().map(|()| next)
    }

    #[test]
    fn what_the_mask_names_is_taken_over_and_nothing_else() {
        let update = Subscription { display_name: "After".into(), url: "https://other/".into(), ..Default::default() };
        let next = masked(&update, &["display_name", "max_concurrency"]).unwrap();
        assert_eq!(next, Subscription { display_name: "After".into(), max_concurrency: 0, ..current() });
    }

    #[test]
    fn without_a_mask_it_is_what_is_not_empty() {
        let update = Subscription { display_name: "After".into(), revision: 9, ..Default::default() };
        for paths in [None, Some(FieldMask::default())] {
            let next = apply(&mut Violations::default(), &current(), &update, paths.as_ref());
            assert_eq!(next, Subscription { display_name: "After".into(), ..current() });
        }
    }

    #[test]
    fn a_star_replaces_all_but_what_the_server_sets() {
        let update = Subscription { name: "tenants/b/subscriptions/x".into(), revision: 9, ..Default::default() };
        let next = masked(&update, &["*"]).unwrap();
        assert_eq!(next, Subscription { name: current().name, revision: 3, ..Default::default() });
        assert_eq!(masked(&update, &["revision", "name"]).unwrap(), current());
    }

    #[test]
    fn a_path_reaches_into_a_message() {
        let key = SharedKey { header: "x-other".into(), value: "secret".into() };
        let update = Subscription { shared_key: Some(key), ..Default::default() };
        let next = masked(&update, &["shared_key.header"]).unwrap().shared_key.unwrap();
        assert_eq!(next, SharedKey { header: "x-other".into(), value: String::new() });
    }

    #[test]
    fn unknown_paths_are_told() {
        for path in ["nonsense", "displayName", "", ".", "url.x", "event_types.0", "shared_key.nonsense", "a.*"] {
            assert!(masked(&Subscription::default(), &[path]).is_err(), "{path:?}");
        }
    }
}
