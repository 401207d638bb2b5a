//! Signing keys as people write them: `whsec_` for HMAC, `whsk_` and `whpk_` for ed25519 (Standard Webhooks, "Signature scheme").
//!
//! What is private is wiped from memory when it is dropped, here and in what is made of it. Not wiped are the buffers that are
//! not ours: gRPC's and TLS's, through which a key that is brought comes in and one that is shown goes out.

use std::fmt;

use aws_lc_rs::signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookwire_proto::v1::secret::Algorithm;
use zeroize::Zeroizing;

use crate::auth;

const HMAC_PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SEED_BYTES: usize = 32;
/// No key is longer; some more, for what the decoder writes before it knows the end.
const BUFFER_BYTES: usize = 128;

/// Why a text is no signing key. Says nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is none of either kind.
    #[error(
        "must be `whsec_` and 24 to 64 random bytes in standard base64 with padding, or `whsk_` and an ed25519 private key (32 bytes, \
         or 64 with the public key); leave it out to have one made"
    )]
    Malformed,
    /// The two halves of a pair don't fit.
    #[error("the second half of `whsk_` must be the public key of the first, which is the private key")]
    Mismatch,
    /// It is for another algorithm than the one that is asked for.
    #[error("is for another algorithm: `whsec_` is for HMAC_SHA256, `whsk_` for ED25519")]
    Algorithm,
}

/// A signing key. Prints nothing of what is private.
pub struct SigningKey {
    algorithm: Algorithm,
    /// The HMAC key, or the seed.
    bytes: Zeroizing<Vec<u8>>,
    public: Option<[u8; ED25519_PUBLIC_KEY_LEN]>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new one of 32 random bytes.
    pub fn generate(algorithm: Algorithm) -> Self {
        let bytes = Zeroizing::new(auth::random::<SEED_BYTES>().to_vec());
        match algorithm {
            Algorithm::Ed25519 => Self::ed25519(bytes).expect("any 32 bytes are a seed"),
            Algorithm::HmacSha256 | Algorithm::Unspecified => Self::hmac(bytes),
        }
    }

    /// An HMAC key from its decoded bytes.
    pub fn hmac(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { algorithm: Algorithm::HmacSha256, bytes, public: None }
    }

    /// A key pair from its seed.
    ///
    /// # Errors
    /// [`Error::Malformed`] if that has not 32 bytes.
    pub fn ed25519(seed: Zeroizing<Vec<u8>>) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| Error::Malformed)?;
        let public = pair.public_key().as_ref().try_into().expect("public keys have 32 bytes");
        Ok(Self { algorithm: Algorithm::Ed25519, bytes: seed, public: Some(public) })
    }

    /// Reads one as people write it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(base64) = text.strip_prefix(HMAC_PREFIX) {
            let bytes = decode(base64)?;
            return if (24..=64).contains(&bytes.len()) { Ok(Self::hmac(bytes)) } else { Err(Error::Malformed) };
        }
        let mut seed = decode(text.strip_prefix(PRIVATE_PREFIX).ok_or(Error::Malformed)?)?;
        let public = match seed.len() {
            SEED_BYTES => None,
            64 => <[u8; ED25519_PUBLIC_KEY_LEN]>::try_from(&seed[SEED_BYTES..]).ok(),
            _ => return Err(Error::Malformed),
        };
        seed.truncate(SEED_BYTES);
        let key = Self::ed25519(seed)?;
        if public.is_some() && public != key.public { Err(Error::Mismatch) } else { Ok(key) }
    }

    /// The one that is brought, or a new one if the text is empty. `algorithm` says which kind, if it says.
    ///
    /// # Errors
    /// [`Error`].
    pub fn brought_or_new(text: &str, algorithm: Algorithm) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::generate(algorithm));
        }
        let key = Self::parse(text)?;
        if algorithm == Algorithm::Unspecified || algorithm == key.algorithm { Ok(key) } else { Err(Error::Algorithm) }
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What is sealed of it: the HMAC key, or the seed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The public key of a pair.
    pub fn public(&self) -> Option<&[u8]> {
        self.public.as_ref().map(<[u8; ED25519_PUBLIC_KEY_LEN]>::as_slice)
    }

    /// As it is shown, once: `whsec_`, or `whsk_` with the public key.
    pub fn text(&self) -> Zeroizing<String> {
        let prefix = if self.public.is_some() { PRIVATE_PREFIX } else { HMAC_PREFIX };
        let mut whole = Zeroizing::new(Vec::with_capacity(BUFFER_BYTES));
        whole.extend_from_slice(&self.bytes);
        whole.extend_from_slice(self.public().unwrap_or_default());
        let mut text = Zeroizing::new(String::with_capacity(2 * BUFFER_BYTES));
        text.push_str(prefix);
        STANDARD.encode_string(&*whole, &mut text);
        text
    }
}

/// A public key as it is shown: `whpk_`.
pub fn public_text(public: &[u8]) -> String {
    format!("{PUBLIC_PREFIX}{}", STANDARD.encode(public))
}

/// The bytes of a public key as [`public_text`] shows it; `None` if it is none.
pub fn public_bytes(text: &str) -> Option<[u8; ED25519_PUBLIC_KEY_LEN]> {
    STANDARD.decode(text.strip_prefix(PUBLIC_PREFIX)?).ok()?.try_into().ok()
}

/// Decodes into memory that is wiped, also where it fails half-way.
fn decode(base64: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(vec![0; BUFFER_BYTES]);
    let length = STANDARD.decode_slice(base64, &mut bytes).map_err(|_| Error::Malformed)?;
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of another sender (svix-webhooks).
    const PAIR: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const SEED: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

    #[test]
    fn another_senders_pair_is_read_from_either_form_and_shown_with_both_halves() {
        for text in [PAIR, SEED] {
            let key = SigningKey::parse(text).unwrap();
            assert_eq!(key.algorithm(), Algorithm::Ed25519);
            assert_eq!(*key.text(), PAIR);
            assert_eq!(public_text(key.public().unwrap()), PUBLIC);
            assert_eq!(public_bytes(PUBLIC).as_ref().map(<[u8; 32]>::as_slice), key.public());
            assert!(!format!("{key:?}").contains("6Xb"));
        }
    }

    #[test]
    fn what_is_made_is_a_key_of_its_algorithm_and_another_each_time() {
        for (algorithm, made) in [
            (Algorithm::Unspecified, Algorithm::HmacSha256),
            (Algorithm::HmacSha256, Algorithm::HmacSha256),
            (Algorithm::Ed25519, Algorithm::Ed25519),
        ] {
            let [one, two] = [(); 2].map(|()| SigningKey::brought_or_new("", algorithm).unwrap());
            assert_eq!((one.algorithm(), one.bytes().len()), (made, 32));
            assert_ne!(one.bytes(), two.bytes());
            assert_eq!(SigningKey::brought_or_new(&one.text(), algorithm).unwrap().bytes(), one.bytes());
        }
    }

    #[test]
    fn what_is_no_key_is_refused_for_what_it_is() {
        let bytes = |length| STANDARD.encode(vec![7; length]);
        for text in [
            "w".into(),
            bytes(32),
            format!("whsec_{}", bytes(23)),
            format!("whsec_{}", bytes(65)),
            format!("whsec_{}", bytes(1_000)),
            format!("whsec_{}", bytes(32).trim_end_matches('=')),
            format!("whsec_{}", bytes(32).replace('=', "==")),
            format!(" whsec_{}", bytes(32)),
            format!("whsec_{}\n", bytes(32)),
            format!("whsk_{}", bytes(31)),
            format!("whsk_{}", bytes(33)),
            format!("whsk_{}", bytes(63)),
            "whsec_".into(),
            "whsk_".into(),
            "whsec_____________________________________________".into(),
            PUBLIC.into(),
        ] {
            assert_eq!(SigningKey::parse(&text).err(), Some(Error::Malformed), "{text}");
        }
        let halves = format!("whsk_{}", bytes(64));
        assert_eq!(SigningKey::parse(&halves).err(), Some(Error::Mismatch));
        assert_eq!(SigningKey::brought_or_new(PAIR, Algorithm::HmacSha256).err(), Some(Error::Algorithm));
        let secret = format!("whsec_{}", bytes(32));
        assert_eq!(SigningKey::brought_or_new(&secret, Algorithm::Ed25519).err(), Some(Error::Algorithm));
    }

    proptest! {
        #[test]
        fn a_key_is_shown_as_it_was_given(bytes in prop::collection::vec(any::<u8>(), 24..=64), seed in any::<[u8; 32]>()) {
            let key = SigningKey::hmac(bytes.clone().into());
            let again = SigningKey::parse(&key.text()).unwrap();
            prop_assert_eq!(again.bytes(), bytes);
            let pair = SigningKey::ed25519(seed.to_vec().into()).unwrap();
            let again = SigningKey::parse(&pair.text()).unwrap();
            prop_assert_eq!((again.bytes(), again.public()), (&seed[..], pair.public()));
        }
    }
}
