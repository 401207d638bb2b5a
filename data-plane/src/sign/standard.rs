//! Standard Webhooks 1.0.0, scheme `v1`: HMAC-SHA256 over id, time of sending and body.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Appends the signature of a request under `key`, `v1,` and standard base64, to a `webhook-signature`.
pub fn sign(header: &mut String, key: &[u8], message_id: &str, timestamp: &str, body: &[u8]) {
    let mut hmac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in [message_id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        hmac.update(part);
    }
    if !header.is_empty() {
        header.push(' ');
    }
    header.push_str("v1,");
    STANDARD.encode_string(hmac.sign(), header);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";

    fn now() -> String {
        time::OffsetDateTime::now_utc().unix_timestamp().to_string()
    }

    fn headers(timestamp: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", ID.parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn the_specifications_example_comes_out() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut signature = String::new();
        sign(&mut signature, &key, ID, "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    proptest! {
        #[test]
        fn the_reference_library_takes_the_signature_and_no_other_body(
            key in prop::collection::vec(any::<u8>(), 24..=64), other in prop::collection::vec(any::<u8>(), 24..=64),
            body in "\\PC{0,200}",
        ) {
            prop_assume!(key != other);
            let timestamp = now();
            let mut signature = String::new();
            sign(&mut signature, &other, ID, &timestamp, body.as_bytes());
            let only_other = headers(&timestamp, &signature);
            sign(&mut signature, &key, ID, &timestamp, body.as_bytes());
            let both = headers(&timestamp, &signature);

            let webhook = Webhook::from_bytes(key).unwrap();
            prop_assert!(webhook.verify(body.as_bytes(), &both).is_ok());
            let changed = format!("{body} ");
            prop_assert!(webhook.verify(changed.as_bytes(), &both).is_err());
            prop_assert!(webhook.verify(body.as_bytes(), &only_other).is_err());
        }
    }
}
