//! What a subscription says about its requests, as its recipient sees it.

use hookwire_proto::config::subscription_settings::Authentication;
use hookwire_proto::config::{BasicAuth, CustomHeader, Signing, SubscriptionSettings, custom_header::Content};
use hookwire_proto::seal;

use super::receiver::Arrived;
use super::*;

mod certificate;
mod oauth;

/// An address of this machine that nothing comes from by itself.
const BOUND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SECRET: &str = "header of/\"mine\"";
const PASSWORD: &str = "open sesame: 1 2";

impl Sender {
    fn with_settings(&self, url: &str, settings: SubscriptionSettings) -> Attempt {
        let mut attempt = self.to(url);
        let subscription = Arc::get_mut(&mut attempt.subscription).unwrap();
        subscription.settings = Some(Box::new(settings.into()));
        attempt
    }

    /// Makes an attempt that succeeds, and says how it arrived.
    async fn arrives_with(&self, settings: SubscriptionSettings) -> Arrived {
        let receiver = self.answering(OK).await;
        let finished = self.attempter.attempt(self.with_settings(&url(receiver.address), settings)).await;
        assert_eq!(answer(&finished).status, 200);
        receiver.arrived().remove(0)
    }

    fn basic(&self) -> Authentication {
        let password = Some(self.keys.seal(&format!("{NAME}{}", seal::BASIC), PASSWORD.as_bytes()));
        Authentication::BasicAuth(BasicAuth { username: "me".into(), password })
    }

    fn secret_header(&self) -> CustomHeader {
        let sealed = self.keys.seal(&format!("{NAME}/headers/x-secret"), SECRET.as_bytes());
        CustomHeader { name: "x-secret".into(), content: Some(Content::SecretValue(sealed)) }
    }
}

fn signed(signing: Signing) -> SubscriptionSettings {
    SubscriptionSettings { signing: Some(signing), ..Default::default() }
}

fn claims(token: &str, audience: &str) -> serde_json::Value {
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&[audience]);
    let key = jsonwebtoken::DecodingKey::from_secret(&KEY);
    jsonwebtoken::decode(token, &key, &validation).unwrap().claims
}

#[tokio::test]
async fn headers_of_its_own_arrive_fixed_and_secret_and_replace_none_of_ours() {
    let sender = Sender::new();
    let fixed = |name: &str, value: &str| {
        let content = Some(Content::Value(value.into()));
        CustomHeader { name: name.into(), content }
    };
    let headers = vec![
        fixed("x-team", "billing, Europe"),
        sender.secret_header(),
        // The control plane refuses these; if one came about, it would not count.
        fixed("webhook-id", "forged"),
        fixed("authorization", "forged"),
        fixed("content-type", "forged"),
    ];
    let content_type = "application/cloudevents+json".to_owned();
    let arrived = sender.arrives_with(SubscriptionSettings { headers, content_type, ..Default::default() }).await;
    assert_eq!(arrived.headers["x-team"], "billing, Europe");
    assert_eq!(arrived.headers["x-secret"], SECRET);
    assert_eq!(arrived.headers["content-type"], "application/cloudevents+json");
    assert_eq!(arrived.headers["webhook-id"], "msg_1");
    assert!(arrived.headers["authorization"].to_str().unwrap().starts_with("Bearer "));
    for name in ["x-team", "webhook-id", "authorization", "content-type"] {
        assert_eq!(arrived.headers.get_all(name).iter().count(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_token_lives_says_and_stands_where_the_subscription_wants() {
    let sender = Sender::new();
    let signing = Signing {
        jwt_life_s: 120,
        jwt_header: "x-token".into(),
        jwt_audience: "their-system".into(),
        jwt_claims: [("https://example.com/team".to_owned(), "billing".to_owned())].into(),
        ..Default::default()
    };
    let arrived = sender.arrives_with(signed(signing)).await;
    assert!(!arrived.headers.contains_key("authorization"));
    let claims = claims(arrived.headers["x-token"].to_str().unwrap(), "their-system");
    assert_eq!(claims["https://example.com/team"], "billing");
    assert_eq!(claims["webhook_id"], "msg_1");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 120 + 5, "backdated by 5 s");
    assert_eq!(arrived.headers["webhook-valid-until"], claims["exp"].to_string());
}

#[tokio::test]
async fn only_the_schemes_that_are_wanted_are_sent() {
    let sender = Sender::new();
    for (no_standard_webhooks, no_jwt) in [(false, false), (true, false), (false, true), (true, true)] {
        let signing = Signing { no_standard_webhooks, no_jwt, ..Default::default() };
        let headers = sender.arrives_with(signed(signing)).await.headers;
        assert_eq!(headers.contains_key("webhook-signature"), !no_standard_webhooks);
        for name in ["authorization", "webhook-valid-until"] {
            assert_eq!(headers.contains_key(name), !no_jwt, "{name}");
        }
        for always in ["webhook-id", "webhook-timestamp", "x-api-key"] {
            assert!(headers.contains_key(always), "{always}");
        }
    }
}

#[tokio::test]
async fn basic_authentication_takes_authorization_and_the_token_makes_room() {
    let sender = Sender::new();
    let settings = SubscriptionSettings { authentication: Some(sender.basic()), ..Default::default() };
    let Arrived { headers, .. } = sender.arrives_with(settings).await;
    let expected = format!("Basic {}", STANDARD.encode(format!("me:{PASSWORD}")));
    assert_eq!(headers["authorization"], expected);
    assert_eq!(headers.get_all("authorization").iter().count(), 1);
    let origin = format!("https://{}", headers["host"].to_str().unwrap());
    assert_eq!(claims(headers["webhook-token"].to_str().unwrap(), &origin)["webhook_id"], "msg_1");
}

#[tokio::test]
async fn its_timeout_counts_where_it_is_shorter_than_the_nodes() {
    let sender = Sender::with(Names::loopback(), |settings| settings.attempt_timeout = Duration::from_secs(20));
    let hangs = |mut connection: Connection| async move { connection.hang().await };
    let receiver = Receiver::start(sender.authority.server(HOST, H1), hangs).await;
    let timeout = |attempt_timeout_ms| SubscriptionSettings { attempt_timeout_ms, ..Default::default() };
    let finished = sender.attempter.attempt(sender.with_settings(&url(receiver.address), timeout(200))).await;
    assert_eq!(failure(&finished).error, AttemptError::Timeout);
    assert!(finished.duration >= Duration::from_millis(200) && finished.duration < Duration::from_secs(15));

    let hurried = Sender::hurried();
    let receiver = Receiver::start(hurried.authority.server(HOST, H1), hangs).await;
    let finished = hurried.attempter.attempt(hurried.with_settings(&url(receiver.address), timeout(60_000))).await;
    assert_eq!(failure(&finished).error, AttemptError::Timeout);
    assert!(finished.duration < Duration::from_secs(15), "the operator's limit holds");
}

/// Answers with what came, headers and all, in a header and in the body.
async fn echo(sender: &Sender) -> Receiver {
    Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        while let Some(request) = connection.request().await {
            let header = |name: &str| request.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let (secret, authorization) = (header("x-secret"), header("authorization"));
            let decoded = authorization.split_once(' ').and_then(|(_, encoded)| STANDARD.decode(encoded).ok());
            let decoded = String::from_utf8(decoded.unwrap_or_default()).unwrap_or_default();
            let body = format!("{secret}|{}|{authorization}|{decoded}|end", secret.replace('"', "\\\""));
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nserver: {authorization}\r\ncontent-length: {length}\r\n\r\n");
            connection.write(head + &body).await;
        }
    })
    .await
}

#[tokio::test]
async fn secrets_among_the_settings_are_scrubbed_from_what_is_kept_of_an_answer() {
    let sender = Sender::new();
    let receiver = echo(&sender).await;
    let settings = SubscriptionSettings {
        headers: vec![sender.secret_header()],
        authentication: Some(sender.basic()),
        ..Default::default()
    };
    let finished = sender.attempter.attempt(sender.with_settings(&url(receiver.address), settings)).await;
    let kept = answer(&finished);
    assert_eq!(kept.body, "[redacted]|[redacted]|Basic [redacted]|me:[redacted]|end");
    assert_eq!(kept.headers[0].value, "Basic [redacted]");
}

#[tokio::test]
async fn a_secret_that_is_sealed_for_another_place_makes_no_request() {
    let sender = Sender::new();
    let receiver = sender.answering(OK).await;
    let sealed = sender.keys.seal(&format!("{NAME}/headers/x-other"), SECRET.as_bytes());
    let headers = vec![CustomHeader { name: "x-secret".into(), content: Some(Content::SecretValue(sealed)) }];
    let settings = SubscriptionSettings { headers, ..Default::default() };
    let finished = sender.attempter.attempt(sender.with_settings(&url(receiver.address), settings)).await;
    assert_eq!(failure(&finished).error, AttemptError::Request);
    assert_eq!(receiver.connections(), 0);
}
