use super::*;

use hookwire_proto::v1::SharedKey;
use proptest::prelude::*;

fn subscription() -> Subscription {
    Subscription { url: "https://example.com/hooks".into(), event_types: vec!["*".into()], ..Default::default() }
}

/// The wrong fields, without `subscription.`.
fn wrong_after(current: Option<&Subscription>, mut new: Subscription) -> Vec<String> {
    let mut violations = Violations::default();
    violations.labels("subscription.labels", &new.labels);
    read(&mut violations, &mut new, current, &Policy::default());
    match violations.finish() {
        Ok(()) => Vec::new(),
        Err(super::super::Error::Invalid(found)) => {
            assert!(found.iter().all(|violation| violation.description.len() > 10), "{found:?}");
            found.into_iter().map(|violation| violation.field.replacen("subscription.", "", 1)).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

fn wrong(new: Subscription) -> Vec<String> {
    wrong_after(None, new)
}

fn fixed(name: &str, value: &str) -> CustomHeader {
    CustomHeader { name: name.into(), value: value.into(), ..Default::default() }
}

fn secret(name: &str, value: &str) -> CustomHeader {
    CustomHeader { name: name.into(), secret_value: value.into(), ..Default::default() }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn basic() -> Option<Authentication> {
    Some(Authentication::BasicAuth(BasicAuth { username: "u".into(), password: "p".into() }))
}

fn client() -> OAuthClient {
    OAuthClient {
        token_url: "https://login.example.com/token".into(),
        client_id: "c".into(),
        client_secret: "s".into(),
        ..Default::default()
    }
}

fn with_jwt(jwt: Jwt) -> Subscription {
    Subscription { signing: Some(Signing { jwt: Some(jwt), ..Default::default() }), ..subscription() }
}

fn with_schemes(schemes: &[i32]) -> Subscription {
    let signing = Some(Signing { schemes: schemes.to_vec(), jwt: None });
    Subscription { signing, ..subscription() }
}

fn with_schedule(delays: &[i64], deadline: Option<i64>) -> Subscription {
    let delays = delays.iter().map(|delay| seconds(*delay)).collect();
    let retry_schedule = Some(RetrySchedule { delays, deadline: deadline.map(seconds) });
    Subscription { retry_schedule, ..subscription() }
}

#[test]
fn a_header_is_set_once_and_none_of_ours() {
    let with = |headers: &[CustomHeader]| Subscription { headers: headers.to_vec(), ..subscription() };
    assert!(wrong(with(&[fixed("X-A", "1"), secret("x-b", "2 3")])).is_empty());
    assert_eq!(wrong(with(&[fixed("X-A", "1"), secret("x-a", "2")])), ["headers[1].name"]);
    for name in RESERVED_HEADERS.into_iter().chain(["Webhook-Id", "webhook-token", "", "a b", "ä"]) {
        assert_eq!(wrong(with(&[fixed(name, "1")])), ["headers[0].name"], "{name}");
    }
    for value in ["", " a", "a ", "a\nb", "ä", &"x".repeat(1_025)] {
        let field = if value.is_empty() { "headers[0]" } else { "headers[0].value" };
        assert_eq!(wrong(with(&[fixed("x-a", value)])), [field], "{value}");
    }
    let both = CustomHeader { secret_value: "2".into(), ..fixed("x-a", "1") };
    assert_eq!(wrong(with(&[both])), ["headers[0]"]);
    let many: Vec<_> = (0..17).map(|n| fixed(&format!("x-{n}"), "1")).collect();
    assert_eq!(wrong(with(&many)), ["headers"]);

    let shared_key = Some(SharedKey { header: "X-A".into(), value: "k".into() });
    let jwt = Some(Signing { jwt: Some(Jwt { header: "x-a".into(), ..Default::default() }), ..Default::default() });
    let all = Subscription { shared_key, headers: vec![fixed("x-a", "1")], signing: jwt, ..subscription() };
    assert_eq!(wrong(all), ["headers[0].name", "signing.jwt.header"]);
}

#[test]
fn a_secret_is_kept_only_where_there_is_one() {
    let shared_key = Some(SharedKey { header: "x-k".into(), value: String::new() });
    let basic = BasicAuth { username: "u".into(), password: String::new() };
    let without = Subscription {
        shared_key,
        headers: vec![fixed("x-a", "")],
        authentication: Some(Authentication::BasicAuth(basic)),
        ..subscription()
    };
    let all = ["shared_key.value", "headers[0]", "basic_auth.password"];
    assert_eq!(wrong(without.clone()), all);
    let had_others = Subscription {
        headers: vec![fixed("x-a", "1")],
        authentication: Some(Authentication::OauthClient(client())),
        ..subscription()
    };
    assert_eq!(wrong_after(Some(&had_others), without.clone()), all);
    let had =
        Subscription { headers: vec![CustomHeader { has_secret_value: true, ..fixed("x-a", "") }], ..without.clone() };
    assert!(wrong_after(Some(&had), without).is_empty());
}

#[test]
fn a_secret_goes_to_another_origin_only_if_it_is_given_anew() {
    let sent = |url: &str, token_url: &str, secret: &str| {
        let client = OAuthClient { token_url: token_url.into(), client_secret: secret.into(), ..client() };
        Subscription {
            url: url.into(),
            shared_key: Some(SharedKey { header: "x-k".into(), value: secret.into() }),
            headers: vec![CustomHeader { has_secret_value: true, ..self::secret("x-a", secret) }, fixed("x-b", "1")],
            authentication: Some(Authentication::OauthClient(client)),
            ..subscription()
        }
    };
    const TOKENS: &str = "https://login.example.com/token";
    let had = sent("https://example.com/hooks", TOKENS, "");
    let after = |url: &str, token_url: &str, secret: &str| wrong_after(Some(&had), sent(url, token_url, secret));
    for same in ["https://example.com/hooks", "https://EXAMPLE.com:443/elsewhere?there"] {
        assert!(after(same, TOKENS, "").is_empty(), "{same}");
    }
    let all = ["shared_key.value", "headers[0].secret_value", "oauth_client.client_secret"];
    for other in ["https://example.org/hooks", "https://example.com:8443/hooks", "https://a.example.com/hooks"] {
        assert_eq!(after(other, TOKENS, ""), all, "{other}");
        assert!(after(other, TOKENS, "anew").is_empty(), "{other}");
    }
    let (url, tokens) = ("https://example.com/hooks", "https://login.example.org/token");
    assert_eq!(after(url, tokens, ""), ["oauth_client.client_secret"]);
    assert!(after(url, tokens, "anew").is_empty());

    let basic = |url: &str, password: &str| {
        let basic = BasicAuth { username: "u".into(), password: password.into() };
        let authentication = Some(Authentication::BasicAuth(basic));
        Subscription { url: url.into(), authentication, ..subscription() }
    };
    let had = basic(url, "");
    assert_eq!(wrong_after(Some(&had), basic("https://example.org/", "")), ["basic_auth.password"]);
    assert!(wrong_after(Some(&had), basic("https://example.org/", "anew")).is_empty());
}

#[test]
fn contradictions_are_refused() {
    let jwt = |header: &str| Jwt { header: header.into(), ..Default::default() };
    let beside = |authentication, jwt| Subscription { authentication, ..with_jwt(jwt) };
    assert_eq!(wrong(beside(basic(), jwt("Authorization"))), ["signing.jwt.header"]);
    let oauth = || Some(Authentication::OauthClient(client()));
    assert_eq!(wrong(beside(oauth(), jwt("authorization"))), ["signing.jwt.header"]);
    for header in ["", "webhook-token", "x-token"] {
        assert!(wrong(beside(oauth(), jwt(header))).is_empty(), "{header}");
    }
    assert!(wrong(with_jwt(jwt("authorization"))).is_empty());
    assert_eq!(wrong(with_jwt(jwt("webhook-id"))), ["signing.jwt.header"]);

    let (standard, token, none) = (1, 2, 3);
    assert!(wrong(with_schemes(&[standard])).is_empty());
    assert!(wrong(with_schemes(&[token, standard])).is_empty());
    assert_eq!(wrong(with_schemes(&[standard, standard])), ["signing.schemes[1]"]);
    assert_eq!(wrong(with_schemes(&[0, 9])), ["signing.schemes[0]", "signing.schemes[1]"]);
    assert_eq!(wrong(with_schemes(&[none])), ["signing.schemes"]);
    assert!(wrong(Subscription { authentication: basic(), ..with_schemes(&[none]) }).is_empty());
    assert!(wrong(Subscription { headers: vec![secret("x-a", "1")], ..with_schemes(&[none]) }).is_empty());
    assert_eq!(wrong(Subscription { headers: vec![fixed("x-a", "1")], ..with_schemes(&[none]) }), ["signing.schemes"]);
    let both = Subscription { authentication: basic(), ..with_schemes(&[none, standard]) };
    assert_eq!(wrong(both), ["signing.schemes"]);
    let mut no_token = with_schemes(&[standard]);
    no_token.signing.as_mut().unwrap().jwt = Some(jwt("x-token"));
    assert_eq!(wrong(no_token), ["signing.jwt"]);
}

#[test]
fn a_token_lives_10_to_300_whole_seconds_and_claims_nothing_twice() {
    for (life, taken) in [(9, false), (10, true), (300, true), (301, false), (-1, false)] {
        let jwt = Jwt { life: Some(seconds(life)), ..Default::default() };
        assert_eq!(wrong(with_jwt(jwt)).is_empty(), taken, "{life}");
    }
    let half = Jwt { life: Some(prost_types::Duration { seconds: 20, nanos: 500_000_000 }), ..Default::default() };
    assert_eq!(wrong(with_jwt(half)), ["signing.jwt.life"]);
    let claims = |claims: &[(&str, &str)]| {
        let claims = claims.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        wrong(with_jwt(Jwt { claims, ..Default::default() }))
    };
    assert!(claims(&[("https://acme.example/role", "sender"), ("azp", "")]).is_empty());
    for name in RESERVED_CLAIMS.into_iter().chain(["", "a b", &"x".repeat(65)]) {
        assert_eq!(claims(&[(name, "1")]), [format!("signing.jwt.claims[{name:?}]")], "{name}");
    }
    assert_eq!(claims(&[("a", &"x".repeat(257))]), [r#"signing.jwt.claims["a"]"#]);
    let audience = Jwt { audience: "a\nb".into(), ..Default::default() };
    assert_eq!(wrong(with_jwt(audience)), ["signing.jwt.audience"]);
}

#[test]
fn a_schedule_outlives_no_message() {
    let day = 86_400;
    assert!(wrong(with_schedule(&[0, 5, 300], None)).is_empty());
    assert!(wrong(with_schedule(&[0], Some(0))).is_empty());
    assert!(wrong(with_schedule(&[100], Some(110))).is_empty());
    assert_eq!(wrong(with_schedule(&[100], Some(109))), ["retry_schedule.deadline"]);
    assert_eq!(wrong(with_schedule(&[0], Some(7 * day + 1))), ["retry_schedule.deadline"]);
    assert_eq!(wrong(with_schedule(&[4 * day, 3 * day], None)), ["retry_schedule.delays"]);
    assert_eq!(wrong(with_schedule(&[], None)), ["retry_schedule.delays"]);
    assert_eq!(wrong(with_schedule(&[0; 51], None)), ["retry_schedule.delays"]);
    assert_eq!(wrong(with_schedule(&[0, -1], None)), ["retry_schedule.delays[1]"]);
}

#[test]
fn numbers_and_times_have_bounds() {
    let rate = |requests_per_second, burst| {
        wrong(Subscription { rate_limit: Some(RateLimit { requests_per_second, burst }), ..subscription() })
    };
    assert!(rate(0.01, 0).is_empty() && rate(10_000.0, 10_000).is_empty());
    for number in [0.0, 0.009, -1.0, 10_001.0, f64::NAN, f64::INFINITY] {
        assert_eq!(rate(number, 1), ["rate_limit.requests_per_second"], "{number}");
    }
    assert_eq!(rate(1.0, -1), ["rate_limit.burst"]);
    assert_eq!(rate(1.0, 10_001), ["rate_limit.burst"]);
    for (timeout, taken) in [(0, false), (1, true), (60, true), (61, false)] {
        let found = wrong(Subscription { attempt_timeout: Some(seconds(timeout)), ..subscription() });
        assert_eq!(found.is_empty(), taken, "{timeout}");
    }
    for (content_type, taken) in
        [("", true), ("application/json", true), ("text/plain; charset=utf-8", true), ("json", false), ("a/b\n", false)]
    {
        let found = wrong(Subscription { content_type: content_type.into(), ..subscription() });
        assert_eq!(found.is_empty(), taken, "{content_type}");
    }
}

#[test]
fn an_oauth_clients_fields_are_checked_and_its_url_as_every_url() {
    let oauth = |change: fn(&mut OAuthClient)| {
        let mut client = client();
        change(&mut client);
        wrong(Subscription { authentication: Some(Authentication::OauthClient(client)), ..subscription() })
    };
    assert!(oauth(|client| client.scopes = vec!["a:b".into(), "c".into()]).is_empty());
    for url in ["", "http://login.example.com/", "https://127.0.0.1/", "https://u@login.example.com/"] {
        let client = OAuthClient { token_url: url.into(), ..client() };
        let found = wrong(Subscription { authentication: Some(Authentication::OauthClient(client)), ..subscription() });
        assert_eq!(found, ["oauth_client.token_url"], "{url}");
    }
    assert_eq!(oauth(|client| client.client_id.clear()), ["oauth_client.client_id"]);
    assert_eq!(oauth(|client| client.client_secret.clear()), ["oauth_client.client_secret"]);
    let scopes = oauth(|client| client.scopes = vec!["a b".into(), "c".into(), "c".into()]);
    assert_eq!(scopes, ["oauth_client.scopes[0]", "oauth_client.scopes[2]"]);
    assert_eq!(oauth(|client| client.scopes = (0..21).map(|n| n.to_string()).collect()), ["oauth_client.scopes"]);
    assert_eq!(oauth(|client| client.auth_style = 9), ["oauth_client.auth_style"]);
    assert_eq!(oauth(|client| client.audience = "ä".into()), ["oauth_client.audience"]);
    let basic = BasicAuth { username: "a:b".into(), password: "p".into() };
    let found = wrong(Subscription { authentication: Some(Authentication::BasicAuth(basic)), ..subscription() });
    assert_eq!(found, ["basic_auth.username"]);
}

#[test]
fn a_client_certificate_and_its_key_belong_together() {
    let certified = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let ((certificate, key), (other, other_key)) = (certified(), certified());
    let with = |certificate: &str, key: &str| {
        let certificate = ClientCertificate { certificate: certificate.into(), private_key: key.into() };
        Subscription { client_certificate: Some(certificate), ..subscription() }
    };
    assert!(wrong(with(&certificate, &key)).is_empty());
    assert!(wrong(with(&format!("{certificate}{other}"), &key)).is_empty(), "with what leads to its authority");
    let key_field = ["client_certificate.private_key"];
    assert_eq!(wrong(with(&certificate, &other_key)), key_field);
    assert_eq!(wrong(with(&certificate, "")), key_field);
    assert_eq!(wrong(with(&certificate, &certificate)), key_field);
    for none in ["", &*key, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &certificate.repeat(9)] {
        assert_eq!(wrong(with(none, &key)), ["client_certificate.certificate"], "{none}");
    }
    let had = with(&certificate, "");
    assert!(wrong_after(Some(&had), with(&certificate, "")).is_empty(), "it stays");
    assert_eq!(wrong_after(Some(&had), with(&other, "")), key_field, "another certificate needs its key");
    assert!(wrong_after(Some(&had), with(&other, &other_key)).is_empty());
}

#[test]
fn labels_are_bounded() {
    let with = |pairs: &[(&str, &str)]| {
        let labels = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        wrong(Subscription { labels, ..subscription() })
    };
    assert!(with(&[("a", ""), ("team.acme/env-1", "Prod ✓")]).is_empty());
    for key in ["", "A", "-a", "a-", "a b", &"a".repeat(64)] {
        assert_eq!(with(&[(key, "")]), [format!("labels[{key:?}]")], "{key}");
    }
    assert_eq!(with(&[("a", &"x".repeat(257))]), [r#"labels["a"]"#]);
    let many = (0..65).map(|n| (format!("l{n}"), String::new())).collect();
    assert_eq!(wrong(Subscription { labels: many, ..subscription() }), ["labels"]);
}

proptest! {
    /// Whatever is taken can be sent: it is a header's value, and no name is there twice.
    #[test]
    fn what_is_taken_fits_into_headers(
        headers in prop::collection::vec(("[a-zA-Z0-9 :-]{0,12}", "[\\PC\\n]{0,12}", any::<bool>()), 0..6),
        jwt_header in "(authorization|webhook-token|[a-z-]{0,6})",
    ) {
        let headers = headers.into_iter().map(|(name, value, is_secret)| match is_secret {
            true => secret(&name, &value),
            false => fixed(&name, &value),
        });
        let jwt = Some(Jwt { header: jwt_header, ..Default::default() });
        let mut new = Subscription {
            headers: headers.collect(),
            signing: Some(Signing { jwt, ..Default::default() }),
            ..subscription()
        };
        let mut violations = Violations::default();
        let (read, _) = read(&mut violations, &mut new, None, &Policy::default());
        if violations.finish().is_ok() {
            let jwt = read.settings.signing.unwrap_or_default().jwt_header;
            let mut names = vec![if jwt.is_empty() { AUTHORIZATION.to_owned() } else { jwt }];
            for header in read.settings.headers {
                prop_assert!(http::HeaderName::from_lowercase(header.name.as_bytes()).is_ok());
                let value = match header.content {
                    Some(Content::Value(value)) => value,
                    _ => read.secrets[&format!("/headers/{}", header.name)].to_string(),
                };
                prop_assert!(http::HeaderValue::from_str(&value).is_ok());
                names.push(header.name);
            }
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            prop_assert_eq!(names.len(), count);
        }
    }
}
