//! What anybody may read over HTTP, without a key. Nothing secret is here.
//!
//! * [`egress`]: the addresses that requests come from
//! * [`jwks`]: public keys of a subscription

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::store::{self, Store};

pub mod egress;
pub mod jwks;

/// The routes over a store.
pub(crate) fn routes(store: Store) -> Router {
    Router::new().route(egress::PATH, get(egress::get)).route(jwks::PATH, get(jwks::get)).with_state(store)
}

/// The answer where the store gives none.
fn unavailable(error: &store::Error, what: &str) -> Response {
    tracing::warn!(%error, what, "a page can't be made");
    let again = [(header::RETRY_AFTER, "5")];
    (StatusCode::SERVICE_UNAVAILABLE, again, "the store is unavailable\n").into_response()
}
