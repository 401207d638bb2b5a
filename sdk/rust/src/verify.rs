//! Verifies a request: its signature (Standard Webhooks 1.0.0, `v1` and `v1a`), its age, and its token.
//!
//! ```
//! # use hookwire_sdk::verify::{Error, Verifier};
//! # fn receive(headers: &http::HeaderMap, body: &[u8]) -> Result<(), Error> {
//! let verifier = Verifier::new(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])?.audience("https://hooks.example.com");
//! // `body` as it arrived, byte for byte: before anything parses it.
//! let verified = verifier.verify(headers, body)?;
//! // The same id comes again with every attempt and replay: handle each id once.
//! println!("{}", verified.message_id);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// How far `webhook-timestamp` may be from now, either way, unless the verifier is told otherwise.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Which check a request failed, and what was expected. Holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A secret or public key given to the verifier is none.
    #[error(
        "a secret is `whsec_` and standard base64, a public key `whpk_` and that of 32 bytes; number {number} (from 1) of those \
         given is neither"
    )]
    Secret {
        /// Which one, from 1.
        number: usize,
    },
    /// No secret was given.
    #[error("give the verifier at least one secret or public key")]
    NoSecret,
    /// A header is not there.
    #[error("header {name} is missing")]
    MissingHeader {
        /// Its name.
        name: &'static str,
    },
    /// A header is there twice or is not what it should be.
    #[error("header {name} should be {expected}, once")]
    MalformedHeader {
        /// Its name.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Sent too long ago, or repeated by somebody.
    #[error("sent at {sent}, which is more than {tolerance:?} before now, {now} (Unix seconds)")]
    TooOld {
        /// `webhook-timestamp`.
        sent: u64,
        /// The time of the check.
        now: u64,
        /// The limit.
        tolerance: Duration,
    },
    /// Sent in the future: one of the two clocks is wrong.
    #[error(
        "sent at {sent}, which is more than {tolerance:?} after now, {now} (Unix seconds); check this machine's clock"
    )]
    TooNew {
        /// `webhook-timestamp`.
        sent: u64,
        /// The time of the check.
        now: u64,
        /// The limit.
        tolerance: Duration,
    },
    /// No signature fits.
    #[error(
        "no {versions} signature fits any of the keys: another secret, or the id, time or body was changed (give the body as it \
         arrived)"
    )]
    Signature {
        /// Which the verifier has keys for: `v1`, `v1a`, or both.
        versions: &'static str,
    },
    /// An audience is insisted on, which a token alone proves, and a token can't be verified with public keys.
    #[error(
        "the audience is proven by the token, and that can be verified with a `whsec_` secret only: give the verifier one"
    )]
    TokenKey,
    /// There is no token.
    #[error("there is no token, neither as `authorization: Bearer` nor in `webhook-token`")]
    TokenMissing,
    /// The token is not a JWT with our claims.
    #[error("the token is not a JWT with the claims iss, aud, iat, nbf, exp, jti, webhook_id, body_sha256")]
    TokenMalformed,
    /// The token names another algorithm.
    #[error("the token must be signed with HS256")]
    TokenAlgorithm,
    /// The token was not signed with any of the secrets, or was changed.
    #[error("the token's signature fits none of the secrets")]
    TokenSignature,
    /// The token's life is over.
    #[error("the token held until {expires}; now is {now} (Unix seconds)")]
    TokenExpired {
        /// `exp`.
        expires: u64,
        /// The time of the check.
        now: u64,
    },
    /// The token's life has not begun: one of the two clocks is wrong.
    #[error("the token holds from {begins}; now is {now} (Unix seconds); check this machine's clock")]
    TokenNotYetValid {
        /// `nbf`.
        begins: u64,
        /// The time of the check.
        now: u64,
    },
    /// The token is for another recipient.
    #[error("the token is for {found}, not for {expected}")]
    TokenAudience {
        /// The audience that the verifier was given.
        expected: String,
        /// `aud`.
        found: String,
    },
    /// The token belongs to another message.
    #[error("the token's webhook_id is not the header webhook-id")]
    TokenMessage,
    /// The token belongs to another body.
    #[error("the token's body_sha256 is not the SHA-256 of the body in lower-case hexadecimal")]
    TokenBody,
    /// The header says otherwise than the token.
    #[error("webhook-valid-until should be the token's exp, {expected}")]
    ValidUntil {
        /// `exp`.
        expected: u64,
    },
}

/// What the token claims. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Who sent it.
    pub iss: String,
    /// Origin of the URL that it was sent to.
    pub aud: String,
    /// When it was issued: a little before it was sent.
    pub iat: u64,
    /// Not valid before.
    pub nbf: u64,
    /// Not valid from this on.
    pub exp: u64,
    /// Id of the attempt.
    pub jti: String,
    /// Id of the message.
    pub webhook_id: String,
    /// SHA-256 of the body, in lower-case hexadecimal.
    pub body_sha256: String,
}

/// A request that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// `webhook-id`: the same with every attempt and replay of a message.
    pub message_id: String,
    /// `webhook-timestamp`: when this request was sent, in Unix seconds.
    pub timestamp: u64,
    /// `webhook-valid-until` in Unix seconds. With a token it is proven; without one it is what somebody says.
    pub valid_until: Option<u64>,
    /// `webhook-attempt`, from 1, if it is there. Not signed.
    pub attempt: Option<u32>,
    /// `webhook-replay`, if it is there. Not signed.
    pub replay: Option<String>,
    /// What the token claims; `None` only if the verifier does not insist on one, or has public keys only.
    pub claims: Option<Claims>,
}

/// Verifies requests that were signed with any of its keys.
pub struct Verifier {
    /// `whsec_`: for `v1` and for tokens.
    secrets: Vec<Secret>,
    /// `whpk_`: for `v1a`.
    public_keys: Vec<signature::UnparsedPublicKey<Vec<u8>>>,
    audience: Option<String>,
    tolerance: Duration,
    leeway: Duration,
    insists_on_token: bool,
}

struct Secret {
    signature: hmac::Key,
    token: DecodingKey,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// Verifies one request against `secrets` (`whsec_…` or public keys `whpk_…`, several while one is rotated). [`Verifier`] can do
/// more, and is made once.
///
/// # Errors
/// The first check that fails.
pub fn verify<S: AsRef<str>>(
    headers: &HeaderMap,
    body: &[u8],
    secrets: impl IntoIterator<Item = S>,
) -> Result<Verified, Error> {
    Verifier::new(secrets)?.verify(headers, body)
}

impl Verifier {
    /// A verifier that takes requests signed with any of these keys, each as it was shown: a secret, `whsec_` and base64, for `v1`
    /// and the token, or a public key, `whpk_` and base64, for `v1a`. With public keys only the token is not checked, since who
    /// can verify it could make it.
    ///
    /// # Errors
    /// [`Error::Secret`] and [`Error::NoSecret`].
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let (mut secrets, mut public_keys) = (Vec::new(), Vec::new());
        for (index, key) in keys.into_iter().enumerate() {
            let wrong = Error::Secret { number: index + 1 };
            let (prefix, encoded) = key.as_ref().split_once('_').ok_or_else(|| wrong.clone())?;
            match (prefix, STANDARD.decode(encoded)) {
                ("whsec", Ok(bytes)) if !bytes.is_empty() => {
                    let signature = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
                    secrets.push(Secret { signature, token: DecodingKey::from_secret(&bytes) });
                }
                ("whpk", Ok(bytes)) if bytes.len() == signature::ED25519_PUBLIC_KEY_LEN => {
                    public_keys.push(signature::UnparsedPublicKey::new(&signature::ED25519, bytes));
                }
                _ => return Err(wrong),
            }
        }
        if secrets.is_empty() && public_keys.is_empty() {
            return Err(Error::NoSecret);
        }
        let insists_on_token = !secrets.is_empty();
        Ok(Self {
            secrets,
            public_keys,
            audience: None,
            tolerance: TOLERANCE,
            leeway: Duration::ZERO,
            insists_on_token,
        })
    }

    /// Insists that the token is for this origin, such as `https://hooks.example.com`: a request that was sent to somebody
    /// else who has the same secret is then refused. Needs a `whsec_` secret: without one, every request is refused.
    #[must_use]
    pub fn audience(self, origin: impl Into<String>) -> Self {
        Self { audience: Some(origin.into()), ..self }
    }

    /// How far `webhook-timestamp` may be from now, either way.
    #[must_use]
    pub fn tolerance(self, tolerance: Duration) -> Self {
        Self { tolerance, ..self }
    }

    /// How far this machine's clock may be wrong when the token's life is checked: none by default, so that a token older
    /// than its life is refused to the second.
    #[must_use]
    pub fn leeway(self, leeway: Duration) -> Self {
        Self { leeway, ..self }
    }

    /// Takes requests without a token too. Whoever gets hold of one can then repeat it, without its token, within the
    /// tolerance.
    #[must_use]
    pub fn allow_missing_token(self) -> Self {
        Self { insists_on_token: false, ..self }
    }

    /// Verifies a request now. `body` is what arrived, byte for byte.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Error> {
        self.verify_at(headers, body, SystemTime::now())
    }

    /// Verifies a request at a given time.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify_at(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Result<Verified, Error> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let message_id = required(headers, "webhook-id", "an id")?;
        let timestamp = required(headers, "webhook-timestamp", SECONDS)?;
        self.check_signature(headers, message_id, timestamp, body)?;
        let timestamp = seconds("webhook-timestamp", timestamp)?;
        self.check_age(timestamp, now)?;

        let valid_until = optional(headers, "webhook-valid-until", SECONDS)?;
        let valid_until = valid_until.map(|text| seconds("webhook-valid-until", text)).transpose()?;
        let claims = match token(headers)? {
            _ if self.secrets.is_empty() && self.audience.is_some() => return Err(Error::TokenKey),
            _ if self.secrets.is_empty() => None,
            Some(token) => Some(self.check_token(token, message_id, body, now)?),
            None if self.insists_on_token => return Err(Error::TokenMissing),
            None => None,
        };
        match &claims {
            Some(claims) if valid_until != Some(claims.exp) => Err(Error::ValidUntil { expected: claims.exp }),
            _ => Ok(Verified {
                message_id: message_id.to_owned(),
                timestamp,
                valid_until,
                attempt: optional(headers, "webhook-attempt", "a number")?.and_then(|text| text.parse().ok()),
                replay: optional(headers, "webhook-replay", "a name")?.map(str::to_owned),
                claims,
            }),
        }
    }

    fn check_signature(&self, headers: &HeaderMap, id: &str, timestamp: &str, body: &[u8]) -> Result<(), Error> {
        let signatures = required(headers, "webhook-signature", "signatures like `v1,…`, separated by spaces")?;
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        // Both compare in constant time.
        let fits =
            |signature: &str| match signature.split_once(',').map(|(version, tag)| (version, STANDARD.decode(tag))) {
                Some(("v1", Ok(tag))) => {
                    self.secrets.iter().any(|secret| hmac::verify(&secret.signature, &signed, &tag).is_ok())
                }
                Some(("v1a", Ok(tag))) => self.public_keys.iter().any(|key| key.verify(&signed, &tag).is_ok()),
                _ => false,
            };
        if signatures.split(' ').any(fits) {
            return Ok(());
        }
        let versions = match (self.secrets.is_empty(), self.public_keys.is_empty()) {
            (false, false) => "v1 or v1a",
            (true, _) => "v1a",
            (false, true) => "v1",
        };
        Err(Error::Signature { versions })
    }

    fn check_age(&self, sent: u64, now: u64) -> Result<(), Error> {
        let tolerance = self.tolerance;
        if now.saturating_sub(sent) > tolerance.as_secs() {
            Err(Error::TooOld { sent, now, tolerance })
        } else if sent.saturating_sub(now) > tolerance.as_secs() {
            Err(Error::TooNew { sent, now, tolerance })
        } else {
            Ok(())
        }
    }

    fn check_token(&self, token: &str, message_id: &str, body: &[u8], now: u64) -> Result<Claims, Error> {
        let claims = self.open_token(token)?;
        let leeway = self.leeway.as_secs();
        if now >= claims.exp.saturating_add(leeway) {
            return Err(Error::TokenExpired { expires: claims.exp, now });
        }
        if now.saturating_add(leeway) < claims.nbf {
            return Err(Error::TokenNotYetValid { begins: claims.nbf, now });
        }
        if let Some(expected) = self.audience.as_ref().filter(|audience| **audience != claims.aud) {
            return Err(Error::TokenAudience { expected: expected.clone(), found: claims.aud });
        }
        if claims.webhook_id != message_id {
            return Err(Error::TokenMessage);
        }
        if claims.body_sha256 != hex::encode(digest::digest(&digest::SHA256, body)) {
            return Err(Error::TokenBody);
        }
        Ok(claims)
    }

    /// Checks the token's algorithm and signature. Its `kid` is not asked: a request must not choose its key.
    fn open_token(&self, token: &str) -> Result<Claims, Error> {
        let mut validation = Validation::new(Algorithm::HS256);
        // The time is ours to pass in; these are checked with the claims.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        let mut error = Error::TokenSignature;
        for secret in &self.secrets {
            match jsonwebtoken::decode::<Claims>(token, &secret.token, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(wrong) => match wrong.kind() {
                    ErrorKind::InvalidSignature => {}
                    ErrorKind::InvalidAlgorithm => error = Error::TokenAlgorithm,
                    _ => error = Error::TokenMalformed,
                },
            }
        }
        Err(error)
    }
}

const SECONDS: &str = "Unix seconds";

fn optional<'a>(headers: &'a HeaderMap, name: &'static str, expected: &'static str) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Error::MalformedHeader { name, expected }),
        (Some(_), Some(_)) => Err(Error::MalformedHeader { name, expected }),
    }
}

fn required<'a>(headers: &'a HeaderMap, name: &'static str, expected: &'static str) -> Result<&'a str, Error> {
    optional(headers, name, expected)?.filter(|value| !value.is_empty()).ok_or(Error::MissingHeader { name })
}

fn seconds(name: &'static str, text: &str) -> Result<u64, Error> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(Error::MalformedHeader { name, expected: SECONDS })
}

/// The token: in `webhook-token` where the recipient needs `authorization` for itself.
fn token(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    if let Some(token) = optional(headers, "webhook-token", "a JWT")? {
        return Ok(Some(token));
    }
    let authorization = optional(headers, "authorization", "`Bearer` and a JWT")?;
    Ok(authorization
        .and_then(|value| value.split_once(' '))
        .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())))
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
