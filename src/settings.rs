//! The settings of each subcommand, composed of those of its parts. How they are read: [`crate::config`].

use std::path::PathBuf;
use std::sync::Arc;

use hookwire_data_plane as data_plane;
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

    #[test]
    fn what_is_shown_can_be_read_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("hookwire.toml");
        std::fs::write(&file, show(&DataPlane::default()).expect("TOML")).expect("written");
        Sources { file: Some(file), ..Sources::default() }.load(DataPlane::default()).expect("valid");
    }
}
