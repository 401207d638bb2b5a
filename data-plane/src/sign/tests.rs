use super::*;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookwire_proto::config::{Secret, SharedKey, secret};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use standardwebhooks::Webhook;

use crate::cache::snapshot::Subscription;

const NAME: &str = "tenants/acme/subscriptions/orders";
const BODY: &str = r#"{"type":"invoice.paid","data":{"who":"Zoë"}}"#;
const OLD: [u8; 32] = [7; 32];
const NEW: [u8; 24] = [9; 24];
const SEED: [u8; 32] = [5; 32];

fn master_keys() -> MasterKeys {
    MasterKeys::parse(&MasterKeys::generate()).unwrap()
}

fn attempt(keys: &MasterKeys, secrets: &[(&str, &[u8])]) -> Attempt {
    let secrets = secrets.iter().map(|(id, key)| {
        let name = format!("{NAME}/secrets/{id}");
        let algorithm = if *id == "pair" { secret::Algorithm::Ed25519 } else { secret::Algorithm::HmacSha256 };
        Secret { key: Some(keys.seal(&name, key)), name, algorithm: algorithm.into(), ..Secret::default() }
    });
    let shared_key = SharedKey {
        header: "x-api-key".into(),
        value: Some(keys.seal(&format!("{NAME}/sharedKey"), b"pre-shared \"value\"/1")),
    };
    Attempt {
        id: "att_1".into(),
        number: 1,
        subscription: Arc::new(Subscription {
            name: NAME.into(),
            url: Some("https://hooks.example.com:8443/in?a=b".parse().unwrap()),
            event_types: vec!["*".into()],
            secrets: secrets.collect(),
            shared_key: Some(shared_key),
            max_concurrency: None,
            settings: None,
            revision: 1,
        }),
        message_id: "msg_1".into(),
        body: Bytes::from_static(BODY.as_bytes()),
        content_type: "application/json".into(),
        replay: String::new(),
        traceparent: String::new(),
        tracestate: String::new(),
    }
}

fn rules() -> Rules {
    Rules { issuer: "hookwire".into(), token_life: Duration::from_secs(20) }
}

fn token(signed: &Signed) -> &str {
    signed.headers[AUTHORIZATION].to_str().unwrap().strip_prefix("Bearer ").unwrap()
}

/// The default of the library, told the audience alone.
fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["https://hooks.example.com:8443"]);
    validation
}

fn decode(token: &str, key: &[u8]) -> Result<jsonwebtoken::TokenData<Value>, jsonwebtoken::errors::Error> {
    jsonwebtoken::decode(token, &DecodingKey::from_secret(key), &validation())
}

#[test]
fn the_reference_library_takes_the_signature_of_each_valid_secret() {
    let keys = master_keys();
    let attempt = attempt(&keys, &[("old", &OLD), ("new", &NEW)]);
    let signed = sign(&attempt, &keys, &rules(), SystemTime::now()).unwrap();
    for key in [&OLD[..], &NEW[..]] {
        let webhook = Webhook::from_bytes(key.to_vec()).unwrap();
        webhook.verify(BODY.as_bytes(), &signed.headers).unwrap();
        webhook.verify(BODY.replace("paid", "Paid").as_bytes(), &signed.headers).unwrap_err();
    }
    Webhook::from_bytes(vec![1; 32]).unwrap().verify(BODY.as_bytes(), &signed.headers).unwrap_err();

    let mut newest = String::new();
    let timestamp = signed.headers[WEBHOOK_TIMESTAMP].to_str().unwrap();
    standard::sign(&mut newest, &NEW, "msg_1", timestamp, BODY.as_bytes());
    assert!(signed.headers[WEBHOOK_SIGNATURE].to_str().unwrap().starts_with(&newest), "the newest comes first");
}

#[test]
fn a_signature_that_was_made_long_ago_is_refused_by_the_reference_library() {
    let keys = master_keys();
    let attempt = attempt(&keys, &[("old", &OLD)]);
    let webhook = Webhook::from_bytes(OLD.to_vec()).unwrap();
    for (seconds, taken) in [(290, true), (310, false)] {
        let signed = sign(&attempt, &keys, &rules(), SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        assert_eq!(webhook.verify(BODY.as_bytes(), &signed.headers).is_ok(), taken, "{seconds} s ago");
    }
}

#[test]
fn the_token_is_signed_by_the_oldest_secret_and_says_so() {
    let keys = master_keys();
    let attempt = attempt(&keys, &[("old", &OLD), ("new", &NEW)]);
    let now = SystemTime::now();
    let signed = sign(&attempt, &keys, &rules(), now).unwrap();

    let data = decode(token(&signed), &OLD).unwrap();
    let sent = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(data.header.kid.as_deref(), Some("old"));
    assert_eq!(
        data.claims,
        serde_json::json!({
            "iss": "hookwire",
            "aud": "https://hooks.example.com:8443",
            "iat": sent - 5,
            "nbf": sent - 5,
            "exp": sent + 20,
            "jti": "att_1",
            "webhook_id": "msg_1",
            "body_sha256": hex::encode(digest::digest(&digest::SHA256, BODY.as_bytes())),
        })
    );
    assert_eq!(signed.headers[WEBHOOK_VALID_UNTIL].to_str().unwrap(), (sent + 20).to_string());
    decode(token(&signed), &NEW).unwrap_err();
}

#[test]
fn a_changed_or_outlived_token_is_refused() {
    let keys = master_keys();
    let attempt = attempt(&keys, &[("old", &OLD)]);
    // The library's default leeway is 60 s.
    let outlived = sign(&attempt, &keys, &rules(), SystemTime::now() - Duration::from_secs(82)).unwrap();
    let error = decode(token(&outlived), &OLD).unwrap_err();
    assert_eq!(error.kind(), &jsonwebtoken::errors::ErrorKind::ExpiredSignature);

    let signed = sign(&attempt, &keys, &rules(), SystemTime::now()).unwrap();
    let token = token(&signed);
    for at in [3, token.find('.').unwrap() + 3, token.rfind('.').unwrap() + 3] {
        let mut changed = token.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        decode(std::str::from_utf8(&changed).unwrap(), &OLD).unwrap_err();
    }
}

#[test]
fn what_is_missing_or_does_not_open_is_said() {
    let keys = master_keys();
    let now = SystemTime::now();
    let no_secret = sign(&attempt(&keys, &[]), &keys, &rules(), now).unwrap_err();
    assert!(matches!(no_secret, Error::NoSecret));
    let sealed_elsewhere = sign(&attempt(&master_keys(), &[("old", &OLD)]), &keys, &rules(), now).unwrap_err();
    assert!(matches!(sealed_elsewhere, Error::Seal(seal::Error::UnknownKey { .. })));
}

#[test]
fn our_headers_win_over_a_pre_shared_key_of_the_same_name() {
    let keys = master_keys();
    let mut attempt = attempt(&keys, &[("old", &OLD)]);
    let subscription = Arc::get_mut(&mut attempt.subscription).unwrap();
    subscription.shared_key.as_mut().unwrap().header = "webhook-id".into();
    let signed = sign(&attempt, &keys, &rules(), SystemTime::now()).unwrap();
    assert_eq!(signed.headers[WEBHOOK_ID], "msg_1");
}

#[test]
fn v1a_stands_beside_v1_and_verifies_with_the_public_key() {
    let keys = master_keys();
    let signed = sign(&attempt(&keys, &[("old", &OLD), ("pair", &SEED)]), &keys, &rules(), SystemTime::now()).unwrap();
    let header = signed.headers[WEBHOOK_SIGNATURE].to_str().unwrap();
    let (v1a, v1) = header.split_once(' ').unwrap();
    assert!(v1.starts_with("v1,"));
    Webhook::from_bytes(OLD.to_vec()).unwrap().verify(BODY.as_bytes(), &signed.headers).unwrap();
    assert_eq!(decode(token(&signed), &OLD).unwrap().header.kid.as_deref(), Some("old"));

    let pair = standard::key_pair(&SEED).unwrap();
    let public = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, &pair[32..]);
    let signature = STANDARD.decode(v1a.strip_prefix("v1a,").unwrap()).unwrap();
    let content = format!("msg_1.{}.{BODY}", signed.headers[WEBHOOK_TIMESTAMP].to_str().unwrap());
    public.verify(content.as_bytes(), &signature).unwrap();
    public.verify(content.replace("paid", "Paid").as_bytes(), &signature).unwrap_err();

    let forms = signed.secrets.forms();
    let has = |form: &str| forms.iter().any(|known| known.as_slice() == form.as_bytes());
    for private in [&SEED[..], &pair[..]] {
        assert!(has(&STANDARD.encode(private)) && has(&hex::encode(private)) && has(&hex::encode_upper(private)));
        assert!(forms.iter().any(|known| known.as_slice() == private));
    }
    assert!(has(&STANDARD.encode(signature)));
}

#[test]
fn every_form_of_every_secret_is_known() {
    let keys = master_keys();
    let key: Vec<u8> = (200..232).collect();
    let attempt = attempt(&keys, &[("old", &key)]);
    let signed = sign(&attempt, &keys, &rules(), SystemTime::now()).unwrap();
    let forms = signed.secrets.forms();
    let has = |form: &str| forms.iter().any(|known| known.as_slice() == form.as_bytes());
    let plain = STANDARD.encode(&key);
    let signature = signed.headers[WEBHOOK_SIGNATURE].to_str().unwrap();
    assert!(plain.contains('/'), "the key is chosen so that escaping matters");
    assert!(has(&plain));
    assert!(has(&plain.replace('/', "\\/")));
    assert!(has(&hex::encode(&key)));
    assert!(has(token(&signed)));
    assert!(has(signature.strip_prefix("v1,").unwrap()));
    assert!(has(r#"pre-shared "value"/1"#));
    assert!(has(r#"pre-shared \"value\"/1"#));
    assert!(has("pre-shared%20%22value%22%2F1"));
    assert!(forms.is_sorted_by(|a, b| a.len() >= b.len()), "the longest come first");
    assert!(!format!("{signed:?}").contains("pre-shared"), "debug output shows no secret");
}

/// `sdk/vectors/signed.json` is what every SDK verifies in its tests; to renew it, copy what this test prints when it fails.
#[test]
fn the_vector_of_the_sdks_is_what_is_made_here() {
    let keys = master_keys();
    let mut attempt = attempt(&keys, &[("old", &OLD), ("new", &NEW), ("pair", &SEED)]);
    Arc::get_mut(&mut attempt.subscription).unwrap().shared_key = None;
    let sent = 1_800_000_000;
    let signed = sign(&attempt, &keys, &rules(), SystemTime::UNIX_EPOCH + Duration::from_secs(sent)).unwrap();
    let headers = signed.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    let secrets = [OLD.as_slice(), NEW.as_slice()].map(|key| format!("whsec_{}", STANDARD.encode(key)));
    let public_key = format!("whpk_{}", STANDARD.encode(&standard::key_pair(&SEED).unwrap()[32..]));
    let made = serde_json::json!({
        "secrets": secrets,
        "public_keys": [public_key],
        "audience": "https://hooks.example.com:8443",
        "sent": sent,
        "body": BODY,
        "headers": headers.collect::<serde_json::Map<_, Value>>(),
    });
    let written: Value = serde_json::from_str(include_str!("../../../sdk/vectors/signed.json")).unwrap();
    assert_eq!(made, written, "{made:#}");
}
