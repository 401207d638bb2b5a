//! The settings of a control plane. Passed in, never global; what can't work is refused before anything starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use hookwire_log::Layout;
use hookwire_proto::egress::Policy;
use hookwire_proto::seal::{self, MasterKeys};
use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::push::{Identities, ListedNode};
use crate::store::{self, StoreSettings};
use crate::{auth, health, index};

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value is wrong, or does not go with another.
    #[error("{setting} {detail}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What to write instead.
        detail: String,
    },
    /// A file that a setting names can't be read.
    #[error("{setting}: {path} can't be read")]
    File {
        /// Name of the setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The master keys are none.
    #[error("{setting}: {source}")]
    MasterKeys {
        /// Name of the setting.
        setting: &'static str,
        /// Why.
        #[source]
        source: seal::Error,
    },
    /// A setting of the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A setting of the log.
    #[error(transparent)]
    Log(#[from] hookwire_log::Error),
}

/// All settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The public API.
    pub api: ApiSettings,
    /// The port for data-plane nodes.
    pub push: PushSettings,
    /// Probes.
    pub ops: OpsSettings,
    /// Where the configuration is stored.
    pub store: StoreSettings,
    /// Keys for what is sealed.
    pub secrets: SecretSettings,
    /// Where subscriptions may point.
    pub egress: EgressSettings,
    /// Topics, the same for every node.
    pub log: LayoutSettings,
    /// What of messages and attempts can be asked for.
    pub index: index::Settings,
    /// When subscriptions are disabled, and who is told of that and other things.
    pub health: health::Settings,
    /// For how long the log keeps what was published at the most. Known to who knows the log, and no setting of its own.
    #[serde(skip)]
    pub log_retention: Duration,
    /// How it stops.
    pub drain: DrainSettings,
}

/// The public API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Where it listens. `127.0.0.1:7401` by default.
    pub listen: SocketAddr,
    /// Its certificate and those above it, PEM. Needed where it listens outside loopback.
    pub tls_cert_file: Option<PathBuf>,
    /// The certificate's key, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// Allows API keys in clear outside loopback, for instance behind a proxy that ends TLS on the same machine.
    pub insecure: bool,
    /// A call that takes longer is ended.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// A file with the text of an API key (`hwk_` and at least 36 more characters): it is made sure at each start that
    /// `apiKeys/bootstrap` is this key, with role ADMIN. Take the setting away before revoking it.
    pub bootstrap_admin_key_file: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: loopback(7401),
            tls_cert_file: None,
            tls_key_file: None,
            insecure: false,
            request_timeout: Duration::from_secs(15),
            bootstrap_admin_key_file: None,
        }
    }
}

/// The port for data-plane nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushSettings {
    /// Where it listens. `127.0.0.1:7403` by default.
    pub listen: SocketAddr,
    /// Its certificate and those above it, PEM. Needed where it listens outside loopback.
    pub tls_cert_file: Option<PathBuf>,
    /// The certificate's key, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// The authority that nodes' certificates must come from, PEM. Needed where it listens outside loopback: whoever
    /// gets in reads the whole configuration.
    pub tls_client_ca_file: Option<PathBuf>,
    /// Allows anybody who reaches it, in clear, outside loopback.
    pub insecure: bool,
    /// The nodes that are let in, by the names in their certificates, and what each may do: such as
    /// `[{ identity = "data-plane.example.com", roles = ["publish", "dispatch", "deliver"] }]`. Needed where `tls_client_ca_file` is set. Only
    /// nodes that may `deliver` get secrets.
    pub nodes: Vec<ListedNode>,
    /// How long a node that is gone stays in the list of nodes, and its addresses among those that requests come from. 1 h by default.
    #[serde(with = "humantime_serde")]
    pub forget_nodes_after: Duration,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self {
            listen: loopback(7403),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            insecure: false,
            nodes: Vec::new(),
            forget_nodes_after: Duration::from_secs(3600),
        }
    }
}

/// Probes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpsSettings {
    /// Where `/livez`, `/readyz`, `/metrics` and what is below `/.well-known/hookwire/` listen, plain HTTP. `127.0.0.1:7404` by default.
    pub listen: SocketAddr,
}

impl Default for OpsSettings {
    fn default() -> Self {
        Self { listen: loopback(7404) }
    }
}

/// Keys for what is sealed: one of the two must be set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSettings {
    /// A file with the master keys: one on each line, 32 random bytes in base64, the newest first.
    pub master_key_file: Option<PathBuf>,
    /// The master keys themselves, as they would be in the file.
    #[serde(skip_serializing)]
    pub master_keys: Option<SecretString>,
}

/// Where subscriptions may point, besides `https` to public addresses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSettings {
    /// Addresses that are allowed although they are not public, such as `["127.0.0.0/8"]`. The data plane needs the same.
    pub allow: Vec<IpNet>,
    /// Allows `http`: everything that is delivered travels in clear.
    pub allow_http: bool,
}

/// Topics, the same for every node: the control plane pushes them. Change nothing here once the log is in use, but as a new
/// generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayoutSettings {
    /// Numbered from 1.
    pub generation: i32,
    /// What topic and group names begin with.
    pub prefix: String,
    /// Partitions of `messages`.
    pub messages_partitions: i32,
    /// Partitions of `deliveries`, `held` and `dead-letters`.
    pub deliveries_partitions: i32,
    /// Partitions of each retry tier.
    pub retries_partitions: i32,
    /// Partitions of `attempts`.
    pub attempts_partitions: i32,
    /// Delays of the tiers, ascending.
    #[serde(with = "delays")]
    pub retry_tiers: Vec<Duration>,
}

impl Default for LayoutSettings {
    fn default() -> Self {
        let layout = Layout::default();
        Self {
            generation: layout.generation,
            prefix: layout.prefix,
            messages_partitions: layout.messages_partitions,
            deliveries_partitions: layout.deliveries_partitions,
            retries_partitions: layout.retries_partitions,
            attempts_partitions: layout.attempts_partitions,
            retry_tiers: layout.retry_tiers,
        }
    }
}

impl From<LayoutSettings> for Layout {
    fn from(settings: LayoutSettings) -> Self {
        Self {
            generation: settings.generation,
            prefix: settings.prefix,
            messages_partitions: settings.messages_partitions,
            deliveries_partitions: settings.deliveries_partitions,
            retries_partitions: settings.retries_partitions,
            attempts_partitions: settings.attempts_partitions,
            retry_tiers: settings.retry_tiers,
        }
    }
}

/// How it stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// How long calls under way may take to end.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10) }
    }
}

impl Settings {
    /// Checks what cannot work, without touching files or the network.
    ///
    /// # Errors
    /// [`Error::Setting`] and the like, each of which names the setting and says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        self.api.validate(self.api.listen.ip())?;
        self.push.validate(self.push.listen.ip())?;
        self.store.validate()?;
        if self.secrets.master_key_file.is_some() == self.secrets.master_keys.is_some() {
            return Err(wrong(
                "secrets.master_key_file",
                "or secrets.master_keys must be set, one of them: to a file with a key that `openssl rand -base64 32` made, or to its text",
            ));
        }
        Layout::from(self.log.clone()).validate()?;
        self.index.validate().map_err(|(setting, detail)| wrong(setting, detail))?;
        self.health.validate().map_err(|(setting, detail)| wrong(setting, detail))?;
        Ok(())
    }

    /// Which URLs subscriptions may have.
    pub fn egress_policy(&self) -> Policy {
        Policy::new(self.egress.allow.clone()).with_http(self.egress.allow_http)
    }

    /// Reads the master keys.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::MasterKeys`].
    pub fn master_keys(&self) -> Result<MasterKeys, Error> {
        let (setting, text) = match (&self.secrets.master_key_file, &self.secrets.master_keys) {
            (Some(path), _) => ("secrets.master_key_file", read_text("secrets.master_key_file", path)?),
            (None, Some(text)) => ("secrets.master_keys", Zeroizing::new(text.expose_secret().to_owned())),
            (None, None) => ("secrets.master_key_file", Zeroizing::default()),
        };
        MasterKeys::parse(&text).map_err(|source| Error::MasterKeys { setting, source })
    }

    /// The key that is to be there from the start, if any.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Setting`] if the file holds no key.
    pub fn bootstrap_admin_key(&self) -> Result<Option<Zeroizing<String>>, Error> {
        const SETTING: &str = "api.bootstrap_admin_key_file";
        let Some(path) = &self.api.bootstrap_admin_key_file else { return Ok(None) };
        let text = read_text(SETTING, path)?;
        let key = Zeroizing::new(text.trim().to_owned());
        if auth::is_key(&key) {
            return Ok(Some(key));
        }
        Err(wrong(
            SETTING,
            "must hold one API key: `hwk_` and 36 to 252 visible ASCII characters, such as `echo hwk_$(openssl rand -hex 32)` makes",
        ))
    }
}

impl ApiSettings {
    /// Checks that no key travels in clear outside loopback, when it listens on `address`.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self, address: IpAddr) -> Result<(), Error> {
        let tls = pair(&self.tls_cert_file, &self.tls_key_file, ["api.tls_cert_file", "api.tls_key_file"])?;
        if !(tls || self.insecure || address.is_loopback()) {
            return Err(wrong(
                "api.tls_cert_file",
                "and api.tls_key_file must be set, or API keys would travel in clear: api.listen is not on loopback \
                 (if something else on this machine ends TLS, set api.insecure = true)",
            ));
        }
        if self.request_timeout.is_zero() {
            return Err(wrong("api.request_timeout", "must be longer than zero, such as \"15s\""));
        }
        Ok(())
    }
}

impl PushSettings {
    /// Checks that only nodes get in outside loopback, when it listens on `address`.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self, address: IpAddr) -> Result<(), Error> {
        let tls = pair(&self.tls_cert_file, &self.tls_key_file, ["push.tls_cert_file", "push.tls_key_file"])?;
        let mutual = tls && self.tls_client_ca_file.is_some();
        if self.tls_client_ca_file.is_some() && !tls {
            return Err(wrong("push.tls_client_ca_file", "needs push.tls_cert_file and push.tls_key_file beside it"));
        }
        if self.tls_client_ca_file.is_some() == self.nodes.is_empty() {
            return Err(wrong(
                "push.nodes",
                "goes with push.tls_client_ca_file: list the names in nodes' certificates, such as \
                 [{ identity = \"data-plane.example.com\", roles = [\"publish\", \"dispatch\", \"deliver\"] }]",
            ));
        }
        if let Some(bare) = self.nodes.iter().find(|node| node.identity.is_empty() || node.roles.is_empty()) {
            return Err(wrong("push.nodes", &format!("must each have an identity and roles, and {bare:?} lacks one")));
        }
        if self.forget_nodes_after < Duration::from_secs(60) {
            return Err(wrong("push.forget_nodes_after", "must be at least \"1m\", such as \"1h\""));
        }
        if !(mutual || self.insecure || address.is_loopback()) {
            return Err(wrong(
                "push.tls_client_ca_file",
                "with push.tls_cert_file and push.tls_key_file must be set, or anybody could read the configuration: \
                 push.listen is not on loopback",
            ));
        }
        Ok(())
    }

    /// Which nodes are let in.
    pub fn identities(&self) -> Identities {
        if self.tls_client_ca_file.is_some() { Identities::listed(self.nodes.clone()) } else { Identities::default() }
    }
}

/// Whether certificate and key are both set.
fn pair(cert: &Option<PathBuf>, key: &Option<PathBuf>, names: [&'static str; 2]) -> Result<bool, Error> {
    match (cert, key) {
        (Some(_), Some(_)) => Ok(true),
        (None, None) => Ok(false),
        (Some(_), None) => Err(wrong(names[1], &format!("must be set, since {} is", names[0]))),
        (None, Some(_)) => Err(wrong(names[0], &format!("must be set, since {} is", names[1]))),
    }
}

/// Reads a file that a setting names.
pub(crate) fn read_text(setting: &'static str, path: &Path) -> Result<Zeroizing<String>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::File { setting, path: path.into(), source })?;
    Ok(Zeroizing::new(text))
}

fn wrong(setting: &'static str, detail: &str) -> Error {
    Error::Setting { setting, detail: detail.into() }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A list of delays, each as people write it.
mod delays {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Delay(#[serde(with = "humantime_serde")] Duration);

    pub fn serialize<S: Serializer>(delays: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(delays.iter().map(|delay| Delay(*delay)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        let delays = Vec::<Delay>::deserialize(deserializer)?;
        Ok(delays.into_iter().map(|Delay(delay)| delay).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: serde_json::Value) -> Settings {
        let mut settings: Settings = serde_json::from_value(json).unwrap();
        settings.secrets.master_keys = Some(MasterKeys::generate().to_string().into());
        settings
    }

    fn refused(json: serde_json::Value) -> String {
        settings(json).validate().expect_err("refused").to_string()
    }

    #[test]
    fn the_defaults_need_a_master_key_and_nothing_else() {
        settings(serde_json::json!({})).validate().unwrap();
        let error = Settings::default().validate().unwrap_err().to_string();
        assert!(error.contains("secrets.master_key_file") && error.contains("openssl rand"), "{error}");
    }

    #[test]
    fn nothing_is_served_in_clear_outside_loopback() {
        let public = "0.0.0.0:1";
        assert!(refused(serde_json::json!({"api": {"listen": public}})).starts_with("api.tls_cert_file"));
        assert!(refused(serde_json::json!({"push": {"listen": public}})).starts_with("push.tls_client_ca_file"));
        let tls = serde_json::json!({"push": {"listen": public, "tls_cert_file": "c", "tls_key_file": "k"}});
        assert!(refused(tls).starts_with("push.tls_client_ca_file"));
        let both = serde_json::json!({
            "api": {"listen": public, "tls_cert_file": "c", "tls_key_file": "k"},
            "push": {
                "listen": public, "tls_cert_file": "c", "tls_key_file": "k", "tls_client_ca_file": "a",
                "nodes": [{"identity": "node"}],
            },
        });
        settings(both).validate().unwrap();
        let insecure = serde_json::json!({"api": {"listen": public, "insecure": true}, "push": {"listen": public, "insecure": true}});
        settings(insecure).validate().unwrap();
        settings(serde_json::json!({"api": {"listen": "[::1]:1"}})).validate().unwrap();
    }

    #[test]
    fn half_a_pair_is_refused_with_the_other_half() {
        assert!(refused(serde_json::json!({"api": {"tls_cert_file": "c"}})).starts_with("api.tls_key_file"));
        assert!(refused(serde_json::json!({"push": {"tls_key_file": "k"}})).starts_with("push.tls_cert_file"));
        assert!(
            refused(serde_json::json!({"push": {"tls_client_ca_file": "a", "nodes": [{"identity": "n"}]}}))
                .starts_with("push.tls_client_ca_file")
        );
    }

    #[test]
    fn mutual_tls_needs_a_list_of_nodes_and_the_list_needs_mutual_tls() {
        let tls = |nodes: serde_json::Value| serde_json::json!({"push": {"tls_cert_file": "c", "tls_key_file": "k", "tls_client_ca_file": "a", "nodes": nodes}});
        for nodes in [
            serde_json::json!([]),
            serde_json::json!([{"identity": ""}]),
            serde_json::json!([{"identity": "n", "roles": []}]),
        ] {
            assert!(refused(tls(nodes.clone())).starts_with("push.nodes"), "{nodes}");
        }
        settings(tls(serde_json::json!([{"identity": "n", "roles": ["deliver"]}]))).validate().unwrap();
        let clear = serde_json::json!({"push": {"nodes": [{"identity": "n"}]}});
        assert!(refused(clear).starts_with("push.nodes"));
    }

    #[test]
    fn settings_survive_being_written_down_and_secrets_are_not() {
        let before = settings(
            serde_json::json!({"log": {"retry_tiers": ["100ms", "2s"]}, "egress": {"allow": ["127.0.0.0/8"]}}),
        );
        let written = serde_json::to_value(&before).unwrap();
        assert!(written["secrets"].get("master_keys").is_none());
        assert!(!format!("{before:?}").contains(before.secrets.master_keys.as_ref().unwrap().expose_secret()));
        let after: Settings = serde_json::from_value(written).unwrap();
        assert_eq!(after.log, before.log);
        assert_eq!(after.egress.allow, before.egress.allow);
        assert!(serde_json::from_value::<Settings>(serde_json::json!({"api": {"lisen": "x"}})).is_err());
    }

    #[test]
    fn a_bootstrap_key_is_read_and_a_weak_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let mut settings = settings(serde_json::json!({}));
        settings.api.bootstrap_admin_key_file = Some(path.clone());
        assert!(matches!(settings.bootstrap_admin_key(), Err(Error::File { .. })));
        fs::write(&path, "hwk_admin\n").unwrap();
        assert!(matches!(settings.bootstrap_admin_key(), Err(Error::Setting { .. })));
        let key = format!("hwk_{}", "a1".repeat(32));
        fs::write(&path, format!("{key}\n")).unwrap();
        assert_eq!(**settings.bootstrap_admin_key().unwrap().unwrap(), *key);
    }
}
