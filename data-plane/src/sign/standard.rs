//! Standard Webhooks 1.0.0: `v1`, HMAC-SHA256, and `v1a`, ed25519 (RFC 8032), over id, time of sending and body.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Appends the signature of a request under `key`, `v1,` and standard base64, to a `webhook-signature`.
pub fn sign(header: &mut String, key: &[u8], message_id: &str, timestamp: &str, body: &[u8]) {
    let mut hmac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in [message_id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        hmac.update(part);
    }
    append(header, "v1", hmac.sign().as_ref());
}

/// The same with the key pair of a seed: `v1a,` and standard base64. `None` if it is no seed.
pub fn sign_v1a(header: &mut String, seed: &[u8], message_id: &str, timestamp: &str, body: &[u8]) -> Option<()> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    // The algorithm reads it twice, so that there is no signing piece by piece.
    let signed = [message_id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    append(header, "v1a", pair.sign(&signed).as_ref());
    Some(())
}

/// Seed and public key, as a `whsk_` is written. `None` if it is no seed.
pub fn key_pair(seed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    Some(Zeroizing::new([seed, pair.public_key().as_ref()].concat()))
}

fn append(header: &mut String, version: &str, signature: &[u8]) {
    if !header.is_empty() {
        header.push(' ');
    }
    header.push_str(version);
    header.push(',');
    STANDARD.encode_string(signature, header);
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

    /// From the tests of another sender (svix-webhooks): its key, its signature.
    #[test]
    fn another_senders_v1a_comes_out() {
        let pair = "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        let seed = &STANDARD.decode(pair).unwrap()[..32];
        let mut signature = String::new();
        sign_v1a(&mut signature, seed, ID, "1614265330", br#"{"test": 2432232314}"#).unwrap();
        assert_eq!(
            signature,
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
        );
        assert!(sign_v1a(&mut signature, &seed[1..], "m", "1", b"").is_none());
    }

    #[test]
    fn a_pair_is_the_seed_and_the_public_key_of_rfc_8032() {
        // Section 7.1, TEST 1.
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = hex::decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        assert_eq!(*key_pair(&seed).unwrap(), [seed, public].concat());
        assert!(key_pair(&[1; 31]).is_none());
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
