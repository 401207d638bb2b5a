//! The connection to a control plane: mutual TLS from PEM files, and a dead peer noticed within seconds.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::Error;

/// How a node gets to its control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The control planes' addresses for nodes, such as `https://control-plane:7403`; one after another is tried. `http`
    /// is for loopback only.
    pub endpoints: Vec<String>,
    /// The certificates, in PEM, of the authority that the control plane's certificate is checked against. The system's
    /// authorities by default.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate, in PEM, with what leads to the authority.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    pub key_file: Option<PathBuf>,
    /// How long connecting may take, and being welcomed after that. 5 s by default.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How often the peer is asked for a sign of life while it says nothing. 2 s by default.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long the peer may take for that before it counts as dead. 3 s by default.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// The first wait before another try; doubled with each that fails. 100 ms by default.
    #[serde(with = "humantime_serde")]
    pub first_wait: Duration,
    /// The longest wait before another try. 5 s by default.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(3),
            first_wait: Duration::from_millis(100),
            max_wait: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// Checks what cannot work.
    ///
    /// # Errors
    /// [`Error::Setting`], which says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, detail: &str| Err(Error::Setting { setting, detail: detail.into() });
        if self.endpoints.is_empty() {
            return wrong(
                "control_plane.endpoints",
                "must name at least one, such as [\"https://control-plane:7403\"]",
            );
        }
        for endpoint in &self.endpoints {
            let url = url::Url::parse(endpoint).ok().filter(|url| url.has_host() && url.path() == "/");
            match url.as_ref().map(url::Url::scheme) {
                Some("https") => {}
                Some("http") if url.as_ref().is_some_and(is_loopback) => {}
                Some("http") => {
                    return wrong("control_plane.endpoints", "must begin with https://; http:// is for loopback only");
                }
                _ => return wrong("control_plane.endpoints", "must each be like \"https://control-plane:7403\""),
            }
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return wrong("control_plane.cert_file", "goes with control_plane.key_file: set both or neither");
        }
        for (setting, duration) in [
            ("control_plane.connect_timeout", self.connect_timeout),
            ("control_plane.keepalive_interval", self.keepalive_interval),
            ("control_plane.keepalive_timeout", self.keepalive_timeout),
            ("control_plane.first_wait", self.first_wait),
        ] {
            if duration < Duration::from_millis(1) {
                return wrong(setting, "must be at least \"1ms\"");
            }
        }
        if self.max_wait < self.first_wait {
            return wrong("control_plane.max_wait", "must not be shorter than control_plane.first_wait");
        }
        Ok(())
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// Connects. The files are read each time, so that renewed certificates are taken up.
pub async fn connect(settings: &Settings, endpoint: &str) -> Result<Channel, Error> {
    let connected = self::endpoint(settings, endpoint)?.connect().await;
    connected.map_err(|error| {
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Error::Connect { detail }
    })
}

/// An endpoint, configured.
pub fn endpoint(settings: &Settings, endpoint: &str) -> Result<Endpoint, Error> {
    let wrong = |error: tonic::transport::Error| Error::Setting {
        setting: "control_plane.endpoints",
        detail: format!("{endpoint:?} cannot be used: {error}"),
    };
    let configured = Endpoint::from_shared(endpoint.to_owned())
        .map_err(wrong)?
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .keep_alive_while_idle(true);
    if !endpoint.starts_with("https:") {
        return Ok(configured);
    }
    let mut tls = ClientTlsConfig::new();
    tls = match &settings.ca_file {
        Some(file) => tls.ca_certificate(Certificate::from_pem(read("control_plane.ca_file", file)?)),
        None => tls.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&settings.cert_file, &settings.key_file) {
        let (cert, key) = (read("control_plane.cert_file", cert)?, read("control_plane.key_file", key)?);
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    configured.tls_config(tls).map_err(|error| Error::Setting {
        setting: "control_plane.ca_file, control_plane.cert_file, control_plane.key_file",
        detail: format!("cannot be used for TLS: {}", error.source().map_or(error.to_string(), ToString::to_string)),
    })
}

fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|error| Error::Setting { setting, detail: format!("{}: {error}", file.display()) })
}
