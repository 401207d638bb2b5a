//! The token of one attempt: a JWT (RFC 7519) under HS256 that says who sends what to whom, and until when it holds.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// What a token claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claims<'a> {
    /// Who sends.
    pub iss: &'a str,
    /// Origin of the URL that the request goes to.
    pub aud: &'a str,
    /// Issued, in Unix seconds.
    pub iat: u64,
    /// Not valid before, in Unix seconds.
    pub nbf: u64,
    /// Not valid from this on, in Unix seconds.
    pub exp: u64,
    /// Id of the attempt.
    pub jti: &'a str,
    /// `webhook-id` of the request.
    pub webhook_id: &'a str,
    /// SHA-256 of the request's body, in lower-case hexadecimal.
    pub body_sha256: &'a str,
    /// What the subscription adds.
    #[serde(flatten)]
    pub extra: &'a BTreeMap<String, String>,
}

/// A token under `key`, which `kid` names.
///
/// # Errors
/// The library's: none is known for HS256.
pub fn sign(claims: &Claims<'_>, kid: &str, key: &[u8]) -> Result<String, jsonwebtoken::errors::Error> {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(key))
}
