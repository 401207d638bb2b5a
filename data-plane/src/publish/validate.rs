//! What messages must be: all of a batch, or each of a stream. Pure, but for the ids that it makes.

use std::collections::{HashMap, HashSet};
use std::slice;
use std::time::Duration;

use bytes::Bytes;
use hookwire_proto::name;
use hookwire_proto::v1::new_message::Payload;
use hookwire_proto::v1::{NewMessage, PublishMessagesRequest, StreamMessagesRequest};

use crate::auth;
use crate::cache::Snapshot;
use crate::cache::snapshot::ApiKey;
use crate::error::{Error, Violation};

/// The most messages of a request.
pub(super) const MAX_MESSAGES: usize = 1_000;
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);
const MAX_ORDERING_KEY_CHARS: usize = 128;
const MAX_CONTENT_TYPE_CHARS: usize = 128;
const JSON: &str = "application/json";

/// A message that may be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid {
    /// `tenants/{tenant}`.
    pub tenant: String,
    /// The message's id.
    pub id: String,
    /// The publisher chose it.
    pub client_chosen_id: bool,
    /// A registered event type.
    pub event_type: String,
    /// The ordering key, or empty.
    pub ordering_key: String,
    /// The body.
    pub payload: Bytes,
    /// Its type, never empty.
    pub content_type: String,
    /// How long it may live, if it says.
    pub ttl: Option<Duration>,
}

/// Checks a batch: that the caller may publish for the tenant, that the tenant exists, each field of each message, and
/// that the event types are registered.
///
/// # Errors
/// [`Error::Invalid`] with every wrong field, [`Error::PermissionDenied`], [`Error::TenantNotFound`],
/// [`Error::EventTypesNotRegistered`] with every such type.
pub fn batch(
    request: PublishMessagesRequest,
    snapshot: &Snapshot,
    caller: &ApiKey,
    max_payload_bytes: usize,
) -> Result<Vec<Valid>, Error> {
    let mut wrong = Wrong::default();
    let tenant = request.parent;
    match name::Tenant::parse(&tenant) {
        // Told before anything else of the tenant, so that a caller learns nothing of others.
        Ok(_) => auth::is_for_tenant(caller, &tenant)?,
        Err(error) => wrong.add("parent", error),
    }
    if request.min_revision < 0 {
        wrong.add("min_revision", "must be 0 or the revision of a write");
    }
    if !(1..=MAX_MESSAGES).contains(&request.messages.len()) {
        wrong.add("messages", format_args!("must be 1 to {MAX_MESSAGES} messages, not {}", request.messages.len()));
        return Err(wrong.into());
    }

    let mut messages = Vec::with_capacity(request.messages.len());
    let mut first_with_id = HashMap::new();
    for (index, message) in request.messages.into_iter().enumerate() {
        let id = message.message_id.clone();
        if let Some(valid) = fields(&tenant, index, message, max_payload_bytes, &mut wrong) {
            messages.push(valid);
        }
        if !id.is_empty()
            && let Some(first) = first_with_id.insert(id, index)
        {
            wrong.add(field(index, "message_id"), format_args!("must be unique, but is that of messages[{first}]"));
        }
    }
    wrong.none()?;
    if !snapshot.has_tenant(&tenant) {
        return Err(Error::TenantNotFound { tenant });
    }
    registered(&tenant, 0, &messages, snapshot)?;
    fits_schemas(&tenant, 0, &messages, snapshot)?;
    Ok(messages)
}

/// Checks what a request of a stream says besides its messages; its tenant, which the first request names and later ones may.
///
/// # Errors
/// [`Error::Invalid`].
pub fn stream_request(request: &StreamMessagesRequest, tenant: Option<&str>) -> Result<(), Error> {
    let mut wrong = Wrong::default();
    match tenant {
        None => {
            if let Err(error) = name::Tenant::parse(&request.parent) {
                wrong.add("parent", error);
            }
        }
        Some(tenant) if request.parent.is_empty() || request.parent == tenant => {}
        Some(tenant) => {
            wrong.add("parent", format_args!("must be empty or stay {tenant}: use a stream for each tenant"))
        }
    }
    if request.min_revision < 0 {
        wrong.add("min_revision", "must be 0 or the revision of a write");
    }
    if request.messages.len() > MAX_MESSAGES {
        wrong.add("messages", format_args!("must be at most {MAX_MESSAGES} messages, not {}", request.messages.len()));
    }
    wrong.none()
}

/// Checks that the caller may publish for a tenant, and that there is one.
///
/// # Errors
/// [`Error::PermissionDenied`], [`Error::TenantNotFound`].
pub fn tenant(tenant: &str, snapshot: &Snapshot, caller: &ApiKey) -> Result<(), Error> {
    auth::is_for_tenant(caller, tenant)?;
    match snapshot.has_tenant(tenant) {
        true => Ok(()),
        false => Err(Error::TenantNotFound { tenant: tenant.to_owned() }),
    }
}

/// Checks one message, with this index in its request, for itself.
///
/// # Errors
/// As [`batch`], for the message alone.
pub fn message(
    tenant: &str,
    index: usize,
    message: NewMessage,
    snapshot: &Snapshot,
    max_payload_bytes: usize,
) -> Result<Valid, Error> {
    let mut wrong = Wrong::default();
    let Some(valid) = fields(tenant, index, message, max_payload_bytes, &mut wrong) else { return Err(wrong.into()) };
    registered(tenant, index, slice::from_ref(&valid), snapshot)?;
    fits_schemas(tenant, index, slice::from_ref(&valid), snapshot)?;
    Ok(valid)
}

fn fields(
    tenant: &str,
    index: usize,
    message: NewMessage,
    max_payload_bytes: usize,
    wrong: &mut Wrong,
) -> Option<Valid> {
    let before = wrong.0.len();
    let client_chosen_id = !message.message_id.is_empty();
    if client_chosen_id && let Err(error) = name::check_message_id(&message.message_id) {
        wrong.add(field(index, "message_id"), error);
    }
    if let Err(error) = name::check_event_type(&message.event_type) {
        wrong.add(field(index, "event_type"), error);
    }
    if message.ordering_key.chars().count() > MAX_ORDERING_KEY_CHARS {
        wrong.add(field(index, "ordering_key"), format_args!("must be at most {MAX_ORDERING_KEY_CHARS} characters"));
    }
    let ttl = message.ttl.and_then(|ttl| Duration::try_from(ttl).ok().filter(|ttl| (MIN_TTL..=MAX_TTL).contains(ttl)));
    if message.ttl.is_some() && ttl.is_none() {
        wrong.add(field(index, "ttl"), "must be 1 s to 30 days (2592000s), or not set");
    }
    let content_type = if message.content_type.is_empty() { JSON.to_owned() } else { message.content_type };
    if !is_content_type(&content_type) {
        wrong.add(
            field(index, "content_type"),
            format_args!("must be a media type such as `{JSON}`: ASCII, at most {MAX_CONTENT_TYPE_CHARS} characters"),
        );
    }
    let payload = match message.payload {
        None => {
            wrong.add(field(index, "payload"), "is required: set `data` (bytes) or `text`");
            Bytes::new()
        }
        Some(payload) => {
            let (name, payload) = match payload {
                Payload::Data(data) => ("data", data),
                Payload::Text(text) => ("text", Bytes::from(text)),
            };
            check_payload(&payload, &content_type, max_payload_bytes, |detail| wrong.add(field(index, name), detail));
            payload
        }
    };
    (wrong.0.len() == before).then(|| Valid {
        tenant: tenant.to_owned(),
        id: if client_chosen_id { message.message_id } else { name::new_message_id() },
        client_chosen_id,
        event_type: message.event_type,
        ordering_key: message.ordering_key,
        payload,
        content_type,
        ttl,
    })
}

fn check_payload(payload: &[u8], content_type: &str, max_bytes: usize, refuse: impl FnOnce(String)) {
    if payload.len() > max_bytes {
        return refuse(format!(
            "must be at most {max_bytes} bytes, not {}: send a link to what is large",
            payload.len()
        ));
    }
    if !is_json(content_type) {
        return;
    }
    // Both: the parser passes over strings without looking whether they are UTF-8.
    let parsed = std::str::from_utf8(payload)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| error.to_string()));
    if let Err(error) = parsed {
        refuse(format!("must be JSON, as content_type says: {error}"));
    }
}

/// Something, a slash and something, in printable ASCII: what any HTTP client can send as the header's value.
fn is_content_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let has_parts = essence.split_once('/').is_some_and(|(kind, sub)| !kind.is_empty() && !sub.trim_end().is_empty());
    has_parts
        && content_type.len() <= MAX_CONTENT_TYPE_CHARS
        && content_type.bytes().all(|b| (0x20..=0x7e).contains(&b))
        && content_type.trim() == content_type
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON)
}

/// `first` is the index of the first of these messages in their request.
fn registered(tenant: &str, first: usize, messages: &[Valid], snapshot: &Snapshot) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let event_types: Vec<_> = messages
        .iter()
        .zip(first..)
        .map(|(message, index)| (index, message))
        .filter(|(_, message)| seen.insert(message.event_type.as_str()))
        .filter(|(_, message)| !snapshot.has_event_type(tenant, &message.event_type))
        .map(|(index, message)| (index, message.event_type.clone()))
        .collect();
    match event_types.is_empty() {
        true => Ok(()),
        false => Err(Error::EventTypesNotRegistered { tenant: tenant.to_owned(), event_types }),
    }
}

/// Payloads fit the schemas of their event types, where the tenant wants that to be checked. Every payload, whatever its content type says.
fn fits_schemas(tenant: &str, first: usize, messages: &[Valid], snapshot: &Snapshot) -> Result<(), Error> {
    let mut wrong = Wrong::default();
    for (message, index) in messages.iter().zip(first..) {
        if let Some(schema) = snapshot.schema(tenant, &message.event_type) {
            for mistake in schema.mistakes(&message.payload) {
                wrong
                    .add(field(index, "payload"), format_args!("does not fit the schema of its event type: {mistake}"));
            }
        }
    }
    wrong.none()
}

/// Fields found wrong so far.
#[derive(Default)]
struct Wrong(Vec<Violation>);

impl Wrong {
    fn add(&mut self, field: impl Into<String>, description: impl ToString) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    fn none(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        Self::Invalid { violations: wrong.0 }
    }
}

fn field(index: usize, name: &str) -> String {
    format!("messages[{index}].{name}")
}
