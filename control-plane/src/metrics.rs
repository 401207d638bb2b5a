//! What operators see of a control plane at `/metrics`: names, kinds and meanings are in the README's table.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hookwire_log::metrics::{self, Groups, one};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The metrics of a control plane. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    groups: Groups,
    ready: Gauge,
    revision: Gauge,
    nodes: Gauge,
    store_up: Gauge,
    store_answer: Gauge<f64, AtomicU64>,
}

/// What only a look can tell.
pub(crate) struct Look {
    pub is_ready: bool,
    /// The revision that the store has, and how long it took to say so; `None` if it did not.
    pub store: Option<(i64, Duration)>,
    /// How many nodes are connected.
    pub nodes: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        let (mut all, groups) = metrics::registry();
        let registry = all.sub_registry_with_prefix("hookwire");
        let ready = one(registry, "ready", "1 if /readyz says so, or else 0");
        let revision = one(registry, "config_revision", "Revision of the configuration in the store");
        let nodes = one(registry, "connected_nodes", "Nodes that get their configuration from this control plane");
        let store_up = one(registry, "store_up", "1 if the store has answered now, or else 0");
        let store_answer = Gauge::<f64, AtomicU64>::default();
        let help = "How long the store took for that answer";
        registry.register_with_unit("store_answer", help, Unit::Seconds, store_answer.clone());
        Self { registry: Arc::new(all), groups, ready, revision, nodes, store_up, store_answer }
    }
}

impl Metrics {
    /// The consumer groups, to be told what is owned.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The page.
    pub fn page(&self, look: &Look) -> String {
        self.ready.set(look.is_ready.into());
        self.nodes.set(i64::try_from(look.nodes).unwrap_or(i64::MAX));
        self.store_up.set(look.store.is_some().into());
        if let Some((revision, took)) = look.store {
            self.revision.set(revision);
            self.store_answer.set(took.as_secs_f64());
        }
        metrics::page(&self.registry)
    }
}
