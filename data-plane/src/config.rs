//! The settings of a node: one section for each of its parts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use hookwire_proto::role::Role;
use serde::{Deserialize, Serialize};

use crate::retry::schedule::Schedule;
use crate::{cache, deliver, dispatch, publish};

/// The settings of a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The node itself.
    pub node: Node,
    /// Where it listens.
    pub listen: Listen,
    /// How it gets to its control plane.
    pub control_plane: cache::watch::Settings,
    /// Taking messages.
    pub publish: publish::Settings,
    /// Making deliveries of messages.
    pub dispatch: dispatch::Settings,
    /// How much of what is to be delivered is held in memory.
    pub lanes: deliver::lanes::Settings,
    /// Making attempts.
    pub deliver: deliver::Settings,
    /// When there is another attempt.
    pub retry: Schedule,
}

/// The node itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// What the node calls itself, 1 to 63 lower-case letters, digits and hyphens, different from every other's. Made up at
    /// start by default.
    pub id: String,
    /// What it does: `publish` (takes messages), `dispatch` (makes deliveries of messages, and takes them back from the retry tiers), `deliver`
    /// (makes attempts). All of it by default. Only a node that delivers needs master keys, and gets secrets.
    pub roles: Vec<Role>,
    /// How long it may take to finish what it began when it is told to stop. 25 s by default.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How often it finds out whether the log can be written, for `/readyz`. 5 s by default.
    #[serde(with = "humantime_serde")]
    pub check_interval: Duration,
    /// By how much its clock may be off the log's before it is not ready: receivers would refuse its tokens. 2 s by default.
    #[serde(with = "humantime_serde")]
    pub max_clock_skew: Duration,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: String::new(),
            roles: Role::ALL.to_vec(),
            drain_timeout: Duration::from_secs(25),
            check_interval: Duration::from_secs(5),
            max_clock_skew: Duration::from_secs(2),
        }
    }
}

/// Where a node listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address of `PublishService`. `127.0.0.1:7402` by default; another than loopback needs a certificate.
    pub publish: SocketAddr,
    /// Address of `/livez`, `/readyz` and `/metrics`, HTTP without TLS: nothing secret is said there. `127.0.0.1:7405` by default.
    pub ops: SocketAddr,
    /// Certificate for `PublishService`, in PEM, with what leads to its authority.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    pub key_file: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { publish: loopback(7402), ops: loopback(7405), cert_file: None, key_file: None }
    }
}

/// A setting that cannot work; says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct Error {
    /// Name of the setting.
    pub setting: &'static str,
    /// What is wrong, and what to write.
    pub detail: String,
}

impl Settings {
    /// Checks what cannot work, alone or together.
    ///
    /// # Errors
    /// The first setting that can't.
    pub fn validate(&self) -> Result<(), String> {
        self.node.validate().map_err(|error| error.to_string())?;
        self.listen.validate().map_err(|error| error.to_string())?;
        self.control_plane.validate().map_err(|error| error.to_string())?;
        self.publish.validate().map_err(|error| error.to_string())?;
        self.dispatch.validate().map_err(|error| error.to_string())?;
        self.lanes.validate().map_err(|error| error.to_string())?;
        self.deliver.validate().map_err(|error| error.to_string())?;
        self.retry.validate().map_err(|error| error.to_string())?;
        Ok(())
    }
}

impl Node {
    fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, detail: &str| Err(Error { setting, detail: detail.into() });
        let in_id = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.id.len() > 63 || !self.id.bytes().all(in_id) {
            return wrong("node.id", "must be 1 to 63 lower-case letters, digits and hyphens, or left out");
        }
        if self.roles.is_empty() {
            return wrong("node.roles", "must name at least one of \"publish\", \"dispatch\" and \"deliver\"");
        }
        if self.check_interval < Duration::from_millis(100) {
            return wrong("node.check_interval", "must be at least \"100ms\"");
        }
        Ok(())
    }

    /// Whether it does this.
    pub fn does(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The id that is set, or one that is made up: the host's name for people, and something random.
    pub(crate) fn id(&self) -> String {
        if !self.id.is_empty() {
            return self.id.clone();
        }
        let host = std::env::var("HOSTNAME").unwrap_or_default().to_ascii_lowercase();
        let host: String = host.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).take(40).collect();
        let host = if host.is_empty() { "node".into() } else { host };
        format!("{host}-{:08x}", rand::random::<u32>())
    }
}

impl Listen {
    fn validate(&self) -> Result<(), Error> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            let detail = "listen.cert_file and listen.key_file go together: set both or neither".into();
            return Err(Error { setting: "listen.cert_file", detail });
        }
        if self.cert_file.is_none() && !self.publish.ip().is_loopback() {
            let detail = format!(
                "{} is not a loopback address, so API keys would travel in clear: set listen.cert_file and listen.key_file, or write \"127.0.0.1:{}\"",
                self.publish,
                self.publish.port()
            );
            return Err(Error { setting: "listen.publish", detail });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let control_plane =
            cache::watch::Settings { endpoints: vec!["http://127.0.0.1:7403".into()], ..Default::default() };
        Settings { control_plane, ..Settings::default() }
    }

    #[test]
    fn clear_text_is_for_loopback_only() {
        let open = |settings: &mut Settings| settings.listen.publish = "0.0.0.0:7402".parse().unwrap();
        let mut clear = settings();
        open(&mut clear);
        let error = clear.validate().expect_err("API keys in clear");
        assert!(error.starts_with("listen.publish: 0.0.0.0:7402") && error.contains("\"127.0.0.1:7402\""), "{error}");
        clear.listen.cert_file = Some("/tls/cert.pem".into());
        assert!(clear.validate().expect_err("half of it").contains("set both or neither"));
        clear.listen.key_file = Some("/tls/key.pem".into());
        assert_eq!(clear.validate(), Ok(()));
        assert_eq!(settings().validate(), Ok(()));
    }

    #[test]
    fn a_made_up_id_is_a_valid_one() {
        let node = Node { id: Node::default().id(), ..Node::default() };
        assert!(!node.id.is_empty());
        assert_eq!(node.validate(), Ok(()));
    }
}
