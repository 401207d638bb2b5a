//! Settings of deliveries.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use hookwire_proto::egress::Policy;
use http::{HeaderName, Uri};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::sign::Rules;

/// At most this many headers of an answer are kept.
pub const MAX_KEPT_HEADERS: usize = 16;

/// At most this many addresses may be bound or declared.
const MAX_ADDRESSES: usize = 64;

/// How attempts are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long one attempt may take: resolving, connecting, sending, and the whole answer. At most 60 s; Standard Webhooks
    /// advises 15 to 30 s.
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    /// How much of that resolving and connecting may take. Less than `token_life`, since the token is made before.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a token holds after sending, 10 s to 300 s: also `webhook-valid-until`.
    #[serde(with = "humantime_serde")]
    pub token_life: Duration,
    /// `iss` of the tokens: who sends, as recipients know it.
    pub issuer: String,
    /// Requests to a subscription that are under way at a time, unless the subscription says otherwise.
    pub max_concurrency: usize,
    /// PEM file with certificates of authorities that are trusted besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Headers of an answer that are kept with the attempt, in lower case, at most 16.
    pub kept_headers: Vec<String>,
    /// How long an idle connection is kept. Shorter than recipients' own limit, or they close it under a request.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Idle connections that are kept for each origin.
    pub max_idle_connections: usize,
    /// Where requests may be sent.
    pub egress: Egress,
}

/// Where requests may be sent, besides public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Ranges that are allowed though they are not public, such as `10.1.0.0/16`.
    pub allow: Vec<IpNet>,
    /// Whether `http` is allowed. What is sent can then be read and changed by everybody on the way.
    pub allow_http: bool,
    /// The addresses of this machine that requests come from, used in turn. Recipients that have no address of the same family are not reached.
    /// The system chooses by default, and then nobody can tell recipients which to let in.
    pub bind: Vec<IpAddr>,
    /// Those that recipients see instead: behind NAT, its public addresses. What is bound by default.
    pub public: Vec<IpAddr>,
    /// Name servers that are asked for recipients' addresses, such as `["10.0.0.2:53"]`, at most 8. Those of the system by default.
    pub name_servers: Vec<SocketAddr>,
    /// A proxy that all requests go through; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Ports that are refused on every host: those that Hookwire itself listens on, where `allow` brings them within reach.
    pub refuse_ports: Vec<u16>,
}

/// A proxy between a node and recipients. It is told addresses that the egress guard has let through, and never sees more of a request
/// over `https` than those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// `http://{host}:{port}` for one that speaks HTTP CONNECT, also to recipients over `http`; `socks5://{host}:{port}` for SOCKS5. The
    /// egress guard has nothing to do with where it is.
    pub url: String,
    /// The user's name, where it asks for one.
    pub user: String,
    /// File that holds the user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// Scheme of a proxy that speaks SOCKS5.
pub(super) const SOCKS5: &str = "socks5";

impl Proxy {
    /// Where it is.
    ///
    /// # Errors
    /// Says what to write instead.
    pub(super) fn uri(&self) -> Result<Uri, Error> {
        let uri: Option<Uri> = self.url.parse().ok();
        let is_one = |uri: &Uri| {
            let authority = uri.authority().map_or("", http::uri::Authority::as_str);
            matches!(uri.scheme_str(), Some("http" | SOCKS5))
                && uri.port_u16().is_some_and(|port| port > 0)
                && !authority.contains('@')
                && uri.path_and_query().is_none_or(|path| path == "/")
        };
        uri.filter(is_one).ok_or_else(|| Error {
            setting: "deliver.egress.proxy.url",
            detail:
                "write scheme, host and port, such as \"http://proxy.internal:3128\" or \"socks5://10.0.0.9:1080\"; \
                     user and password_file say who we are"
                    .to_owned(),
        })
    }

    fn validate(&self) -> Result<(), Error> {
        self.uri()?;
        let goes_together = self.user.is_empty() == self.password_file.is_none();
        if goes_together && self.user.len() <= 255 && !self.user.contains(':') {
            return Ok(());
        }
        Err(Error {
            setting: "deliver.egress.proxy.user",
            detail: "goes with password_file: set both, or neither; at most 255 bytes without ':'".to_owned(),
        })
    }
}

/// A setting that can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct Error {
    /// Name of the setting.
    pub setting: &'static str,
    /// What to write instead.
    pub detail: String,
}

impl Default for Settings {
    fn default() -> Self {
        let kept = ["content-type", "date", "location", "retry-after", "server", "x-correlation-id", "x-request-id"];
        Self {
            attempt_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            token_life: Duration::from_secs(20),
            issuer: "hookwire".to_owned(),
            max_concurrency: 20,
            ca_file: None,
            kept_headers: kept.map(str::to_owned).to_vec(),
            idle_timeout: Duration::from_secs(30),
            max_idle_connections: 32,
            egress: Egress::default(),
        }
    }
}

impl Settings {
    /// Refuses what can't work.
    ///
    /// # Errors
    /// Names the setting and says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let require = |holds: bool, setting, detail: &str| {
            if holds { Ok(()) } else { Err(Error { setting, detail: detail.to_owned() }) }
        };
        let seconds = Duration::from_secs;
        let timeout = self.attempt_timeout;
        require(
            !timeout.is_zero() && timeout <= seconds(60),
            "deliver.attempt_timeout",
            "write a duration of at most 60s, such as \"15s\"",
        )?;
        require(
            !self.connect_timeout.is_zero() && self.connect_timeout <= timeout,
            "deliver.connect_timeout",
            "write a duration not longer than deliver.attempt_timeout, such as \"5s\"",
        )?;
        require(
            (seconds(10)..=seconds(300)).contains(&self.token_life),
            "deliver.token_life",
            "write a duration from 10s to 300s, such as \"20s\"",
        )?;
        require(
            self.connect_timeout < self.token_life,
            "deliver.connect_timeout",
            "write a duration shorter than deliver.token_life, or tokens would be outlived when they arrive",
        )?;
        require(
            !self.issuer.is_empty() && self.issuer.len() <= 200,
            "deliver.issuer",
            "write 1 to 200 bytes, such as \"hookwire\"",
        )?;
        require(
            (1..=1000).contains(&self.max_concurrency),
            "deliver.max_concurrency",
            "write a number from 1 to 1000, such as 20",
        )?;
        for (setting, addresses) in
            [("deliver.egress.bind", &self.egress.bind), ("deliver.egress.public", &self.egress.public)]
        {
            let is_one = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
            let are_different = (1..addresses.len()).all(|at| !addresses[..at].contains(&addresses[at]));
            require(
                addresses.iter().all(is_one) && are_different && addresses.len() <= MAX_ADDRESSES,
                setting,
                "write at most 64 different addresses, none of them unspecified or multicast, such as [\"203.0.113.7\"]",
            )?;
        }
        require(
            self.egress.name_servers.len() <= 8,
            "deliver.egress.name_servers",
            "write at most 8 addresses with ports, such as [\"10.0.0.2:53\"]",
        )?;
        if let Some(proxy) = &self.egress.proxy {
            proxy.validate()?;
            let bind = &self.egress.bind;
            require(
                bind.iter().all(IpAddr::is_ipv4) || bind.iter().all(IpAddr::is_ipv6),
                "deliver.egress.bind",
                "write addresses of one family, the proxy's: with deliver.egress.proxy they are what it is connected to from",
            )?;
        }
        let is_name = |name: &String| HeaderName::from_lowercase(name.as_bytes()).is_ok();
        require(
            self.kept_headers.len() <= MAX_KEPT_HEADERS && self.kept_headers.iter().all(is_name),
            "deliver.kept_headers",
            "write at most 16 names of HTTP headers in lower case, such as [\"content-type\", \"retry-after\"]",
        )
    }

    /// Refuses addresses that this machine does not have.
    ///
    /// # Errors
    /// Names the setting and the address.
    pub fn check_bind(&self) -> Result<(), Error> {
        for address in &self.egress.bind {
            // No datagram is sent: it only tells whether the address can be bound.
            UdpSocket::bind((*address, 0)).map_err(|error| Error {
                setting: "deliver.egress.bind",
                detail: format!("{address} can't be bound ({error}); write addresses that this machine has"),
            })?;
        }
        Ok(())
    }

    /// The addresses that requests come from, as recipients see them; none if nobody knows.
    pub fn egress_addresses(&self) -> &[IpAddr] {
        if self.egress.public.is_empty() { &self.egress.bind } else { &self.egress.public }
    }

    /// The egress guard's rules.
    pub fn policy(&self) -> Policy {
        Policy::new(self.egress.allow.clone())
            .with_http(self.egress.allow_http)
            .with_own_ports(self.egress.refuse_ports.clone())
    }

    /// What tokens say.
    pub fn rules(&self) -> Rules {
        Rules { issuer: self.issuer.clone(), token_life: self.token_life }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let seconds = Duration::from_secs;
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.validate().map_err(|error| error.setting)
        };
        assert_eq!(with(|s| s.attempt_timeout = Duration::ZERO), Err("deliver.attempt_timeout"));
        assert_eq!(with(|s| s.attempt_timeout = Duration::from_secs(61)), Err("deliver.attempt_timeout"));
        assert_eq!(with(|s| s.connect_timeout = Duration::from_secs(16)), Err("deliver.connect_timeout"));
        assert_eq!(with(|s| s.token_life = Duration::from_secs(9)), Err("deliver.token_life"));
        assert_eq!(with(|s| s.token_life = Duration::from_secs(301)), Err("deliver.token_life"));
        assert_eq!(with(|s| s.issuer.clear()), Err("deliver.issuer"));
        assert_eq!(with(|s| s.max_concurrency = 0), Err("deliver.max_concurrency"));
        assert_eq!(with(|s| s.kept_headers = vec!["X-Upper".into()]), Err("deliver.kept_headers"));
        assert_eq!(with(|s| s.kept_headers = vec!["a".into(); 17]), Err("deliver.kept_headers"));
        let address = |text: &str| text.parse().unwrap();
        for (bind, public) in [(vec!["0.0.0.0"], vec![]), (vec!["::1", "::1"], vec![]), (vec![], vec!["224.0.0.1"])] {
            let [bind, public] = [bind, public].map(|texts| texts.into_iter().map(address).collect::<Vec<IpAddr>>());
            let egress = Egress { bind: bind.clone(), public, ..Egress::default() };
            let expected = if bind.is_empty() { "deliver.egress.public" } else { "deliver.egress.bind" };
            let refused = Settings { egress, ..Settings::default() }.validate().map_err(|error| error.setting);
            assert_eq!(refused, Err(expected));
        }
        for (url, user, file, expected) in [
            ("proxy:3128", "", None, "deliver.egress.proxy.url"),
            ("http://proxy", "", None, "deliver.egress.proxy.url"),
            ("https://proxy:3128", "", None, "deliver.egress.proxy.url"),
            ("http://me:hush@proxy:3128", "", None, "deliver.egress.proxy.url"),
            ("http://proxy:3128/path", "", None, "deliver.egress.proxy.url"),
            ("socks5://proxy:1080", "me", None, "deliver.egress.proxy.user"),
            ("socks5://proxy:1080", "", Some("f"), "deliver.egress.proxy.user"),
        ] {
            let proxy = Some(Proxy { url: url.into(), user: user.into(), password_file: file.map(PathBuf::from) });
            let refused = Settings { egress: Egress { proxy, ..Egress::default() }, ..Settings::default() }.validate();
            assert_eq!(refused.map_err(|error| error.setting), Err(expected), "{url}");
        }
        for url in ["http://proxy.internal:3128", "socks5://10.0.0.9:1080", "http://[::1]:3128/"] {
            let proxy = Some(Proxy { url: url.into(), ..Proxy::default() });
            let bind = ["127.0.0.1", "::1"].map(address).to_vec();
            let mut settings = Settings { egress: Egress { proxy, ..Egress::default() }, ..Settings::default() };
            assert_eq!(settings.validate(), Ok(()), "{url}");
            settings.egress.bind = bind;
            assert_eq!(settings.validate().map_err(|error| error.setting), Err("deliver.egress.bind"));
        }
        let aging = Settings { attempt_timeout: seconds(30), connect_timeout: seconds(20), ..Settings::default() };
        assert_eq!(aging.validate().map_err(|error| error.setting), Err("deliver.connect_timeout"));
    }

    #[test]
    fn only_addresses_of_this_machine_are_bound_and_the_declared_ones_are_told() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = |bind: &[&str], public: &[&str]| {
            let [bind, public] = [bind, public].map(|all| all.iter().map(|text| address(text)).collect());
            Settings { egress: Egress { bind, public, ..Egress::default() }, ..Settings::default() }
        };
        let bound = of(&["127.0.0.2", "127.0.0.3"], &[]);
        assert_eq!((bound.validate(), bound.check_bind()), (Ok(()), Ok(())));
        assert_eq!(bound.egress_addresses(), [address("127.0.0.2"), address("127.0.0.3")]);
        assert_eq!(of(&["127.0.0.2"], &["203.0.113.7"]).egress_addresses(), [address("203.0.113.7")]);
        // Of a range for documentation, which no machine has.
        let error = of(&["192.0.2.1"], &[]).check_bind().unwrap_err();
        assert!(error.setting == "deliver.egress.bind" && error.detail.starts_with("192.0.2.1"), "{error}");
    }

    #[test]
    fn settings_are_written_with_units_and_nothing_unknown() {
        let settings: Settings =
            serde_json::from_str(r#"{"attempt_timeout": "2s 500ms", "egress": {"allow": ["127.0.0.0/8"]}}"#).unwrap();
        assert_eq!(settings.attempt_timeout, Duration::from_millis(2500));
        assert!(settings.policy().check_address([127, 0, 0, 1].into()).is_ok());
        assert!(serde_json::from_str::<Settings>(r#"{"timeout": "2s"}"#).is_err());
        let written = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), settings);
    }
}
