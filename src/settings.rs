//! The settings of each subcommand, composed of those of its parts. How they are read: [`crate::config`].

use std::io::{self, Write as _};
use std::sync::Arc;

use hookwire_control_plane::config as control_plane;
use hookwire_control_plane::config::{LayoutSettings, SecretSettings};
use hookwire_control_plane::store::StoreSettings;
use hookwire_data_plane as data_plane;
use hookwire_log::kafka;
use hookwire_proto::seal::MasterKeys;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::process::{self, Configured, WrongSettings};
use crate::{cli, config, telemetry, traces};

/// Settings of `hookwire control-plane` and `hookwire topics`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlane {
    /// How it logs.
    pub telemetry: telemetry::Settings,
    /// What seals secrets.
    pub secrets: SecretSettings,
    /// The API.
    pub api: control_plane::ApiSettings,
    /// The port for nodes.
    pub push: control_plane::PushSettings,
    /// Probes.
    pub ops: control_plane::OpsSettings,
    /// Where the configuration is stored.
    pub store: StoreSettings,
    /// Where subscriptions may point.
    pub egress: control_plane::EgressSettings,
    /// Topics of the log, which every node is told.
    pub log: LayoutSettings,
    /// What of messages and attempts can be asked for.
    pub index: hookwire_control_plane::index::Settings,
    /// When subscriptions are disabled, and who is told of that and other things.
    pub health: hookwire_control_plane::health::Settings,
    /// Where the log is, for the index, for payloads and for `hookwire topics`, and for how long it keeps what.
    pub kafka: kafka::Settings,
    /// How it stops.
    pub drain: control_plane::DrainSettings,
}

impl ControlPlane {
    /// Checks what cannot work, alone or together.
    pub fn validate(&self) -> Result<(), String> {
        self.control_plane().validate().map_err(|error| process::with_causes(&error))?;
        self.kafka.validate().map_err(|error| error.to_string())
    }

    /// What the control plane itself needs of this.
    pub fn control_plane(&self) -> control_plane::Settings {
        control_plane::Settings {
            api: self.api.clone(),
            push: self.push.clone(),
            ops: self.ops.clone(),
            store: self.store.clone(),
            secrets: self.secrets.clone(),
            egress: self.egress.clone(),
            log: self.log.clone(),
            index: self.index.clone(),
            health: self.health.clone(),
            log_retention: self.kafka.retention.messages.max(self.kafka.retention.dead_letters),
            drain: self.drain.clone(),
        }
    }
}

/// Settings of `hookwire data-plane`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataPlane {
    /// How it logs.
    pub telemetry: telemetry::Settings,
    /// Where its spans go.
    pub traces: traces::Settings,
    /// What opens secrets.
    pub secrets: SecretSettings,
    /// Where the log is.
    pub kafka: kafka::Settings,
    /// The node itself.
    pub node: data_plane::config::Node,
    /// Where it listens.
    pub listen: data_plane::config::Listen,
    /// How it gets to its control plane.
    pub control_plane: data_plane::cache::watch::Settings,
    /// Taking messages.
    pub publish: data_plane::publish::Settings,
    /// Making deliveries of messages.
    pub dispatch: data_plane::dispatch::Settings,
    /// How much of what is to be delivered is held in memory.
    pub lanes: data_plane::deliver::lanes::Settings,
    /// Making attempts.
    pub deliver: data_plane::deliver::Settings,
    /// When there is another attempt.
    pub retry: data_plane::retry::schedule::Schedule,
}

impl DataPlane {
    /// Checks what cannot work, alone or together.
    pub fn validate(&self) -> Result<(), String> {
        self.node().validate()?;
        self.kafka.validate().map_err(|error| error.to_string())?;
        let (life, kept) = (self.retry.life(), self.kafka.retention.messages);
        if life > kept {
            let [life, kept] = [life, kept].map(humantime::format_duration);
            return Err(format!(
                "kafka.retention.messages: a delivery can live for {life} (retry.delays, retry.margin) and messages are kept \
                 for {kept}: keep them for longer, or retry for less long"
            ));
        }
        Ok(())
    }

    /// What the node itself needs of this.
    pub fn node(&self) -> data_plane::Settings {
        data_plane::Settings {
            node: self.node.clone(),
            listen: self.listen.clone(),
            control_plane: self.control_plane.clone(),
            publish: self.publish.clone(),
            dispatch: self.dispatch.clone(),
            lanes: self.lanes.clone(),
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
    /// Where its spans go.
    pub traces: traces::Settings,
    /// Topics of the log, which is embedded.
    pub log: LayoutSettings,
    /// What of messages and attempts can be asked for.
    pub index: hookwire_control_plane::index::Settings,
    /// When subscriptions are disabled, and who is told of that and other things.
    pub health: hookwire_control_plane::health::Settings,
    /// The node itself.
    pub node: data_plane::config::Node,
    /// Taking messages.
    pub publish: data_plane::publish::Settings,
    /// Making deliveries of messages.
    pub dispatch: data_plane::dispatch::Settings,
    /// How much of what is to be delivered is held in memory.
    pub lanes: data_plane::deliver::lanes::Settings,
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
            traces: Default::default(),
            log: Default::default(),
            index: Default::default(),
            health: Default::default(),
            node: Default::default(),
            publish: Default::default(),
            dispatch: Default::default(),
            lanes: Default::default(),
            deliver,
            retry: Default::default(),
        }
    }
}

impl Configured for ControlPlane {
    fn telemetry(&self) -> &telemetry::Settings {
        &self.telemetry
    }
}

impl Configured for DataPlane {
    fn telemetry(&self) -> &telemetry::Settings {
        &self.telemetry
    }
}

impl Configured for Dev {
    fn telemetry(&self) -> &telemetry::Settings {
        &self.telemetry
    }
}

/// Runs `hookwire config`: shows the settings that a subcommand would run with.
pub fn show(args: cli::Config) -> anyhow::Result<()> {
    let toml = match args {
        cli::Config::Dev(sources) => config::show(&process::load::<Dev>(sources)?),
        cli::Config::ControlPlane(sources) => config::show(&process::load::<ControlPlane>(sources)?),
        cli::Config::DataPlane(sources) => config::show(&process::load::<DataPlane>(sources)?),
    };
    Ok(io::stdout().write_all(toml?.as_bytes())?)
}

/// Reads the master keys, which seal secrets at rest and open them at use.
pub fn master_keys(secrets: &SecretSettings) -> anyhow::Result<Arc<MasterKeys>> {
    let (setting, text) = match (&secrets.master_key_file, &secrets.master_keys) {
        (Some(_), Some(_)) => return Err(wrong("secrets.master_keys", "set it or secrets.master_key_file, not both")),
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
        (None, Some(keys)) => ("secrets.master_keys", Zeroizing::new(keys.expose_secret().to_owned())),
    };
    let keys = MasterKeys::parse(&text).map_err(|error| wrong(setting, &error.to_string()))?;
    Ok(Arc::new(keys))
}

fn wrong(setting: &str, detail: &str) -> anyhow::Error {
    WrongSettings::from(format!("{setting}: {detail}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Sources, show as shown};

    fn refusal(secrets: &SecretSettings) -> String {
        master_keys(secrets).expect_err("to be refused").to_string()
    }

    #[test]
    fn master_keys_come_from_a_file_or_the_environment() {
        assert!(refusal(&SecretSettings::default()).contains("openssl rand -base64 32"));
        let key = MasterKeys::generate();
        let environment = vec![("HOOKWIRE_SECRETS__MASTER_KEYS".to_owned(), key.to_string())];
        let settings: DataPlane =
            Sources { environment, ..Sources::default() }.load(DataPlane::default()).expect("valid");
        master_keys(&settings.secrets).expect("a key");
        assert!(!shown(&settings).expect("TOML").contains(&*key) && !format!("{settings:?}").contains(&*key));

        let missing = SecretSettings { master_key_file: Some("/nonexistent/key".into()), master_keys: None };
        assert!(refusal(&missing).starts_with("secrets.master_key_file: /nonexistent/key"));
        let short = SecretSettings { master_key_file: None, master_keys: Some("c2hvcnQ=".into()) };
        assert!(refusal(&short).starts_with("secrets.master_keys: a master key is 32 random bytes"));
    }

    fn round_trip<S: Serialize + serde::de::DeserializeOwned + Default>() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("hookwire.toml");
        std::fs::write(&file, shown(&S::default()).expect("TOML")).expect("written");
        Sources { file: Some(file), ..Sources::default() }.load(S::default()).expect("valid");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        round_trip::<ControlPlane>();
        round_trip::<DataPlane>();
        round_trip::<Dev>();
    }

    #[test]
    fn the_topics_are_settings() {
        let environment = vec![("HOOKWIRE_LOG__RETRY_TIERS".to_owned(), r#"["1s", "2s"]"#.to_owned())];
        let settings: Dev = Sources { environment, ..Sources::default() }.load(Dev::default()).expect("valid");
        assert_eq!(settings.log.retry_tiers, [1, 2].map(Duration::from_secs));
    }
}
