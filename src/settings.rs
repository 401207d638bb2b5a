//! The settings of each subcommand, composed of those of its parts. How they are read: [`crate::config`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hookwire_control_plane as control_plane;
use hookwire_data_plane as data_plane;
use hookwire_log::Layout;
use hookwire_proto::seal::MasterKeys;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::process::WrongSettings;
use crate::telemetry;

/// Settings of `hookwire data-plane`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataPlane {
    /// How it logs.
    pub telemetry: telemetry::Settings,
    /// What opens secrets.
    pub secrets: Secrets,
    /// The node itself.
    pub node: data_plane::config::Node,
    /// Where it listens.
    pub listen: data_plane::config::Listen,
    /// How it gets to its control plane.
    pub control_plane: data_plane::cache::watch::Settings,
    /// Taking messages.
    pub publish: data_plane::publish::Settings,
    /// Making attempts.
    pub deliver: data_plane::deliver::Settings,
    /// When there is another attempt.
    pub retry: data_plane::retry::schedule::Schedule,
}

impl DataPlane {
    /// What the node itself needs of this.
    pub fn node(&self) -> data_plane::Settings {
        data_plane::Settings {
            node: self.node.clone(),
            listen: self.listen.clone(),
            control_plane: self.control_plane.clone(),
            publish: self.publish.clone(),
            deliver: self.deliver.clone(),
            retry: self.retry.clone(),
        }
    }
}

/// Settings of `hookwire dev`: of both planes, less what it decides by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dev {
    /// How it logs.
    pub telemetry: telemetry::Settings,
    /// The log.
    pub log: Log,
    /// Pushing configuration.
    pub push: control_plane::push::Settings,
    /// The node itself.
    pub node: data_plane::config::Node,
    /// Taking messages.
    pub publish: data_plane::publish::Settings,
    /// Making attempts.
    pub deliver: data_plane::deliver::Settings,
    /// When there is another attempt.
    pub retry: data_plane::retry::schedule::Schedule,
}

impl Default for Dev {
    /// As in production, but that requests may go to this machine, and over http: a newcomer's receiver is there.
    fn default() -> Self {
        let mut deliver = data_plane::deliver::Settings::default();
        let loopback = ["127.0.0.0/8", "::1/128"];
        deliver.egress.allow = loopback.map(|range| range.parse().expect("a range")).to_vec();
        deliver.egress.allow_http = true;
        Self {
            telemetry: telemetry::Settings { filter: "warn".into(), ..Default::default() },
            log: Log::default(),
            push: Default::default(),
            node: Default::default(),
            publish: Default::default(),
            deliver,
            retry: Default::default(),
        }
    }
}

/// The log: its topics, which the control plane tells every node, and where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Generation of the topics, from 1: another number of partitions is another generation.
    pub generation: i32,
    /// What topic and group names begin with.
    pub prefix: String,
    /// Partitions of `messages`.
    pub messages_partitions: i32,
    /// Partitions of `deliveries`, `held` and `dead-letters`: at most as many nodes deliver.
    pub deliveries_partitions: i32,
    /// Partitions of each retry tier.
    pub retries_partitions: i32,
    /// Partitions of `attempts`.
    pub attempts_partitions: i32,
    /// Delays of the retry tiers, ascending.
    pub retry_tiers: Vec<humantime_serde::Serde<Duration>>,
    /// The embedded log, for `dev`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<hookwire_log::embedded::Settings>,
}

impl Default for Log {
    fn default() -> Self {
        let layout = Layout::default();
        Self {
            generation: layout.generation,
            prefix: layout.prefix,
            messages_partitions: layout.messages_partitions,
            deliveries_partitions: layout.deliveries_partitions,
            retries_partitions: layout.retries_partitions,
            attempts_partitions: layout.attempts_partitions,
            retry_tiers: layout.retry_tiers.into_iter().map(Into::into).collect(),
            embedded: None,
        }
    }
}

impl Log {
    /// The topics.
    pub fn layout(&self) -> anyhow::Result<Layout> {
        let layout = Layout {
            generation: self.generation,
            prefix: self.prefix.clone(),
            messages_partitions: self.messages_partitions,
            deliveries_partitions: self.deliveries_partitions,
            retries_partitions: self.retries_partitions,
            attempts_partitions: self.attempts_partitions,
            retry_tiers: self.retry_tiers.iter().map(|tier| **tier).collect(),
        };
        layout.validate().map_err(WrongSettings::from)?;
        Ok(layout)
    }
}

/// The master keys, which seal secrets at rest and open them at use.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// File with the master keys: one on each line, 32 bytes in base64, the newest first.
    pub master_key_file: Option<PathBuf>,
    /// The same, without a file: for the environment, HOOKWIRE_SECRETS__MASTER_KEY.
    #[serde(skip_serializing)]
    pub master_key: Option<SecretString>,
}

impl Secrets {
    /// Reads the master keys.
    pub fn master_keys(&self) -> anyhow::Result<Arc<MasterKeys>> {
        let (setting, text) = match (&self.master_key_file, &self.master_key) {
            (Some(_), Some(_)) => {
                return Err(wrong("secrets.master_key", "set it or secrets.master_key_file, not both"));
            }
            (None, None) => {
                let how = "not set; make a key with `openssl rand -base64 32`, put it into a file and write where it is \
                           (every control plane and every node needs the same)";
                return Err(wrong("secrets.master_key_file", how));
            }
            (Some(path), None) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| wrong("secrets.master_key_file", &format!("{}: {error}", path.display())))?;
                ("secrets.master_key_file", Zeroizing::new(text))
            }
            (None, Some(key)) => ("secrets.master_key", Zeroizing::new(key.expose_secret().to_owned())),
        };
        let keys = MasterKeys::parse(&text).map_err(|error| wrong(setting, &error.to_string()))?;
        Ok(Arc::new(keys))
    }
}

fn wrong(setting: &str, detail: &str) -> anyhow::Error {
    WrongSettings::from(format!("{setting}: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, show};

    fn refusal(secrets: &Secrets) -> String {
        secrets.master_keys().expect_err("to be refused").to_string()
    }

    #[test]
    fn master_keys_come_from_a_file_or_the_environment() {
        assert!(refusal(&Secrets::default()).contains("openssl rand -base64 32"));
        let key = MasterKeys::generate();
        let environment = vec![("HOOKWIRE_SECRETS__MASTER_KEY".to_owned(), key.to_string())];
        let settings: DataPlane =
            Sources { environment, ..Sources::default() }.load(DataPlane::default()).expect("valid");
        settings.secrets.master_keys().expect("a key");
        assert!(!show(&settings).expect("TOML").contains(&*key) && !format!("{settings:?}").contains(&*key));

        let missing = Secrets { master_key_file: Some("/nonexistent/key".into()), master_key: None };
        assert!(refusal(&missing).starts_with("secrets.master_key_file: /nonexistent/key"));
        let short = Secrets { master_key_file: None, master_key: Some("c2hvcnQ=".into()) };
        assert!(refusal(&short).starts_with("secrets.master_key: a master key is 32 random bytes"));
    }

    fn round_trip<S: Serialize + serde::de::DeserializeOwned + Default>() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("hookwire.toml");
        std::fs::write(&file, show(&S::default()).expect("TOML")).expect("written");
        Sources { file: Some(file), ..Sources::default() }.load(S::default()).expect("valid");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        round_trip::<DataPlane>();
        round_trip::<Dev>();
    }

    #[test]
    fn the_topics_are_settings() {
        let environment = vec![("HOOKWIRE_LOG__RETRY_TIERS".to_owned(), r#"["1s", "2s"]"#.to_owned())];
        let settings: Dev = Sources { environment, ..Sources::default() }.load(Dev::default()).expect("valid");
        assert_eq!(settings.log.layout().expect("valid").retry_tiers, [1, 2].map(Duration::from_secs));
        let none = Log { retry_tiers: vec![], ..Log::default() };
        assert!(
            none.layout().expect_err("no tiers").to_string().starts_with("log.retry_tiers: must be 1 to 16 delays")
        );
    }
}
