//! What a subscription must be, a new one or one that changes, alone or one of many. Pure, but for the ids and secrets that it
//! makes.

use std::collections::HashSet;

use hookwire_proto::egress::Policy;
use hookwire_proto::name;
use hookwire_proto::v1::secret::Algorithm;
use hookwire_proto::v1::{
    BatchCreateSubscriptionsRequest, BatchUpdateSubscriptionsRequest, CreateSubscriptionRequest, Secret, Subscription,
    UpdateSubscriptionRequest,
};
use hookwire_proto::{pattern, system_event};

use super::validate::Violations;
use super::{Error, mask, settings};
use crate::signing_key::SigningKey;
use crate::store::{Fields, NewSubscription, SubscriptionAt};

const MAX_EVENT_TYPES: usize = 100;
const MAX_CONCURRENCY: i32 = 1_000;
/// How many are created or changed in one call, at most.
const MAX_BATCH: usize = 1_000;

/// Checks a request: every wrong field is told at once.
///
/// # Errors
/// [`Error::Invalid`].
pub fn read(
    mut violations: Violations,
    request: CreateSubscriptionRequest,
    egress: &Policy,
) -> Result<(name::Subscription, NewSubscription), Error> {
    let parent = violations.check("parent", name::Tenant::parse(&request.parent));
    let new = one(&mut violations, request, egress);
    let (parent, (subscription, new)) = violations.finish_with(parent.zip(new))?;
    Ok((name::Subscription { tenant: parent.tenant, subscription }, new))
}

/// Checks a request for many: every wrong field of all of them is told at once.
///
/// # Errors
/// [`Error::Invalid`].
pub fn read_batch(
    mut violations: Violations,
    request: BatchCreateSubscriptionsRequest,
    egress: &Policy,
) -> Result<(name::Tenant, Vec<(String, NewSubscription)>), Error> {
    let parent = violations.check("parent", name::Tenant::parse(&request.parent));
    let count = check_count(&mut violations, request.requests.len());
    let (mut all, mut ids) = (Vec::with_capacity(count), HashSet::new());
    for (at, one_request) in request.requests.into_iter().take(count).enumerate() {
        let mut of_one = Violations::default();
        if !one_request.parent.is_empty() && one_request.parent != request.parent {
            of_one.add("parent", "must be that of the batch, or left out");
        }
        if !one_request.request_id.is_empty() {
            of_one.add("request_id", "must be left out; the batch has one for all");
        }
        let new = one(&mut of_one, one_request, egress);
        if new.as_ref().is_some_and(|(id, _)| !ids.insert(id.clone())) {
            of_one.add("subscription_id", "is that of another in the batch; choose another");
        }
        let checked = of_one.finish_with(new);
        all.extend(of_batch(&mut violations, at, checked)?);
    }
    Ok((violations.finish_with(parent)?, all))
}

/// Checks which subscriptions of `parent` a request is to change: their names and etags.
///
/// # Errors
/// [`Error::Invalid`].
pub fn read_updates(request: &BatchUpdateSubscriptionsRequest) -> Result<(name::Tenant, Vec<SubscriptionAt>), Error> {
    let mut violations = Violations::default();
    let parent = violations.check("parent", name::Tenant::parse(&request.parent));
    let count = check_count(&mut violations, request.requests.len());
    let (mut all, mut ids) = (Vec::with_capacity(count), HashSet::new());
    for (at, update) in request.requests.iter().take(count).enumerate() {
        let field = format!("requests[{at}].subscription.name");
        let (name, etag) = update.subscription.as_ref().map_or(("", ""), |it| (it.name.as_str(), it.etag.as_str()));
        let Some(name) = violations.check(&field, name::Subscription::parse(name)) else { continue };
        if parent.as_ref().is_some_and(|parent| parent.tenant != name.tenant) {
            violations.add(field, format!("must be a subscription of {}", request.parent));
        } else if !ids.insert(name.subscription.clone()) {
            violations.add(field, "is that of another in the batch; change it once");
        } else {
            all.push(SubscriptionAt { id: name.subscription, etag: etag.to_owned() });
        }
    }
    Ok((violations.finish_with(parent)?, all))
}

/// What subscriptions come to with their updates, in the same order.
///
/// # Errors
/// [`Error::Invalid`].
pub fn change_all(
    current: &[Subscription],
    updates: &[UpdateSubscriptionRequest],
    egress: &Policy,
) -> Result<Vec<Fields>, Error> {
    let mut violations = Violations::default();
    let mut all = Vec::with_capacity(current.len());
    for (at, (current, update)) in current.iter().zip(updates).enumerate() {
        all.extend(of_batch(&mut violations, at, change(current, update, egress))?);
    }
    violations.finish_with(Some(all))
}

/// What a subscription comes to with an update.
///
/// # Errors
/// [`Error::Invalid`].
pub fn change(current: &Subscription, request: &UpdateSubscriptionRequest, egress: &Policy) -> Result<Fields, Error> {
    let mut violations = Violations::default();
    let update = request.subscription.clone().unwrap_or_default();
    let next = mask::apply(&mut violations, current, &update, request.update_mask.as_ref());
    if next.initial_secret.is_some() {
        violations.add("subscription.initial_secret", "can't be changed; use CreateSecret or RotateSecret");
    }
    let fields = fields(&mut violations, next, Some(current), egress);
    violations.finish_with(Some(fields))
}

/// How many of a batch are looked at.
fn check_count(violations: &mut Violations, count: usize) -> usize {
    if !(1..=MAX_BATCH).contains(&count) {
        violations.add("requests", format!("must be 1 to {MAX_BATCH}"));
        return 0;
    }
    count
}

/// One of a batch, or `None` and what is wrong with it.
fn of_batch<T>(violations: &mut Violations, at: usize, checked: Result<T, Error>) -> Result<Option<T>, Error> {
    match checked {
        Ok(one) => Ok(Some(one)),
        Err(Error::Invalid(wrong)) => {
            violations.add_all(&format!("requests[{at}]"), wrong);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn one(
    violations: &mut Violations,
    request: CreateSubscriptionRequest,
    egress: &Policy,
) -> Option<(String, NewSubscription)> {
    let id = violations.id("subscription_id", request.subscription_id, 's');
    let mut new = request.subscription.unwrap_or_else(|| {
        violations.add("subscription", "is required");
        Subscription::default()
    });
    let secret = initial_secret(violations, new.initial_secret.take().unwrap_or_default());
    let fields = fields(violations, new, None, egress);
    Some((id, NewSubscription { fields, secret_id: name::new_id('k'), secret: secret? }))
}

/// What people set of a subscription. `current` is what it was before an update: secrets may be left out that it has.
fn fields(
    violations: &mut Violations,
    mut new: Subscription,
    current: Option<&Subscription>,
    egress: &Policy,
) -> Fields {
    violations.display_name("subscription.display_name", &new.display_name);
    violations.description("subscription.description", &new.description);
    violations.labels("subscription.labels", &new.labels);
    violations.check("subscription.url", egress.check_text(&new.url));
    event_types(violations, &new.event_types);
    if !(0..=MAX_CONCURRENCY).contains(&new.max_concurrency) {
        violations.add(
            "subscription.max_concurrency",
            format!("must be 1 to {MAX_CONCURRENCY}, or 0 for the node's default"),
        );
    }
    let (settings, shared_key) = settings::read(violations, &mut new, current, egress);
    Fields {
        display_name: new.display_name,
        description: new.description,
        labels: new.labels,
        url: new.url,
        event_types: new.event_types,
        shared_key,
        max_concurrency: new.max_concurrency,
        settings,
    }
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
    if patterns.is_empty() {
        violations.add(FIELD, format!("must have 1 to {MAX_EVENT_TYPES} event types; `*` is all of them"));
    }
    check_event_types(violations, FIELD, patterns);
}

/// What may be asked for: at most so many patterns, each once.
pub(super) fn check_event_types(violations: &mut Violations, field: &str, patterns: &[String]) {
    if patterns.len() > MAX_EVENT_TYPES {
        violations.add(field, format!("must have at most {MAX_EVENT_TYPES} event types; `*` is all of them"));
        return;
    }
    let mut seen = HashSet::new();
    for (at, pattern) in patterns.iter().enumerate() {
        if name::check_event_pattern(pattern).is_err() {
            violations.add(format!("{field}[{at}]"), format!("must be {}", name::EVENT_PATTERN_RULE));
        } else if system_event::is_system_event(pattern)
            && !system_event::ALL.iter().any(|known| pattern::selects(pattern, known))
        {
            let known = system_event::ALL.join("`, `");
            violations.add(format!("{field}[{at}]"), format!("is nothing that Hookwire says; that is `{known}`"));
        } else if !seen.insert(pattern) {
            violations.add(format!("{field}[{at}]"), "is there already; leave it out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::settings::RESERVED_HEADERS;
    use hookwire_proto::v1::SharedKey;

    fn wrong(subscription: Subscription) -> Vec<String> {
        let request = CreateSubscriptionRequest {
            parent: "tenants/acme".into(),
            subscription: Some(subscription),
            ..Default::default()
        };
        match read(Violations::default(), request, &Policy::default()) {
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
            assert_eq!(wrong(with_header(header)), ["subscription.shared_key.header"], "{header}");
        }
        for header in ["x-api-key", "Cookie", "X_Token"] {
            assert!(wrong(with_header(header)).is_empty(), "{header}");
        }
    }

    #[test]
    fn event_types_are_types_prefixes_or_all() {
        let patterns = ["*", "invoice.paid", "invoice.*", "a.b.*", "", "*.paid", "inv*", ".*", "invoice.*", "a b"];
        let event_types = patterns.map(Into::into).to_vec();
        let found = wrong(Subscription { event_types, ..subscription() });
        assert_eq!(found, [4, 5, 6, 7, 8, 9].map(|at| format!("subscription.event_types[{at}]")));
        let ours =
            ["hookwire.*", "hookwire.secret.*", "hookwire.egress.changed", "hookwire.ping", "hookwire.e.*", "hookwire"];
        let found = wrong(Subscription { event_types: ours.map(Into::into).to_vec(), ..subscription() });
        assert_eq!(found, [3, 4, 5].map(|at| format!("subscription.event_types[{at}]")));
        let many = (0..101).map(|n| format!("t{n}")).collect();
        assert_eq!(wrong(Subscription { event_types: many, ..subscription() }), ["subscription.event_types"]);
    }

    #[test]
    fn the_secret_is_32_bytes_unless_it_is_brought() {
        let request = CreateSubscriptionRequest {
            parent: "tenants/acme".into(),
            subscription: Some(subscription()),
            ..Default::default()
        };
        let (name, new) = read(Violations::default(), request, &Policy::default()).unwrap();
        assert_eq!((new.secret.algorithm(), new.secret.bytes().len()), (Algorithm::HmacSha256, 32));
        assert_eq!(name::check_id(&name.subscription), Ok(()));
    }

    #[test]
    fn the_first_secret_is_for_hmac() {
        let with = |secret| wrong(Subscription { initial_secret: Some(secret), ..subscription() });
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
