//! Probes: `/livez` says that the process answers, `/readyz` that it should get calls, `/metrics` how it is ([`metrics`](crate::metrics)).
//! What [`web`] shows is beside them.

use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use hookwire_log::metrics;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Look, Metrics};
use crate::push::Nodes;
use crate::store::Store;
use crate::web;

/// A store that takes longer to answer is not there.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is asked about.
#[derive(Clone)]
pub(crate) struct Probed {
    pub store: Store,
    pub nodes: Nodes,
    pub metrics: Metrics,
    pub draining: CancellationToken,
}

/// Serves probes until `stopped`; not ready once it drains.
pub(crate) async fn serve(listener: TcpListener, probed: Probed, stopped: CancellationToken) -> io::Result<()> {
    let store = probed.store.clone();
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .with_state(probed)
        .merge(web::routes(store));
    axum::serve(listener, routes).with_graceful_shutdown(stopped.cancelled_owned()).await
}

async fn ready(State(probed): State<Probed>) -> (StatusCode, &'static str) {
    if probed.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    match revision(&probed.store).await {
        Some(_) => (StatusCode::OK, "ready\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the store is unavailable\n"),
    }
}

async fn page(State(probed): State<Probed>) -> ([(HeaderName, &'static str); 1], String) {
    let asked = Instant::now();
    let store = revision(&probed.store).await.map(|revision| (revision, asked.elapsed()));
    let is_ready = store.is_some() && !probed.draining.is_cancelled();
    let look = Look { is_ready, store, nodes: probed.nodes.list().len() };
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], probed.metrics.page(&look))
}

/// The store's revision, if it tells in time.
async fn revision(store: &Store) -> Option<i64> {
    timeout(PATIENCE, store.revision()).await.ok()?.ok()
}
