//! What a node without role DELIVER is told: everything but what is sealed.

use std::sync::LazyLock;

use hookwire_proto::DESCRIPTORS;
use hookwire_proto::config::watch_response::Response;
use hookwire_proto::config::{Change, Resource, Sealed, change};
use prost::{Message as _, Name as _};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};

static RESOURCE: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the descriptors were made by the compiler");
    pool.get_message_by_name(&Resource::full_name()).expect("it is among them")
});

/// A response without what is sealed.
pub fn response(response: Response) -> Response {
    match response {
        Response::SnapshotPart(mut part) => {
            part.resources.iter_mut().for_each(resource);
            Response::SnapshotPart(part)
        }
        Response::Changes(mut changes) => {
            for change in changes.change_sets.iter_mut().flat_map(|set| &mut set.changes) {
                if let Change { change: Some(change::Change::Put(put)) } = change {
                    resource(put);
                }
            }
            Response::Changes(changes)
        }
        Response::Welcome(_) => response,
    }
}

/// By reflection, so that no field that is added can be forgotten here.
fn resource(resource: &mut Resource) {
    let mut message = DynamicMessage::new(RESOURCE.clone());
    message.transcode_from(resource).expect("a resource is one");
    unseal(&mut message);
    *resource = Resource::decode(&*message.encode_to_vec()).expect("a resource is one");
}

fn unseal(message: &mut DynamicMessage) {
    for field in message.descriptor().fields() {
        let Kind::Message(of) = field.kind() else { continue };
        if !message.has_field(&field) {
            continue;
        }
        // The values of a map are messages of an entry.
        let sealed = Sealed::full_name();
        if of.full_name() == sealed
            || of.is_map_entry()
                && of.map_entry_value_field().kind().as_message().is_some_and(|value| value.full_name() == sealed)
        {
            message.clear_field(&field);
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => unseal(inner),
            Value::List(list) => list.iter_mut().filter_map(Value::as_message_mut).for_each(unseal),
            Value::Map(map) => map.values_mut().filter_map(Value::as_message_mut).for_each(unseal),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use prost_reflect::{FieldDescriptor, MapKey};

    const MARK: &[u8] = b"sealed-bytes";

    /// Every field set, at every depth; one of each oneof, which `choice` says for a oneof in a oneof, too.
    fn filled(of: &MessageDescriptor, choice: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        for field in of.fields() {
            let Some(oneof) = field.containing_oneof() else {
                message.set_field(&field, value(&field, choice));
                continue;
            };
            let fields = oneof.fields().len();
            if oneof.fields().nth(choice % fields).as_ref() == Some(&field) {
                message.set_field(&field, value(&field, choice / fields));
            }
        }
        message
    }

    fn value(field: &FieldDescriptor, choice: usize) -> Value {
        if let Kind::Message(entry) = field.kind()
            && entry.is_map_entry()
        {
            let value = single(&entry.map_entry_value_field(), choice);
            return Value::Map([(MapKey::String("key".into()), value)].into());
        }
        let single = single(field, choice);
        if field.is_list() { Value::List(vec![single]) } else { single }
    }

    fn single(field: &FieldDescriptor, choice: usize) -> Value {
        match field.kind() {
            Kind::Message(of) => Value::Message(filled(&of, choice)),
            Kind::Bytes => Value::Bytes(MARK.into()),
            Kind::String => Value::String("text".into()),
            Kind::Int32 => Value::I32(1),
            Kind::Int64 => Value::I64(1),
            Kind::Bool => Value::Bool(true),
            Kind::Double => Value::F64(1.0),
            Kind::Enum(_) => Value::EnumNumber(1),
            kind => panic!("{kind:?} is in no resource yet"),
        }
    }

    #[test]
    fn whatever_is_set_nothing_sealed_is_left_and_all_else_is() {
        let one = format!("{:?}", Sealed { key_id: "text".into(), r#box: MARK.into() });
        let (mut sealed, mut hashes, mut kinds) = (0, 0, BTreeSet::new());
        for choice in 0..24 {
            let message = filled(&RESOURCE, choice);
            let full = Resource::decode(&*message.encode_to_vec()).unwrap();
            let mut redacted = full.clone();
            resource(&mut redacted);
            let full = format!("{full:?}");
            sealed += full.matches(&one).count();
            let without = full.replace(&format!("Some(SecretValue({one}))"), "None");
            assert_eq!(format!("{redacted:?}"), without.replace(&format!("Some({one})"), "None"));
            // Not sealed, and needed by nodes that publish.
            hashes += full.matches("hash: ").count();
            kinds.extend(["SecretValue(", "BasicAuth(", "OauthClient("].into_iter().filter(|kind| full.contains(kind)));
        }
        assert!(sealed > 0 && hashes > 0, "there is something to take away and to leave");
        assert_eq!(kinds.len(), 3, "{kinds:?}");
    }
}
