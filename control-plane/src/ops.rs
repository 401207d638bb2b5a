//! Probes: `/livez` says that the process answers, `/readyz` that it should get calls. What [`web`] shows is beside them.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::web;

/// A store that takes longer to answer is not there.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Probed {
    store: Store,
    draining: CancellationToken,
}

/// Serves probes until `stopped`; not ready from `draining` on.
pub(crate) async fn serve(
    listener: TcpListener,
    store: Store,
    draining: CancellationToken,
    stopped: CancellationToken,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(Probed { store: store.clone(), draining })
        .merge(web::routes(store));
    axum::serve(listener, routes).with_graceful_shutdown(stopped.cancelled_owned()).await
}

async fn ready(State(probed): State<Probed>) -> (StatusCode, &'static str) {
    if probed.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    match timeout(PATIENCE, probed.store.revision()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the store is unavailable\n"),
    }
}
