//! What anybody may read over HTTP, without a key. Nothing secret is here.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::store::Store;

/// Where recipients find the addresses that requests come from.
pub const EGRESS_PATH: &str = "/.well-known/hookwire/egress.json";

/// A firewall that asks more often learns nothing new.
const CACHE: &str = "public, max-age=60";

/// The routes over a store.
pub(crate) fn routes(store: Store) -> Router {
    Router::new().route(EGRESS_PATH, get(egress)).with_state(store)
}

/// `hookwire.v1.EgressAddresses` in the JSON of protobuf, with every field.
async fn egress(State(store): State<Store>) -> Response {
    match store.egress_addresses().await {
        Ok(egress) => {
            let update_time = egress.update_time.and_then(|time| {
                let time = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
                time.format(&Rfc3339).ok()
            });
            let body = json!({
                "addresses": egress.addresses,
                "complete": egress.complete,
                "updateTime": update_time,
            });
            ([(header::CACHE_CONTROL, CACHE)], Json(body)).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "the addresses that requests come from can't be read");
            let again = [(header::RETRY_AFTER, "5")];
            (StatusCode::SERVICE_UNAVAILABLE, again, "the store is unavailable\n").into_response()
        }
    }
}
