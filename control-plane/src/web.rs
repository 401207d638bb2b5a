//! What anybody may read over HTTP, without a key. Nothing secret is here.
//!
//! * [`jwks`]: public keys of a subscription

use axum::Router;
use axum::routing::get;

use crate::store::Store;

pub mod jwks;

/// The routes over a store.
pub(crate) fn routes(store: Store) -> Router {
    Router::new().route(jwks::PATH, get(jwks::get)).with_state(store)
}
