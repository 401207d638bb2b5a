//! Kafka to test: the broker that `HOOKWIRE_TEST_KAFKA` names, with topics of its own for each test.

use std::sync::Arc;

use async_trait::async_trait;
use hookwire_log::kafka::{KafkaLog, Settings, topics};
use hookwire_log::{Layout, Log, Offset, Topic};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, TopicPartitionList};
use tracing_subscriber::EnvFilter;

use crate::backend::{Backend, Retention, layout};

/// Bootstrap servers of a broker for tests.
const BROKERS: &str = "HOOKWIRE_TEST_KAFKA";
/// Names the topics to a child.
const PREFIX: &str = "HOOKWIRE_CONFORMANCE_PREFIX";

/// Topics with a prefix.
pub struct Kafka {
    brokers: Vec<String>,
    prefix: String,
}

/// Topics of their own, if a broker is named.
pub fn fresh() -> Option<Kafka> {
    // With RUST_LOG, a test that fails says more.
    let _ = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_test_writer().try_init();
    Some(Kafka { brokers: brokers()?, prefix: format!("test-{}", uuid::Uuid::now_v7().simple()) })
}

/// The topics that the parent process tests.
pub fn from_environment() -> Box<dyn Backend> {
    let prefix = std::env::var(PREFIX).expect("the parent process names a log");
    Box::new(Kafka { brokers: brokers().expect("the parent process has a broker"), prefix })
}

fn brokers() -> Option<Vec<String>> {
    let brokers = std::env::var(BROKERS).ok()?;
    Some(brokers.split(',').map(str::to_owned).collect())
}

#[async_trait]
impl Backend for Kafka {
    fn layout(&self) -> Layout {
        layout(&self.prefix)
    }

    async fn open_with(&self, _: Retention) -> Arc<dyn Log> {
        let settings = Settings { brokers: self.brokers.clone(), ..Settings::default() };
        topics::apply(&settings, &self.layout()).await.unwrap();
        KafkaLog::open(settings, Arc::new(self.layout())).await.unwrap()
    }

    async fn expire(&self, topic: Topic, partition: i32, below: Offset) {
        // Kafka looks at retention every five minutes, and keeps the newest segment: this does the same at once.
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.brokers.join(",")).create().unwrap();
        let mut offsets = TopicPartitionList::new();
        let below = rdkafka::Offset::Offset(below);
        offsets.add_partition_offset(&self.layout().name(topic), partition, below).unwrap();
        for deleted in admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap().elements() {
            deleted.error().unwrap();
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![(BROKERS, self.brokers.join(",")), (PREFIX, self.prefix.clone())]
    }
}
