use super::*;
use http::HeaderValue;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};
use standardwebhooks::Webhook;

const NOW: u64 = 1_700_000_000;
const BODY: &[u8] = br#"{"type":"invoice.paid"}"#;
const KEY: [u8; 32] = [3; 32];
const OTHER: [u8; 32] = [4; 32];
const AUDIENCE: &str = "https://hooks.example.com";

const NO_FIT: Error = Error::Signature { versions: "v1" };

fn secret(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

fn verifier() -> Verifier {
    Verifier::new([secret(&KEY)]).unwrap().audience(AUDIENCE)
}

fn claims() -> Value {
    json!({
        "iss": "hookwire", "aud": AUDIENCE, "iat": NOW - 5, "nbf": NOW - 5, "exp": NOW + 20, "jti": "att_1",
        "webhook_id": "msg_1", "body_sha256": hex::encode(digest::digest(&digest::SHA256, BODY)),
    })
}

fn bearer(claims: &Value, algorithm: Algorithm, key: &[u8]) -> HeaderValue {
    let token = jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key)).unwrap();
    format!("Bearer {token}").parse().unwrap()
}

/// A request signed by others' code.
fn headers() -> HeaderMap {
    let signature = Webhook::from_bytes(KEY.to_vec()).unwrap().sign("msg_1", NOW as i64, BODY).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "msg_1".parse().unwrap());
    headers.insert("webhook-timestamp", NOW.into());
    headers.insert("webhook-signature", signature.parse().unwrap());
    headers.insert("webhook-valid-until", (NOW + 20).into());
    headers.insert("webhook-attempt", 2.into());
    headers.insert("authorization", bearer(&claims(), Algorithm::HS256, &KEY));
    headers
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verify_with(change: impl FnOnce(&mut HeaderMap)) -> Result<Verified, Error> {
    let mut headers = headers();
    change(&mut headers);
    verifier().verify_at(&headers, BODY, at(NOW))
}

fn verify_claiming(name: &str, value: Value) -> Result<Verified, Error> {
    let mut claims = claims();
    claims[name] = value;
    verify_with(|headers| drop(headers.insert("authorization", bearer(&claims, Algorithm::HS256, &KEY))))
}

#[test]
fn what_the_sender_makes_passes() {
    let vector: Value = serde_json::from_str(include_str!("../../vectors/signed.json")).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in vector["headers"].as_object().unwrap() {
        let name: http::HeaderName = name.parse().unwrap();
        headers.insert(name, value.as_str().unwrap().parse().unwrap());
    }
    let (body, sent) = (vector["body"].as_str().unwrap(), vector["sent"].as_u64().unwrap());
    let secrets = vector["secrets"].as_array().unwrap().iter().map(|secret| secret.as_str().unwrap());
    let verifier = Verifier::new(secrets).unwrap().audience(vector["audience"].as_str().unwrap());
    let verified = verifier.verify_at(&headers, body.as_bytes(), at(sent)).unwrap();
    assert_eq!((verified.timestamp, verified.valid_until), (sent, Some(sent + 20)));

    // Who has the public key only.
    let public_keys = vector["public_keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap());
    let verifier = Verifier::new(public_keys).unwrap();
    assert_eq!(verifier.verify_at(&headers, body.as_bytes(), at(sent)).unwrap().claims, None);
    let changed = verifier.verify_at(&headers, body.replace("paid", "Paid").as_bytes(), at(sent));
    assert_eq!(changed, Err(Error::Signature { versions: "v1a" }));
}

/// From the tests of another sender (svix-webhooks): its key, its signature.
#[test]
fn a_public_key_verifies_v1a_and_nothing_else() {
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const SENT: u64 = 1_614_265_330;
    let body = br#"{"test": 2432232314}"#;
    let v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
    headers.insert("webhook-timestamp", SENT.into());
    headers.insert("webhook-signature", format!("v1,AAAA {v1a}").parse().unwrap());
    let public = Verifier::new([PUBLIC]).unwrap();
    let verified = public.verify_at(&headers, body, at(SENT)).unwrap();
    assert_eq!((verified.timestamp, verified.claims), (SENT, None));
    let no_fit = Err(Error::Signature { versions: "v1a" });
    assert_eq!(public.verify_at(&headers, b"{}", at(SENT)), no_fit);
    let other = format!("whpk_{}", STANDARD.encode([1; 32]));
    assert_eq!(Verifier::new([other]).unwrap().verify_at(&headers, body, at(SENT)), no_fit);
    let old = public.verify_at(&headers, body, at(SENT + 301));
    assert!(matches!(old, Err(Error::TooOld { .. })), "age is checked all the same");

    // The public key is no HMAC key, nor is a version its own to choose.
    headers.insert("webhook-signature", v1a.replace("v1a", "v1").parse().unwrap());
    assert_eq!(public.verify_at(&headers, body, at(SENT)), no_fit);
    let bytes = STANDARD.decode(&PUBLIC["whpk_".len()..]).unwrap();
    let confused = Webhook::from_bytes(bytes).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", SENT as i64, body).unwrap();
    for version in ["v1", "v1a"] {
        headers.insert("webhook-signature", confused.replace("v1", version).parse().unwrap());
        assert_eq!(public.verify_at(&headers, body, at(SENT)), no_fit);
    }
}

#[test]
fn with_both_kinds_of_keys_one_signature_is_enough_and_the_token_is_checked() {
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let both = Verifier::new([PUBLIC, &secret(&KEY)]).unwrap().audience(AUDIENCE);
    assert!(both.verify_at(&headers(), BODY, at(NOW)).unwrap().claims.is_some());
    let mut without = headers();
    without.remove("authorization");
    assert_eq!(both.verify_at(&without, BODY, at(NOW)), Err(Error::TokenMissing));
    let mut unsigned = headers();
    unsigned.insert("webhook-signature", "v1,AAAA v1a,AAAA".parse().unwrap());
    assert_eq!(both.verify_at(&unsigned, BODY, at(NOW)), Err(Error::Signature { versions: "v1 or v1a" }));
}

#[test]
fn an_audience_is_not_taken_on_trust() {
    let vector: Value = serde_json::from_str(include_str!("../../vectors/signed.json")).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in vector["headers"].as_object().unwrap() {
        headers.insert(name.parse::<http::HeaderName>().unwrap(), value.as_str().unwrap().parse().unwrap());
    }
    let (body, sent) = (vector["body"].as_str().unwrap(), vector["sent"].as_u64().unwrap());
    let public = Verifier::new([vector["public_keys"][0].as_str().unwrap()]).unwrap();
    let insisting = public.audience(vector["audience"].as_str().unwrap());
    assert_eq!(insisting.verify_at(&headers, body.as_bytes(), at(sent)), Err(Error::TokenKey));
}

#[test]
fn a_good_request_tells_what_it_is() {
    let verified = verify_with(|_| ()).unwrap();
    assert_eq!(verified.message_id, "msg_1");
    assert_eq!((verified.timestamp, verified.valid_until), (NOW, Some(NOW + 20)));
    assert_eq!((verified.attempt, verified.replay), (Some(2), None));
    assert_eq!(verified.claims, Some(serde_json::from_value(claims()).unwrap()));
    let both = Verifier::new([secret(&OTHER), secret(&KEY)]).unwrap();
    assert!(both.verify_at(&headers(), BODY, at(NOW)).is_ok(), "any of the secrets");
}

#[test]
fn each_failed_check_is_named() {
    let expired = Error::TokenExpired { expires: NOW, now: NOW };
    assert_eq!(verify_claiming("exp", json!(NOW)), Err(expired));
    let early = Error::TokenNotYetValid { begins: NOW + 1, now: NOW };
    assert_eq!(verify_claiming("nbf", json!(NOW + 1)), Err(early));
    let elsewhere = Error::TokenAudience { expected: AUDIENCE.into(), found: "https://b".into() };
    assert_eq!(verify_claiming("aud", json!("https://b")), Err(elsewhere));
    assert_eq!(verify_claiming("webhook_id", json!("msg_2")), Err(Error::TokenMessage));
    assert_eq!(verify_claiming("body_sha256", json!("00")), Err(Error::TokenBody));
    assert_eq!(verify_claiming("exp", json!(NOW + 21)), Err(Error::ValidUntil { expected: NOW + 21 }));
    assert_eq!(verify_claiming("jti", Value::Null), Err(Error::TokenMalformed));
    assert_eq!(verify_claiming("exp", json!("later")), Err(Error::TokenMalformed));

    let with = |name: &'static str, value: HeaderValue| verify_with(|headers| drop(headers.insert(name, value)));
    assert_eq!(with("authorization", bearer(&claims(), Algorithm::HS256, &OTHER)), Err(Error::TokenSignature));
    assert_eq!(with("authorization", bearer(&claims(), Algorithm::HS512, &KEY)), Err(Error::TokenAlgorithm));
    assert_eq!(with("authorization", "Basic YTpi".parse().unwrap()), Err(Error::TokenMissing));
    assert_eq!(with("authorization", "Bearer a.b.c".parse().unwrap()), Err(Error::TokenMalformed));
    let none = "Bearer eyJhbGciOiJub25lIn0.e30.".parse().unwrap();
    assert_eq!(with("authorization", none), Err(Error::TokenMalformed), "`none` is no algorithm");
    assert_eq!(with("webhook-valid-until", 1.into()), Err(Error::ValidUntil { expected: NOW + 20 }));
    assert_eq!(with("webhook-signature", "v1,AAAA v1a,AAAA v2,AAAA".parse().unwrap()), Err(NO_FIT));
    assert_eq!(with("webhook-id", "msg_2".parse().unwrap()), Err(NO_FIT));
    assert_eq!(with("webhook-timestamp", (NOW + 1).into()), Err(NO_FIT));
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        assert_eq!(verify_with(|headers| drop(headers.remove(name))), Err(Error::MissingHeader { name }));
        let twice = verify_with(|headers| assert!(headers.append(name, "x".parse().unwrap())));
        assert!(matches!(twice, Err(Error::MalformedHeader { name: wrong, .. }) if wrong == name), "{name}");
    }
    let wrong_secret = Verifier::new([secret(&OTHER)]).unwrap().verify_at(&headers(), BODY, at(NOW));
    assert_eq!(wrong_secret, Err(NO_FIT));
}

#[test]
fn age_is_checked_to_the_second_and_both_ways() {
    let lenient = || verifier().leeway(Duration::from_secs(1000));
    let verify = |verifier: Verifier, now| verifier.verify_at(&headers(), BODY, at(now));
    let tolerance = TOLERANCE;
    assert!(verify(lenient(), NOW + 300).is_ok());
    let old = Error::TooOld { sent: NOW, now: NOW + 301, tolerance };
    assert_eq!(verify(lenient(), NOW + 301), Err(old));
    assert!(verify(lenient(), NOW - 300).is_ok());
    let new = Error::TooNew { sent: NOW, now: NOW - 301, tolerance };
    assert_eq!(verify(lenient(), NOW - 301), Err(new));

    assert!(verify(verifier(), NOW + 19).is_ok());
    let expired = Error::TokenExpired { expires: NOW + 20, now: NOW + 20 };
    assert_eq!(verify(verifier(), NOW + 20), Err(expired), "no leeway unless it is asked for");
    assert!(verify(verifier(), NOW - 5).is_ok());
    assert!(verify(verifier(), NOW - 6).is_err());
}

#[test]
fn a_token_may_be_elsewhere_or_not_be_asked_for() {
    let moved = verify_with(|headers| {
        let token = headers.remove("authorization").unwrap().to_str().unwrap().replace("Bearer ", "");
        headers.insert("webhook-token", token.parse().unwrap());
        headers.insert("authorization", "Basic YTpi".parse().unwrap());
    });
    assert!(moved.unwrap().claims.is_some());

    let mut headers = headers();
    headers.remove("authorization");
    let verified = verifier().allow_missing_token().verify_at(&headers, BODY, at(NOW)).unwrap();
    assert_eq!((verified.claims, verified.valid_until), (None, Some(NOW + 20)));
}

#[test]
fn a_secret_that_is_none_is_said_without_being_shown() {
    let (short, private) = (format!("whpk_{}", STANDARD.encode([1; 31])), format!("whsk_{}", STANDARD.encode([1; 64])));
    for secret in ["", "whsec_", "whsec_not base64", "whpk_", &short, &private, &STANDARD.encode(KEY)] {
        let error = Verifier::new([self::secret(&KEY).as_str(), secret]).unwrap_err();
        assert_eq!(error, Error::Secret { number: 2 });
        assert!(secret.is_empty() || secret.ends_with('_') || !error.to_string().contains(secret));
    }
    assert_eq!(Verifier::new([""; 0]).unwrap_err(), Error::NoSecret);
}

proptest! {
    #[test]
    fn one_changed_bit_of_the_body_is_refused(at_byte in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut body = BODY.to_vec();
        let index = at_byte.index(body.len());
        body[index] ^= 1 << bit;
        prop_assert_eq!(verifier().verify_at(&headers(), &body, at(NOW)), Err(NO_FIT));
    }

    #[test]
    fn no_header_whatever_makes_it_panic(
        which in prop::sample::select(vec![
            "webhook-id", "webhook-timestamp", "webhook-signature", "webhook-valid-until", "authorization", "webhook-token",
        ]),
        value in prop::collection::vec(32u8..=255, 0..60),
    ) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let unchanged = value == headers().get(which).cloned().unwrap_or(HeaderValue::from_static(""));
            let verified = verify_with(|headers| drop(headers.insert(which, value)));
            prop_assert!(unchanged || verified.is_err());
        }
    }
}
