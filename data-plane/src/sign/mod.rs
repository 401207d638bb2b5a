//! What proves to a recipient that a request comes from here, is unchanged, and is not a repeat. Pure: time is passed in.
//!
//! * [`signers`]: which secrets are valid at a time, and which of them signs the token
//! * [`standard`]: `webhook-signature`, one signature for each valid secret: `v1` or `v1a`
//! * [`jwt`]: the token, in `authorization` unless that is taken
//! * [`shared_key`]: the pre-shared key · [`authorization`]: what else a recipient asks for
//! * [`secrets`]: every form of what must not come back
//!
//! Secrets are opened here and nowhere else, and wiped when the attempt is over.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use bytes::Bytes;
use hookwire_proto::seal::{self, MasterKeys};
use hookwire_proto::{config, name};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use crate::cache::settings::{Authentication, Settings};
use crate::deliver::attempt::Attempt;

pub mod authorization;
pub mod jwt;
pub mod secrets;
pub mod shared_key;
pub mod signers;
pub mod standard;

pub use secrets::{LONGEST_ESCAPE, Secrets};
use signers::{Signer, Signers};

/// `webhook-id`: the message's id, the same with every attempt.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// `webhook-timestamp`: when this attempt was sent, in Unix seconds.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// `webhook-signature`: the signatures.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// `webhook-valid-until`: the token's `exp`, in Unix seconds.
pub const WEBHOOK_VALID_UNTIL: HeaderName = HeaderName::from_static("webhook-valid-until");

/// `webhook-token`: the token where `authorization` is taken.
pub const WEBHOOK_TOKEN: HeaderName = HeaderName::from_static("webhook-token");

/// `iat` and `nbf` lie this much before the time of sending: verifiers without leeway refuse a token that comes from a clock
/// ahead of theirs.
const BACKDATE: Duration = Duration::from_secs(5);

/// Why an attempt could not be signed. No request is sent then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The subscription has no HMAC secret that is valid now.
    #[error("the subscription has no signing secret; create one")]
    NoSecret,
    /// A secret is not a key of its algorithm.
    #[error("{name} is no key of its algorithm; rotate it")]
    Key {
        /// Name of the secret.
        name: String,
    },
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
    /// The client certificate can't be used.
    #[error("the client certificate or its key can't be used; set both anew")]
    Certificate,
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

/// Signs an attempt that is sent `now`.
///
/// Each secret that is valid then signs, the newest first. The token is signed by one of them ([`Signers::token`]): while
/// one is rotated, recipients who check tokens go on with the one they know.
///
/// # Errors
/// Any [`Error`].
pub fn sign(attempt: &Attempt, keys: &MasterKeys, rules: &Rules, now: SystemTime) -> Result<Signed, Error> {
    let subscription = &*attempt.subscription;
    let url = subscription.url.as_ref().ok_or(Error::NoUrl)?;
    let usual = Settings::default();
    let settings = subscription.settings.as_deref().unwrap_or(&usual);
    let mut secrets = Secrets::default();
    let mut headers = HeaderMap::with_capacity(16);
    // First, so that no configured header replaces one of ours.
    authorization::headers(&subscription.name, &settings.headers, keys, &mut headers, &mut secrets)?;
    if let Some(key) = &subscription.shared_key {
        let (name, value) = shared_key::header(&subscription.name, key, keys)?;
        secrets.shared_key = Some(value.clone());
        headers.insert(name, value);
    }

    let sent = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp = sent.as_secs().to_string();
    headers.insert(WEBHOOK_ID, value("webhook-id", attempt.message_id.clone())?);
    headers.insert(WEBHOOK_TIMESTAMP, value("webhook-timestamp", timestamp.clone())?);

    let signing = &settings.signing;
    if !(signing.no_standard_webhooks && signing.no_jwt) {
        let signers = Signers::open(&subscription.secrets, keys, sent)?;
        if !signing.no_standard_webhooks {
            secrets.signature = signers.signature(&attempt.message_id, &timestamp, &attempt.body)?;
            if secrets.signature.is_empty() {
                return Err(Error::NoSecret);
            }
            headers.insert(WEBHOOK_SIGNATURE, value("webhook-signature", secrets.signature.clone())?);
        }
        if !signing.no_jwt {
            let signer = signers.token().ok_or(Error::NoSecret)?;
            secrets.token = token(attempt, url, signing, signer, rules, sent, &mut headers)?;
            let (name, text) = match token_header(settings)? {
                AUTHORIZATION => (AUTHORIZATION, format!("Bearer {}", *secrets.token)),
                name => (name, secrets.token.to_string()),
            };
            let mut value = value("of the token", text)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        secrets.keys = signers.into_keys();
    }
    match &settings.authentication {
        Some(Authentication::BasicAuth(basic)) => {
            authorization::basic(&subscription.name, basic, keys, &mut headers, &mut secrets)?;
        }
        // Sent to the token endpoint only; but whoever is there may tell the recipient.
        Some(Authentication::OauthClient(client)) => {
            secrets.texts.push(authorization::client_secret(&subscription.name, client, keys)?);
        }
        None => {}
    }
    Ok(Signed { headers, secrets })
}

/// The token of an attempt, after `webhook-valid-until` is set to its end.
fn token(
    attempt: &Attempt,
    url: &Url,
    signing: &config::Signing,
    signer: &Signer<'_>,
    rules: &Rules,
    sent: Duration,
    headers: &mut HeaderMap,
) -> Result<Zeroizing<String>, Error> {
    let life = u64::try_from(signing.jwt_life_s).ok().filter(|life| *life > 0);
    let issued = sent.saturating_sub(BACKDATE).as_secs();
    let valid_until = sent.saturating_add(life.map_or(rules.token_life, Duration::from_secs)).as_secs();
    let origin = || url.origin().ascii_serialization();
    let audience = if signing.jwt_audience.is_empty() { origin() } else { signing.jwt_audience.clone() };
    let claims = jwt::Claims {
        iss: &rules.issuer,
        aud: &audience,
        iat: issued,
        nbf: issued,
        exp: valid_until,
        jti: &attempt.id,
        webhook_id: &attempt.message_id,
        body_sha256: &hex::encode(digest::digest(&digest::SHA256, &attempt.body)),
        extra: &signing.jwt_claims,
    };
    headers.insert(WEBHOOK_VALID_UNTIL, HeaderValue::from(valid_until));
    let token = jwt::sign(&claims, name::last_id(signer.name()), signer.key()).map_err(Error::Token)?;
    Ok(Zeroizing::new(token))
}

/// The header that carries the token.
fn token_header(settings: &Settings) -> Result<HeaderName, Error> {
    match (settings.signing.jwt_header.as_str(), &settings.authentication) {
        ("", None) => Ok(AUTHORIZATION),
        ("", Some(_)) => Ok(WEBHOOK_TOKEN),
        (name, _) => HeaderName::try_from(name).map_err(|_| Error::Header { name: "of the token" }),
    }
}

/// A header's value, without a copy.
pub(crate) fn value(name: &'static str, text: String) -> Result<HeaderValue, Error> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| Error::Header { name })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
