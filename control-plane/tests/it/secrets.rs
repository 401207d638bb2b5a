//! Secrets over their lives: added, rotated, promoted, expired, deleted; and what of them is public.

use std::time::Duration;

use hookwire_control_plane::api::REVISION_METADATA;
use hookwire_control_plane::signing_key::SigningKey;
use hookwire_control_plane::store::Error;
use hookwire_proto::config::{self, resource};
use hookwire_proto::v1::secret::{Algorithm, State};
use hookwire_proto::v1::*;
use hookwire_proto::{name, signing};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use time::OffsetDateTime;
use tonic::Code;

use crate::support::{Client, Database, Plane, invalid, new_subscription, on_both, refusal, refused, start};

on_both!(
    a_rotation_overlaps_promotes_and_ends,
    a_rotation_without_overlap_leaves_nothing_of_the_old_secret,
    pairs_are_brought_or_made_and_their_public_keys_listed,
    what_is_wrong_with_a_rotation_is_told,
    an_hmac_secret_without_end_is_never_missing,
    expired_secrets_are_deleted_once_whoever_does_it,
    an_etag_guards_promotion_and_deletion,
);

const SUBSCRIPTION: &str = "tenants/acme/subscriptions/s";

async fn with_subscription(database: &Database) -> (Plane, Client, Secret) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let made = client.subscriptions.create_subscription(new_subscription("acme", "s")).await.unwrap().into_inner();
    (plane, client, made.initial_secret.unwrap())
}

fn rotation(id: &str, overlap: Option<Duration>) -> RotateSecretRequest {
    RotateSecretRequest {
        parent: SUBSCRIPTION.into(),
        secret_id: id.into(),
        overlap: overlap.map(|overlap| overlap.try_into().unwrap()),
        ..Default::default()
    }
}

async fn secrets(client: &mut Client) -> Vec<Secret> {
    let list = ListSecretsRequest { parent: SUBSCRIPTION.into(), ..Default::default() };
    client.subscriptions.list_secrets(list).await.unwrap().into_inner().secrets
}

/// Name, state, and whether it signs the token.
async fn states(client: &mut Client) -> Vec<(String, State, bool)> {
    let secrets = secrets(client).await.into_iter();
    secrets.map(|secret| (name::last_id(&secret.name).to_owned(), secret.state(), secret.signs_token)).collect()
}

/// What nodes are told of the subscription's secrets.
async fn pushed(plane: &Plane) -> Vec<config::Secret> {
    let (_, resources) = plane.store.snapshot().await.unwrap();
    let subscription = resources.into_iter().find_map(|resource| match resource.resource {
        Some(resource::Resource::Subscription(subscription)) => Some(subscription),
        _ => None,
    });
    subscription.unwrap().secrets
}

fn ms(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000 + i64::from(time.nanos / 1_000_000)
}

async fn a_rotation_overlaps_promotes_and_ends(database: Database) {
    let (plane, mut client, first) = with_subscription(&database).await;
    assert_eq!((first.state(), first.signs_token, first.expire_time), (State::Active, true, None));
    assert_eq!(first.algorithm(), Algorithm::HmacSha256);
    assert_eq!(first.key_id, database.keys().newest());
    let first_id = name::last_id(&first.name).to_owned();
    let before = OffsetDateTime::now_utc();
    let second = client.subscriptions.rotate_secret(rotation("second", None)).await.unwrap().into_inner();
    assert!(second.key.starts_with("whsec_") && second.key != first.key);
    let of = |id: &str, state, token| (id.to_owned(), state, token);
    assert_eq!(states(&mut client).await, [of(&first_id, State::Retiring, true), of("second", State::Active, false)]);
    let get = GetSecretRequest { name: first.name.clone() };
    let retiring = client.subscriptions.get_secret(get.clone()).await.unwrap().into_inner();
    assert!(retiring.key.is_empty(), "shown once");
    let end = ms(retiring.expire_time.as_ref().unwrap());
    let day = 24 * 60 * 60 * 1_000;
    let begun = i64::try_from(before.unix_timestamp_nanos() / 1_000_000).unwrap();
    assert!((begun + day..begun + day + 60_000).contains(&end), "24 hours if nothing is said");
    let told = pushed(&plane).await;
    assert_eq!(
        told.iter().map(|secret| secret.expire_time_ms).collect::<Vec<_>>(),
        [end, 0],
        "nodes get the very same end"
    );
    assert_eq!(signing::of_token(&told, end - 1).unwrap().name, first.name);
    assert_eq!(signing::of_token(&told, end).unwrap().name, second.name);

    // Promoted: the new one signs the token now, and the old one goes on signing until its end.
    let promote = PromoteSecretRequest { name: second.name.clone(), ..Default::default() };
    let promoted = client.subscriptions.promote_secret(promote.clone()).await.unwrap();
    let revision = plane.store.revision().await.unwrap();
    assert_eq!(promoted.metadata().get(REVISION_METADATA).unwrap().to_str().unwrap(), revision.to_string());
    assert!(promoted.into_inner().signs_token);
    assert_eq!(states(&mut client).await, [of(&first_id, State::Retiring, false), of("second", State::Active, true)]);
    let told = pushed(&plane).await;
    assert!(signing::is_valid(&told[0], end - 1) && signing::of_token(&told, end - 1).unwrap().name == second.name);
    let again = client.subscriptions.promote_secret(promote).await.unwrap();
    assert_eq!(again.metadata().get(REVISION_METADATA).unwrap().to_str().unwrap(), revision.to_string());
    assert_eq!(plane.store.revision().await.unwrap(), revision, "nothing is written for nothing");

    // Rotated again: what ends sooner keeps its end, what would end later is cut.
    let hour = Some(Duration::from_secs(48 * 60 * 60));
    client.subscriptions.rotate_secret(rotation("third", hour)).await.unwrap();
    let told = pushed(&plane).await;
    assert_eq!(told[0].expire_time_ms, end);
    assert!(told[1].expire_time_ms > end);
    client.subscriptions.rotate_secret(rotation("fourth", Some(Duration::from_secs(60)))).await.unwrap();
    assert!(pushed(&plane).await[..3].iter().all(|secret| (1..end - 1_000).contains(&secret.expire_time_ms)));

    // At the end, however near.
    client.subscriptions.rotate_secret(rotation("fifth", Some(Duration::from_millis(1)))).await.unwrap();
    let last = ms(secrets(&mut client).await[3].expire_time.as_ref().unwrap());
    while i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap() < last {
        tokio::task::yield_now().await;
    }
    let expired = |id: &str| of(id, State::Expired, false);
    assert_eq!(
        states(&mut client).await,
        [expired(&first_id), expired("second"), expired("third"), expired("fourth"), of("fifth", State::Active, true)]
    );
    let promote = PromoteSecretRequest { name: second.name.clone(), ..Default::default() };
    let gone = client.subscriptions.promote_secret(promote).await;
    assert_eq!(refusal(gone), refused(Code::NotFound, "NOT_FOUND"));
    // Expired ones stand in nobody's way: neither their number nor their names.
    client.subscriptions.rotate_secret(rotation("second", None)).await.unwrap();
    assert_eq!(states(&mut client).await, [of("fifth", State::Retiring, true), of("second", State::Active, false)]);
}

async fn a_rotation_without_overlap_leaves_nothing_of_the_old_secret(database: Database) {
    let (plane, mut client, first) = with_subscription(&database).await;
    client.subscriptions.rotate_secret(rotation("second", None)).await.unwrap();
    let third = client.subscriptions.rotate_secret(rotation("third", Some(Duration::ZERO))).await.unwrap().into_inner();
    assert_eq!(states(&mut client).await, [("third".into(), State::Active, true)]);
    assert_eq!(pushed(&plane).await.into_iter().map(|secret| secret.name).collect::<Vec<_>>(), [third.name]);
    let gone = client.subscriptions.get_secret(GetSecretRequest { name: first.name }).await;
    assert_eq!(refusal(gone), refused(Code::NotFound, "NOT_FOUND"));
}

async fn pairs_are_brought_or_made_and_their_public_keys_listed(database: Database) {
    const PAIR: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let (plane, mut client, first) = with_subscription(&database).await;
    let list = ListPublicKeysRequest { parent: SUBSCRIPTION.into(), ..Default::default() };
    let none = client.subscriptions.list_public_keys(list.clone()).await.unwrap().into_inner();
    assert!(none.public_keys.is_empty());

    let seed = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    let create = CreateSecretRequest {
        parent: SUBSCRIPTION.into(),
        secret_id: "pair".into(),
        secret: Some(Secret { key: seed.into(), ..Default::default() }),
        ..CreateSecretRequest::default()
    };
    let brought = client.subscriptions.create_secret(create).await.unwrap().into_inner();
    assert_eq!((brought.key.as_str(), brought.algorithm()), (PAIR, Algorithm::Ed25519), "shown as a pair");
    assert_eq!(brought.public_key, "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
    assert!(!brought.signs_token);
    let told = pushed(&plane).await;
    let sealed = told[1].key.as_ref().unwrap();
    let opened = database.keys().open(&brought.name, sealed).unwrap();
    assert_eq!(SigningKey::parse(PAIR).unwrap().bytes(), opened.as_slice());

    // Rotating pairs leaves the HMAC secret alone.
    let pair = Some(Secret { algorithm: Algorithm::Ed25519.into(), ..Default::default() });
    let rotate = RotateSecretRequest { secret: pair, ..rotation("next", None) };
    let made = client.subscriptions.rotate_secret(rotate).await.unwrap().into_inner();
    assert_eq!((made.key.len(), made.public_key.len()), ("whsk_".len() + 88, "whpk_".len() + 44));
    let states = states(&mut client).await;
    assert_eq!(
        states.iter().map(|(_, state, token)| (*state, *token)).collect::<Vec<_>>(),
        [(State::Active, true), (State::Retiring, false), (State::Active, false)]
    );
    let mut page = ListPublicKeysRequest { page_size: 1, ..list.clone() };
    let one = client.subscriptions.list_public_keys(page.clone()).await.unwrap().into_inner();
    page.page_token = one.next_page_token;
    let two = client.subscriptions.list_public_keys(page).await.unwrap().into_inner();
    assert_eq!(two.next_page_token, "");
    let keys: Vec<_> = one.public_keys.into_iter().chain(two.public_keys).collect();
    assert_eq!(
        keys.iter().map(|key| (&key.secret, &key.key)).collect::<Vec<_>>(),
        [(&brought.name, &brought.public_key), (&made.name, &made.public_key)]
    );
    assert!(keys[0].expire_time.is_some() && keys[1].expire_time.is_none());
    as_jwks(&plane, &keys).await;
    let promote = PromoteSecretRequest { name: made.name.clone(), ..Default::default() };
    let refusal_ = client.subscriptions.promote_secret(promote).await;
    assert_eq!(refusal(refusal_), refused(Code::FailedPrecondition, "SIGNS_NO_TOKEN"));
    for name in [brought.name, made.name] {
        client.subscriptions.delete_secret(DeleteSecretRequest { name, ..Default::default() }).await.unwrap();
    }
    let last = client.subscriptions.delete_secret(DeleteSecretRequest { name: first.name, ..Default::default() }).await;
    assert_eq!(refusal(last), refused(Code::FailedPrecondition, "LAST_SECRET"));
    let nobody = ListPublicKeysRequest { parent: "tenants/acme/subscriptions/none".into(), ..Default::default() };
    let none = client.subscriptions.list_public_keys(nobody).await;
    assert_eq!(refusal(none), refused(Code::NotFound, "NOT_FOUND"));
}

/// The same keys for anybody over HTTP, and nothing that tells what else there is.
async fn as_jwks(plane: &Plane, keys: &[PublicKey]) {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let answer = plane.page("/.well-known/hookwire/acme/s/jwks.json").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("200 OK") && head.contains("application/jwk-set+json") && head.contains("max-age"), "{head}");
    let set: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = keys.iter().map(|key| {
        let bytes = STANDARD.decode(key.key.strip_prefix("whpk_").unwrap()).unwrap();
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
            "kid": name::last_id(&key.secret), "x": URL_SAFE_NO_PAD.encode(bytes),
        })
    });
    assert_eq!(set["keys"], expected.collect::<serde_json::Value>());
    for path in ["acme/none", "none/s", "ACME/s", "acme/%00"] {
        let answer = plane.page(&format!("/.well-known/hookwire/{path}/jwks.json")).await;
        assert!(answer.contains("200 OK") && answer.ends_with("\r\n\r\n{\"keys\":[]}"), "{path}: {answer}");
    }
}

async fn what_is_wrong_with_a_rotation_is_told(database: Database) {
    let (_plane, mut client, first) = with_subscription(&database).await;
    let mut rotate = async |request| client.subscriptions.rotate_secret(request).await;
    let too_long = rotation("x", Some(Duration::from_secs(30 * 24 * 60 * 60 + 1)));
    assert_eq!(refusal(rotate(too_long).await), invalid(["overlap"]));
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let wrong = RotateSecretRequest {
        parent: "acme".into(),
        secret_id: "NO".into(),
        secret: Some(Secret { key: "whsec_short".into(), ..Default::default() }),
        overlap: negative,
        ..Default::default()
    };
    assert_eq!(refusal(rotate(wrong).await), invalid(["overlap", "parent", "secret.key", "secret_id"]));
    let other = Secret { key: first.key.clone(), algorithm: Algorithm::Ed25519.into(), ..Default::default() };
    let wrong = RotateSecretRequest { secret: Some(other), ..rotation("x", None) };
    assert_eq!(refusal(rotate(wrong).await), invalid(["secret.key"]));
    let nobody = RotateSecretRequest { parent: "tenants/acme/subscriptions/none".into(), ..rotation("x", None) };
    assert_eq!(refusal(rotate(nobody).await), refused(Code::NotFound, "NOT_FOUND"));
    let pair = Some(Secret { algorithm: Algorithm::Ed25519.into(), ..Default::default() });
    let none = RotateSecretRequest { secret: pair, ..rotation("x", None) };
    assert_eq!(refusal(rotate(none).await), refused(Code::FailedPrecondition, "NO_SECRET"));
    let taken = rotation(name::last_id(&first.name), Some(Duration::ZERO));
    assert_eq!(refusal(rotate(taken).await), refused(Code::AlreadyExists, "ALREADY_EXISTS"));
    for n in 0..4 {
        rotate(rotation(&format!("k{n}"), None)).await.unwrap();
    }
    assert_eq!(refusal(rotate(rotation("k9", None)).await), refused(Code::FailedPrecondition, "TOO_MANY_SECRETS"));
    rotate(rotation("k9", Some(Duration::ZERO))).await.unwrap();
}

/// Whatever is done in whatever order, a subscription has an HMAC secret without end, and one that signs the token at any time.
async fn an_hmac_secret_without_end_is_never_missing(database: Database) {
    #[derive(Debug, Clone)]
    enum Step {
        Create(Algorithm),
        Rotate(Algorithm, u64),
        Promote(prop::sample::Index),
        Delete(prop::sample::Index),
        Sweep,
    }
    let store = database.store().await;
    store.create_tenant(&name::Tenant { tenant: "a".into() }, &hookwire_proto::v1::Tenant::default()).await.unwrap();
    let algorithm = || prop::sample::select(vec![Algorithm::HmacSha256, Algorithm::Ed25519]);
    let step = prop_oneof![
        algorithm().prop_map(Step::Create),
        (algorithm(), prop::sample::select(vec![0, 1, 60_000])).prop_map(|(algorithm, ms)| Step::Rotate(algorithm, ms)),
        any::<prop::sample::Index>().prop_map(Step::Promote),
        any::<prop::sample::Index>().prop_map(Step::Delete),
        Just(Step::Sweep),
    ];
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(1) });
    let histories = prop::collection::vec(prop::collection::vec(step, 1..12), 20);
    let histories = histories.new_tree(&mut runner).unwrap().current();
    for (n, steps) in histories.into_iter().enumerate() {
        let subscription = name::Subscription { tenant: "a".into(), subscription: format!("s{n}") };
        store.create_subscription(&subscription, crate::store::new_subscription()).await.unwrap();
        let secret = |id: String| name::Secret { tenant: "a".into(), subscription: format!("s{n}"), secret: id };
        for (at, step) in steps.iter().enumerate() {
            let there = store.list_secrets(&subscription, 0, 100).await.unwrap();
            let pick = |index: &prop::sample::Index| secret(name::last_id(&index.get(&there).name).into());
            let new = secret(format!("k{at}"));
            let done = match step {
                Step::Create(algorithm) => store.create_secret(&new, &SigningKey::generate(*algorithm)).await.map(drop),
                Step::Rotate(algorithm, ms) => {
                    let key = SigningKey::generate(*algorithm);
                    store.rotate_secret(&new, &key, Duration::from_millis(*ms)).await.map(drop)
                }
                Step::Promote(index) => store.promote_secret(&pick(index), "").await.map(drop),
                Step::Delete(index) => store.delete_secret(&pick(index), "").await.map(drop),
                Step::Sweep => store.delete_expired_secrets(OffsetDateTime::now_utc(), 100).await.map(drop),
            };
            match done {
                Ok(())
                | Err(
                    Error::NotFound { .. }
                    | Error::TooManySecrets { .. }
                    | Error::LastSecret { .. }
                    | Error::NoSecret { .. }
                    | Error::SignsNoToken { .. },
                ) => {}
                Err(error) => panic!("{steps:?} at {at}: {error}"),
            }
            let there = store.list_secrets(&subscription, 0, 100).await.unwrap();
            let lasting = there
                .iter()
                .filter(|secret| secret.algorithm() == Algorithm::HmacSha256 && secret.expire_time.is_none());
            assert!(lasting.count() > 0, "{steps:?} at {at}: {there:?}");
            assert_eq!(there.iter().filter(|secret| secret.signs_token).count(), 1, "{steps:?} at {at}: {there:?}");
        }
    }
}

async fn expired_secrets_are_deleted_once_whoever_does_it(database: Database) {
    let (plane, mut client, first) = with_subscription(&database).await;
    client.subscriptions.rotate_secret(rotation("second", Some(Duration::from_secs(60)))).await.unwrap();
    let end = secrets(&mut client).await[0].expire_time.unwrap();
    let end = OffsetDateTime::from_unix_timestamp(end.seconds).unwrap() + Duration::from_nanos(end.nanos as u64);
    let revision = plane.store.revision().await.unwrap();
    assert_eq!(plane.store.delete_expired_secrets(end, 10).await.unwrap(), 0, "at its end it is there");
    assert_eq!(plane.store.revision().await.unwrap(), revision);

    let others = futures::future::join_all((0..3).map(|_| database.store())).await;
    let later = end + Duration::from_millis(1);
    let deleted = futures::future::join_all(others.iter().map(|store| store.delete_expired_secrets(later, 10))).await;
    assert_eq!(deleted.into_iter().map(Result::unwrap).sum::<usize>(), 1);
    assert_eq!(plane.store.revision().await.unwrap(), revision + 1, "one write, whoever made it");
    let gone = client.subscriptions.get_secret(GetSecretRequest { name: first.name }).await;
    assert_eq!(refusal(gone), refused(Code::NotFound, "NOT_FOUND"));
    assert_eq!(pushed(&plane).await.len(), 1);
}

async fn an_etag_guards_promotion_and_deletion(database: Database) {
    let (_plane, mut client, first) = with_subscription(&database).await;
    let second = client.subscriptions.rotate_secret(rotation("second", None)).await.unwrap().into_inner();
    let stale = PromoteSecretRequest { name: first.name.clone(), etag: first.etag.clone() };
    let answer = client.subscriptions.promote_secret(stale).await;
    assert_eq!(refusal(answer), refused(Code::Aborted, "ETAG_MISMATCH"), "the rotation set its end");
    let promote = PromoteSecretRequest { name: second.name.clone(), etag: second.etag.clone() };
    let promoted = client.subscriptions.promote_secret(promote).await.unwrap().into_inner();
    assert_ne!(promoted.etag, second.etag);
    let delete = |etag: &str| DeleteSecretRequest { name: first.name.clone(), etag: etag.into() };
    let answer = client.subscriptions.delete_secret(delete(&first.etag)).await;
    assert_eq!(refusal(answer), refused(Code::Aborted, "ETAG_MISMATCH"));
    let now =
        client.subscriptions.get_secret(GetSecretRequest { name: first.name.clone() }).await.unwrap().into_inner();
    client.subscriptions.delete_secret(delete(&now.etag)).await.unwrap();
}
