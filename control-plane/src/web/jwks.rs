//! The public keys that a subscription's `v1a` signatures are verified with, as a JWK set (RFC 7517, RFC 8037).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hookwire_proto::name;
use serde_json::json;

use super::unavailable;
use crate::signing_key;
use crate::store::Store;

/// Where recipients find them: `kid` is the id of the secret.
pub const PATH: &str = "/.well-known/hookwire/{tenant}/{subscription}/jwks.json";

/// Five minutes: shorter than an overlap that anybody would rotate with. Within it, a new key may be missing from a copy.
const CACHE: &str = "public, max-age=300";
const JWK_SET: &str = "application/jwk-set+json";

/// Those that are valid now, oldest first. Who asks without a key is not told which tenants and subscriptions there are: one that
/// is not there has no keys, as one that has only HMAC secrets.
pub(super) async fn get(State(store): State<Store>, Path((tenant, subscription)): Path<(String, String)>) -> Response {
    let found = match name::Subscription::parse(&format!("tenants/{tenant}/subscriptions/{subscription}")) {
        Ok(subscription) => store.public_keys(&subscription).await,
        Err(_) => Ok(Vec::new()),
    };
    let keys = match found {
        Ok(keys) => keys,
        Err(error) => return unavailable(&error, "public keys"),
    };
    let keys = keys.iter().filter_map(|(_, key)| {
        let x = URL_SAFE_NO_PAD.encode(signing_key::public_bytes(&key.key)?);
        let kid = name::last_id(&key.secret);
        Some(json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x}))
    });
    let body = json!({ "keys": keys.collect::<Vec<_>>() });
    ([(header::CONTENT_TYPE, JWK_SET), (header::CACHE_CONTROL, CACHE)], Json(body)).into_response()
}
