//! `/livez` and `/readyz`: whether this process works, and whether it is to be sent calls, with the reasons if not. `/metrics`: see
//! [`metrics`](crate::metrics).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use hookwire_log::{Health, Log, metrics};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::Config;
use crate::metrics::Metrics;

/// What readiness is made of. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    config: Config,
    log: Arc<watch::Sender<LogState>>,
    draining: CancellationToken,
    max_clock_skew: Duration,
}

/// What operators ask.
#[derive(Clone)]
struct Operated {
    readiness: Readiness,
    metrics: Metrics,
}

/// What is known of the log.
#[derive(Debug, Clone)]
enum LogState {
    /// It is not open yet.
    NotOpen,
    /// The last check succeeded.
    Healthy(Health),
    /// The last check failed.
    Unavailable(String),
}

impl Readiness {
    /// Not ready: the log is not open.
    pub fn new(config: Config, draining: CancellationToken, max_clock_skew: Duration) -> Self {
        Self { config, log: Arc::new(watch::Sender::new(LogState::NotOpen)), draining, max_clock_skew }
    }

    /// Why the node is not ready; empty if it is.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.is_cancelled() {
            reasons.push("it is draining".into());
        }
        if self.config.current().is_none() {
            reasons.push("it has no configuration yet: no control plane has sent any".into());
        }
        match &*self.log.borrow() {
            LogState::NotOpen => reasons.push("the log is not open yet".into()),
            LogState::Unavailable(why) => reasons.push(why.clone()),
            LogState::Healthy(health) => reasons.extend(self.clock_reason(health)),
        }
        reasons
    }

    fn clock_reason(&self, health: &Health) -> Option<String> {
        let ahead = health.clock_ahead_ms;
        let skew = Duration::from_millis(ahead.unsigned_abs());
        (skew > self.max_clock_skew).then(|| {
            let direction = if ahead > 0 { "behind" } else { "ahead of" };
            format!("its clock is {} ms {direction} the log's: set it right (with NTP)", ahead.unsigned_abs())
        })
    }

    /// The log could not be opened, and why.
    pub(crate) fn set_unavailable(&self, why: String) {
        self.log.send_replace(LogState::Unavailable(why));
    }

    /// Checks the log once; whether the node could begin with it.
    pub(crate) async fn check(&self, log: &dyn Log) -> bool {
        let state = match log.check().await {
            Ok(health) => LogState::Healthy(health),
            Err(error) => LogState::Unavailable(error.to_string()),
        };
        let fine = matches!(&state, LogState::Healthy(health) if self.clock_reason(health).is_none());
        let was_fine = matches!(&*self.log.borrow(), LogState::Healthy(health) if self.clock_reason(health).is_none());
        self.log.send_replace(state);
        if fine != was_fine {
            tracing::info!(fine, because = self.reasons().join("; "), "the log was checked");
        }
        fine
    }

    /// Checks the log until it can be worked with.
    pub(crate) async fn wait_for_log(&self, log: &dyn Log, interval: Duration) {
        while !self.check(log).await {
            tokio::time::sleep(interval.min(Duration::from_secs(1))).await;
        }
    }

    /// Checks the log for ever.
    pub(crate) async fn keep_checking(self, log: Arc<dyn Log>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.check(&*log).await;
        }
    }
}

/// Serves all of them until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state(Operated { readiness, metrics });
    // No draining: whoever asks gets an answer at once, and nobody may hold the process by keeping a connection.
    tokio::select! {
        served = async { axum::serve(listener, app).await } => served,
        () = shutdown.cancelled() => Ok(()),
    }
}

async fn livez() -> &'static str {
    "alive\n"
}

async fn readyz(State(Operated { readiness, .. }): State<Operated>) -> (StatusCode, String) {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

async fn page(State(Operated { readiness, metrics }): State<Operated>) -> ([(HeaderName, &'static str); 1], String) {
    let revision = readiness.config.current().map_or(0, |snapshot| snapshot.revision());
    let stale = readiness.config.stale_since().map_or(Duration::ZERO, |since| since.elapsed());
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.page(readiness.reasons().is_empty(), revision, stale))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::Snapshot;

    #[test]
    fn says_each_reason_for_not_being_ready() {
        let (snapshots, config) = Config::new();
        let draining = CancellationToken::new();
        let readiness = Readiness::new(config, draining.clone(), Duration::from_secs(2));
        assert_eq!(readiness.reasons().len(), 2);
        snapshots.send_replace(Some(Arc::new(Snapshot::new(1, []))));
        assert_eq!(readiness.reasons(), ["the log is not open yet"]);
        let healthy = |clock_ahead_ms| readiness.log.send_replace(LogState::Healthy(Health { clock_ahead_ms }));
        healthy(-2000);
        assert!(readiness.reasons().is_empty());
        healthy(2001);
        assert!(readiness.reasons()[0].starts_with("its clock is 2001 ms behind the log's"));
        healthy(0);
        draining.cancel();
        assert_eq!(readiness.reasons(), ["it is draining"]);
    }
}
