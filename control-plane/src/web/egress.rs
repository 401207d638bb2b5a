//! The addresses that requests to recipients come from, for their firewalls.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::unavailable;
use crate::store::Store;

/// Where recipients find them.
pub const PATH: &str = "/.well-known/hookwire/egress.json";

/// A firewall that asks more often learns nothing new.
const CACHE: &str = "public, max-age=60";

/// `hookwire.v1.EgressAddresses` in the JSON of protobuf, with every field.
pub(super) async fn get(State(store): State<Store>) -> Response {
    let egress = match store.egress_addresses().await {
        Ok(egress) => egress,
        Err(error) => return unavailable(&error, "egress addresses"),
    };
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
