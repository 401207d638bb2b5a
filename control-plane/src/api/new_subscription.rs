//! What a new subscription must be. Pure, but for the id and the secret that it makes.

use std::collections::HashSet;

use hookwire_proto::egress::Policy;
use hookwire_proto::name;
use hookwire_proto::v1::secret::Algorithm;
use hookwire_proto::v1::{CreateSubscriptionRequest, Secret, SharedKey, Subscription};
use zeroize::Zeroizing;

use super::Error;
use super::validate::Violations;
use crate::signing_key::SigningKey;
use crate::store::NewSubscription;

const MAX_EVENT_TYPES: usize = 100;
const MAX_CONCURRENCY: i32 = 1_000;
const MAX_HEADER_BYTES: usize = 64;
const MAX_SHARED_KEY_BYTES: usize = 1_024;

/// Headers that Hookwire or HTTP sets, which a pre-shared key must not stand in for.
const RESERVED_HEADERS: [&str; 21] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Checks a request: every wrong field is told at once.
///
/// # Errors
/// [`Error::Invalid`].
pub fn read(
    request: CreateSubscriptionRequest,
    egress: &Policy,
) -> Result<(name::Subscription, NewSubscription), Error> {
    let mut violations = Violations::default();
    let parent = violations.check("parent", name::Tenant::parse(&request.parent));
    let subscription = violations.id("subscription_id", request.subscription_id, 's');
    let new = request.subscription.unwrap_or_else(|| {
        violations.add("subscription", "is required");
        Subscription::default()
    });
    violations.display_name("subscription.display_name", &new.display_name);
    violations.check("subscription.url", egress.check_text(&new.url));
    event_types(&mut violations, &new.event_types);
    let shared_key = new.shared_key.map(|key| shared_key(&mut violations, key));
    if !(0..=MAX_CONCURRENCY).contains(&new.max_concurrency) {
        violations.add(
            "subscription.max_concurrency",
            format!("must be 1 to {MAX_CONCURRENCY}, or 0 for the node's default"),
        );
    }
    let secret = initial_secret(&mut violations, new.initial_secret.unwrap_or_default());
    let (parent, secret) = violations.finish_with(parent.zip(secret))?;
    let new = NewSubscription {
        display_name: new.display_name,
        url: new.url,
        event_types: new.event_types,
        shared_key,
        max_concurrency: new.max_concurrency,
        secret_id: name::new_id('k'),
        secret,
    };
    Ok((name::Subscription { tenant: parent.tenant, subscription }, new))
}

/// The first secret signs tokens, so it is one for HMAC.
fn initial_secret(violations: &mut Violations, secret: Secret) -> Option<SigningKey> {
    const FIELD: &str = "subscription.initial_secret";
    let key = violations.signing_key(FIELD, secret)?;
    if key.algorithm() != Algorithm::HmacSha256 {
        violations.add(
            format!("{FIELD}.algorithm"),
            "must be ALGORITHM_HMAC_SHA256, which signs tokens; add an ed25519 secret with CreateSecret",
        );
    }
    Some(key)
}

fn event_types(violations: &mut Violations, patterns: &[String]) {
    const FIELD: &str = "subscription.event_types";
    if !(1..=MAX_EVENT_TYPES).contains(&patterns.len()) {
        violations.add(FIELD, format!("must have 1 to {MAX_EVENT_TYPES} event types; `*` is all of them"));
        return;
    }
    let mut seen = HashSet::new();
    for (at, pattern) in patterns.iter().enumerate() {
        let named = pattern.strip_suffix(".*").unwrap_or(pattern);
        if pattern != "*" && name::check_event_type(named).is_err() {
            violations.add(
                format!("{FIELD}[{at}]"),
                "must be an event type such as `invoice.paid`, a prefix such as `invoice.*`, or `*`",
            );
        } else if !seen.insert(pattern) {
            violations.add(format!("{FIELD}[{at}]"), "is there already; leave it out");
        }
    }
}

fn shared_key(violations: &mut Violations, key: SharedKey) -> (String, Zeroizing<String>) {
    let header = key.header.to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !(1..=MAX_HEADER_BYTES).contains(&header.len()) || !header.bytes().all(is_token) {
        violations.add(
            "subscription.shared_key.header",
            format!("must be the name of a header, at most {MAX_HEADER_BYTES} characters, such as `x-api-key`"),
        );
    } else if RESERVED_HEADERS.contains(&&*header) || header.starts_with("webhook-") {
        violations.add(
            "subscription.shared_key.header",
            format!("`{header}` is set by Hookwire or HTTP itself; choose another, such as `x-api-key`"),
        );
    }
    let value = Zeroizing::new(key.value);
    if !(1..=MAX_SHARED_KEY_BYTES).contains(&value.len()) || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        violations.add(
            "subscription.shared_key.value",
            format!("must be 1 to {MAX_SHARED_KEY_BYTES} visible ASCII characters"),
        );
    }
    (header, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(subscription: Subscription) -> Vec<String> {
        let request = CreateSubscriptionRequest {
            parent: "tenants/acme".into(),
            subscription: Some(subscription),
            ..Default::default()
        };
        match read(request, &Policy::default()) {
            Ok(_) => Vec::new(),
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(error) => panic!("{error}"),
        }
    }

    fn subscription() -> Subscription {
        Subscription { url: "https://example.com/hooks".into(), event_types: vec!["*".into()], ..Default::default() }
    }

    fn with_header(header: &str) -> Subscription {
        let shared_key = Some(SharedKey { header: header.into(), value: "secret".into() });
        Subscription { shared_key, ..subscription() }
    }

    #[test]
    fn headers_that_are_set_already_are_refused() {
        for header in
            RESERVED_HEADERS.into_iter().chain(["Authorization", "webhook-id", "Webhook-Signature", "", "a b", ":path"])
        {
            assert_eq!(fields(with_header(header)), ["subscription.shared_key.header"], "{header}");
        }
        for header in ["x-api-key", "Cookie", "X_Token"] {
            assert!(fields(with_header(header)).is_empty(), "{header}");
        }
    }

    #[test]
    fn event_types_are_types_prefixes_or_all() {
        let patterns = ["*", "invoice.paid", "invoice.*", "a.b.*", "", "*.paid", "inv*", ".*", "invoice.*", "a b"];
        let event_types = patterns.map(Into::into).to_vec();
        let wrong = fields(Subscription { event_types, ..subscription() });
        assert_eq!(wrong, [4, 5, 6, 7, 8, 9].map(|at| format!("subscription.event_types[{at}]")));
        let many = (0..101).map(|n| format!("t{n}")).collect();
        assert_eq!(fields(Subscription { event_types: many, ..subscription() }), ["subscription.event_types"]);
    }

    #[test]
    fn the_secret_is_32_bytes_unless_it_is_brought() {
        let request = CreateSubscriptionRequest {
            parent: "tenants/acme".into(),
            subscription: Some(subscription()),
            ..Default::default()
        };
        let (name, new) = read(request, &Policy::default()).unwrap();
        assert_eq!((new.secret.algorithm(), new.secret.bytes().len()), (Algorithm::HmacSha256, 32));
        assert_eq!(name::check_id(&name.subscription), Ok(()));
    }

    #[test]
    fn the_first_secret_is_for_hmac() {
        let with = |secret| fields(Subscription { initial_secret: Some(secret), ..subscription() });
        let pair = Secret { algorithm: Algorithm::Ed25519.into(), ..Default::default() };
        assert_eq!(with(pair.clone()), ["subscription.initial_secret.algorithm"]);
        let brought = Secret { key: SigningKey::generate(Algorithm::Ed25519).text().to_string(), ..Default::default() };
        assert_eq!(with(brought.clone()), ["subscription.initial_secret.algorithm"]);
        let other = Secret { algorithm: Algorithm::HmacSha256.into(), ..brought };
        assert_eq!(with(other), ["subscription.initial_secret.key"]);
        assert_eq!(with(Secret { algorithm: 99, ..pair }), ["subscription.initial_secret.algorithm"]);
        assert!(with(Secret { algorithm: Algorithm::HmacSha256.into(), ..Default::default() }).is_empty());
    }
}
