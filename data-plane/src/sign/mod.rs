//! What proves to a recipient that a request comes from here, is unchanged, and is not a repeat. Pure: time is passed in.
//!
//! * [`standard`]: `webhook-signature`, one signature for each valid secret
//! * [`jwt`]: the token in `authorization`
//! * [`shared_key`]: the pre-shared key
//!
//! Secrets are opened here and nowhere else, and wiped when the attempt is over.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hookwire_proto::name;
use hookwire_proto::seal::{self, MasterKeys};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::deliver::attempt::Attempt;

pub mod jwt;
pub mod shared_key;
pub mod standard;

/// `webhook-id`: the message's id, the same with every attempt.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// `webhook-timestamp`: when this attempt was sent, in Unix seconds.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// `webhook-signature`: the signatures.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// `webhook-valid-until`: the token's `exp`, in Unix seconds.
pub const WEBHOOK_VALID_UNTIL: HeaderName = HeaderName::from_static("webhook-valid-until");

/// `iat` and `nbf` lie this much before the time of sending: verifiers without leeway refuse a token that comes from a clock
/// ahead of theirs.
const BACKDATE: Duration = Duration::from_secs(5);

/// Why an attempt could not be signed. No request is sent then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The subscription has no secret.
    #[error("the subscription has no signing secret; create one")]
    NoSecret,
    /// The subscription has no usable URL.
    #[error("the subscription's URL is not one")]
    NoUrl,
    /// A secret does not open.
    #[error("a secret could not be opened: {0}")]
    Seal(#[from] seal::Error),
    /// A value can't be sent in a header.
    #[error("the header {name} can't carry its value")]
    Header {
        /// Which header.
        name: &'static str,
    },
    /// The token could not be made.
    #[error("the token could not be made")]
    Token(#[source] jsonwebtoken::errors::Error),
}

/// What tokens say of their sender and how long they hold.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `iss`.
    pub issuer: String,
    /// From sending to `exp`.
    pub token_life: Duration,
}

/// The signed headers of one attempt, and what must never come back in what is kept of the answer.
#[derive(Debug)]
pub struct Signed {
    /// Signature, token, times, pre-shared key.
    pub headers: HeaderMap,
    /// The secrets that were used and what was made of them.
    pub secrets: Secrets,
}

/// The secrets of one attempt. Keys are wiped when dropped; prints nothing of them.
#[derive(Default)]
pub struct Secrets {
    /// Keys as bytes, oldest first.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// The pre-shared key.
    pub shared_key: Option<HeaderValue>,
    /// The token.
    pub token: Zeroizing<String>,
    /// `webhook-signature`.
    pub signature: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Signs an attempt that is sent `now`.
///
/// Each valid secret signs, the newest first. The token is signed by the oldest: while one is rotated, recipients who check
/// tokens go on with the one they know until it is deleted.
///
/// # Errors
/// Any [`Error`].
pub fn sign(attempt: &Attempt, keys: &MasterKeys, rules: &Rules, now: SystemTime) -> Result<Signed, Error> {
    let subscription = &*attempt.subscription;
    let url = subscription.url.as_ref().ok_or(Error::NoUrl)?;
    let mut secrets = Secrets::default();
    let mut headers = HeaderMap::with_capacity(16);
    if let Some(key) = &subscription.shared_key {
        // First, so that no configured header replaces one of ours.
        let (name, value) = shared_key::header(&subscription.name, key, keys)?;
        secrets.shared_key = Some(value.clone());
        headers.insert(name, value);
    }

    let sent = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp = sent.as_secs().to_string();
    for secret in &subscription.secrets {
        let sealed = secret.key.as_ref().ok_or(Error::NoSecret)?;
        secrets.keys.push(keys.open(&secret.name, sealed)?);
    }
    let (oldest, oldest_key) = subscription.secrets.first().zip(secrets.keys.first()).ok_or(Error::NoSecret)?;
    for key in secrets.keys.iter().rev() {
        standard::sign(&mut secrets.signature, key, &attempt.message_id, &timestamp, &attempt.body);
    }

    let issued = sent.saturating_sub(BACKDATE).as_secs();
    let valid_until = sent.saturating_add(rules.token_life).as_secs();
    let claims = jwt::Claims {
        iss: &rules.issuer,
        aud: &url.origin().ascii_serialization(),
        iat: issued,
        nbf: issued,
        exp: valid_until,
        jti: &attempt.id,
        webhook_id: &attempt.message_id,
        body_sha256: &hex::encode(digest::digest(&digest::SHA256, &attempt.body)),
    };
    let token = jwt::sign(&claims, name::last_id(&oldest.name), oldest_key).map_err(Error::Token)?;
    let mut authorization = value("authorization", format!("Bearer {token}"))?;
    authorization.set_sensitive(true);
    secrets.token = Zeroizing::new(token);

    headers.insert(WEBHOOK_ID, value("webhook-id", attempt.message_id.clone())?);
    headers.insert(WEBHOOK_TIMESTAMP, value("webhook-timestamp", timestamp)?);
    headers.insert(WEBHOOK_VALID_UNTIL, value("webhook-valid-until", valid_until.to_string())?);
    headers.insert(WEBHOOK_SIGNATURE, value("webhook-signature", secrets.signature.clone())?);
    headers.insert(AUTHORIZATION, authorization);
    Ok(Signed { headers, secrets })
}

/// A header's value, without a copy.
pub(crate) fn value(name: &'static str, text: String) -> Result<HeaderValue, Error> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| Error::Header { name })
}

impl Secrets {
    /// No form of a secret is shorter: the encodings of a key are longer than it, and so is what it signs.
    pub fn shortest(&self) -> usize {
        let keys = self.keys.iter().map(|key| key.len());
        keys.chain(self.shared_key.as_ref().map(HeaderValue::len)).min().unwrap_or_default()
    }

    /// Every form in which an answer may give a secret back, the longest first: plain, as JSON and URLs escape it, and keys
    /// in the usual encodings.
    pub fn forms(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let encode = |key: &Zeroizing<Vec<u8>>| {
            [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD]
                .map(|base64| Zeroizing::new(base64.encode(&**key)))
        };
        let encoded: Vec<_> = self.keys.iter().flat_map(encode).collect();
        let texts = (encoded.iter().map(|text| text.as_bytes()))
            .chain(self.shared_key.as_ref().map(HeaderValue::as_bytes))
            .chain([self.token.as_bytes()])
            .chain(self.signature.split(' ').map(|one| one.trim_start_matches("v1,").as_bytes()));

        let mut forms: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        for plain in texts {
            let backslash = |byte: u8| vec![b'\\', byte];
            let percent = |byte: u8| format!("%{byte:02X}").into_bytes();
            let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
            forms.push(plain.to_vec().into());
            forms.push(escaped(plain, |byte| matches!(byte, b'"' | b'\\'), backslash).into());
            forms.push(escaped(plain, |byte| matches!(byte, b'"' | b'\\' | b'/'), backslash).into());
            forms.push(escaped(plain, |byte| !unreserved(byte), percent).into());
        }
        for key in &self.keys {
            forms.push(key.clone());
            forms.push(hex::encode(&**key).into_bytes().into());
        }
        forms.retain(|form| !form.is_empty());
        forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        forms
    }
}

/// `plain`, with the bytes that `which` selects written as `how` says.
fn escaped(plain: &[u8], which: impl Fn(u8) -> bool, how: impl Fn(u8) -> Vec<u8>) -> Vec<u8> {
    plain.iter().flat_map(|&byte| if which(byte) { how(byte) } else { vec![byte] }).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
