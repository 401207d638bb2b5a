//! What else a subscription has: shown as it was set, but for its secrets, and pushed to nodes with them sealed.

use hookwire_control_plane::store::Changes;
use hookwire_proto::config::{self, Resource, change::Change, resource};
use hookwire_proto::seal;
use hookwire_proto::v1::*;
use rcgen::{CertificateParams, KeyPair};

use crate::support::{Database, Plane, invalid, new_subscription, on_both, refusal, start};

on_both!(settings_are_shown_as_they_were_set_but_for_secrets, every_wrong_setting_is_told_at_once);

const SECRETS: [&str; 3] = ["shared-s3cret", "header-s3cret", "client-s3cret"];

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Everything that can be set, and the private key.
pub fn everything() -> (Subscription, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
    let subscription = Subscription {
        url: "https://example.com/hooks".into(),
        event_types: vec!["*".into()],
        description: "Books\nof Acme".into(),
        labels: [("team".into(), "billing ✓".into()), ("env".into(), String::new())].into(),
        shared_key: Some(SharedKey { header: "X-Key".into(), value: SECRETS[0].into() }),
        headers: vec![
            CustomHeader { name: "X-Fixed".into(), value: "for all to see".into(), ..Default::default() },
            CustomHeader { name: "x-secret".into(), secret_value: SECRETS[1].into(), ..Default::default() },
        ],
        content_type: "application/cloudevents+json".into(),
        rate_limit: Some(RateLimit { requests_per_second: 2.5, burst: 7 }),
        attempt_timeout: Some(prost_types::Duration { seconds: 4, nanos: 500_000_000 }),
        retry_schedule: Some(RetrySchedule {
            delays: [0, 10, 60].map(|delay| seconds(delay).unwrap()).to_vec(),
            deadline: seconds(600),
        }),
        signing: Some(Signing {
            schemes: vec![signing::Scheme::Jwt.into()],
            jwt: Some(Jwt {
                life: seconds(60),
                header: "X-Token".into(),
                audience: "acme".into(),
                claims: [("azp".into(), "hookwire".into())].into(),
            }),
        }),
        authentication: Some(subscription::Authentication::OauthClient(OAuthClient {
            token_url: "https://login.example.com/token".into(),
            client_id: "acme".into(),
            client_secret: SECRETS[2].into(),
            scopes: vec!["hooks:write".into()],
            audience: "https://api.example.com".into(),
            auth_style: o_auth_client::AuthStyle::Form.into(),
        })),
        client_certificate: Some(ClientCertificate {
            certificate: certificate.pem(),
            private_key: key.serialize_pem(),
        }),
        ordered: true,
        ..Default::default()
    };
    (subscription, key.serialize_pem())
}

/// The same as it is shown.
pub fn shown(mut set: Subscription) -> Subscription {
    set.shared_key.as_mut().unwrap().value.clear();
    set.shared_key.as_mut().unwrap().header = "x-key".into();
    set.headers[0].name = "x-fixed".into();
    set.headers[1].secret_value.clear();
    set.headers[1].has_secret_value = true;
    set.signing.as_mut().unwrap().jwt.as_mut().unwrap().header = "x-token".into();
    match set.authentication.as_mut().unwrap() {
        subscription::Authentication::OauthClient(client) => client.client_secret.clear(),
        subscription::Authentication::BasicAuth(basic) => basic.password.clear(),
    }
    set.client_certificate.as_mut().unwrap().private_key.clear();
    set
}

async fn settings_are_shown_as_they_were_set_but_for_secrets(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let (set, key) = everything();
    let request = CreateSubscriptionRequest { subscription: Some(set.clone()), ..new_subscription("acme", "s") };
    let made = client.subscriptions.create_subscription(request).await.unwrap().into_inner();
    let get = GetSubscriptionRequest { name: made.name.clone() };
    let got = client.subscriptions.get_subscription(get).await.unwrap().into_inner();
    let whole = |from: &Subscription| Subscription {
        name: from.name.clone(),
        state: from.state,
        create_time: from.create_time,
        update_time: from.update_time,
        revision: from.revision,
        etag: from.etag.clone(),
        ..shown(set.clone())
    };
    assert_eq!(got, whole(&got));
    assert_eq!(Subscription { initial_secret: None, ..made.clone() }, got);

    // Nodes get it whole: what is sealed opens for its name, and for no other.
    let mut settings = pushed(&plane, made.revision).await.settings.unwrap();
    let (keys, mut opened) = (database.keys(), Vec::new());
    seal::visit(&mut settings, |part, sealed| {
        assert!(keys.open(&made.name, sealed).is_err());
        let plain = keys.open(&format!("{}{part}", made.name), sealed).unwrap();
        opened.push((part.to_owned(), String::from_utf8(plain.to_vec()).unwrap()));
    });
    let expected = [("/headers/x-secret", SECRETS[1]), (seal::OAUTH, SECRETS[2]), (seal::CLIENT_KEY, &key)];
    assert_eq!(opened, expected.map(|(part, secret)| (part.to_owned(), secret.to_owned())));
    assert!(settings.ordered);
    assert_eq!(
        (settings.attempt_timeout_ms, settings.retry_schedule.unwrap().delays_ms),
        (4_500, vec![0, 10_000, 60_000])
    );

    // Nothing set is nothing pushed.
    client.create_subscription("acme", "plain").await;
    let plain = client.create_subscription("acme", "plain-too").await;
    assert_eq!(pushed(&plane, plain.revision).await.settings, None);

    let contents = database.contents().await;
    let has = |what: &str| contents.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(has("for all to see") || has(&hex("for all to see")), "it is looked for where it is");
    for secret in SECRETS.into_iter().chain([key.lines().nth(1).unwrap()]) {
        assert!(!has(secret) && !has(&hex(secret)), "{secret} is in the database");
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The subscription that a revision wrote, as nodes get it.
async fn pushed(plane: &Plane, revision: i64) -> config::Subscription {
    let Changes::Sets(sets) = plane.store.changes_since(revision - 1, 1).await.unwrap() else { panic!("trimmed") };
    let changes = sets.into_iter().flat_map(|set| set.changes);
    let pushed = changes.filter_map(|change| match change.change {
        Some(Change::Put(Resource { resource: Some(resource::Resource::Subscription(pushed)) })) => Some(pushed),
        _ => None,
    });
    pushed.last().unwrap()
}

async fn every_wrong_setting_is_told_at_once(database: Database) {
    let plane = start(database.control_plane()).await;
    let mut client = plane.admin().await;
    client.create_tenant("acme").await;
    let mut request = new_subscription("acme", "s");
    let (mut set, _) = everything();
    set.description = "\u{7}".into();
    set.labels = [("Team".into(), String::new())].into();
    set.headers[0].name = "x-key".into();
    set.content_type = "json".into();
    set.rate_limit = Some(RateLimit { requests_per_second: 0.0, burst: -1 });
    set.attempt_timeout = seconds(61);
    set.retry_schedule.as_mut().unwrap().deadline = seconds(7 * 86_400 + 1);
    set.signing.as_mut().unwrap().jwt.as_mut().unwrap().header = "authorization".into();
    if let Some(subscription::Authentication::OauthClient(client)) = &mut set.authentication {
        client.token_url = "https://10.0.0.1/".into();
    }
    set.client_certificate.as_mut().unwrap().private_key = KeyPair::generate().unwrap().serialize_pem();
    request.subscription = Some(set);
    let refused = client.subscriptions.create_subscription(request).await;
    assert_eq!(
        refusal(refused),
        invalid([
            "subscription.description",
            "subscription.labels[\"Team\"]",
            "subscription.headers[0].name",
            "subscription.content_type",
            "subscription.rate_limit.requests_per_second",
            "subscription.rate_limit.burst",
            "subscription.attempt_timeout",
            "subscription.retry_schedule.deadline",
            "subscription.signing.jwt.header",
            "subscription.oauth_client.token_url",
            "subscription.client_certificate.private_key",
        ])
    );
}
