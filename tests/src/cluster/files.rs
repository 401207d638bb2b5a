//! The configuration files of a cluster as it runs in production.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hookwire_proto::role::Role;

use super::ADMIN_KEY_FILE;
use crate::certificates::Authority;
use crate::machine::Servers;

/// The configuration files of a production cluster.
pub struct Files<'a> {
    pub path: &'a Path,
    pub servers: &'a Servers,
    pub planes: &'a Authority,
    pub callers: &'a Authority,
    pub recipients: &'a Authority,
    /// Names of the nodes, and what each does and is listed with.
    pub nodes: Vec<(String, Vec<Role>)>,
}

impl Files<'_> {
    pub fn control_plane(&self, name: &str, port: u16, database: &str, prefix: &str) -> Result<PathBuf> {
        let (api, push) = (self.callers.issue(&format!("{name}-api"))?, self.planes.issue(&format!("{name}-push"))?);
        let toml = format!(
            r#"
{secrets}
[api]
listen = "127.0.0.1:{port}"
tls_cert_file = {:?}
tls_key_file = {:?}
bootstrap_admin_key_file = {:?}

[push]
listen = "127.0.0.1:{}"
tls_cert_file = {:?}
tls_key_file = {:?}
tls_client_ca_file = {:?}
nodes = [{nodes}]

[ops]
listen = "127.0.0.1:{}"

[egress]
allow = ["127.0.0.0/8", "::1/128"]

[store]
url = {database:?}

[log]
prefix = "{prefix}"

{kafka}
"#,
            api.certificate,
            api.key,
            self.path.join(ADMIN_KEY_FILE),
            port + 1,
            push.certificate,
            push.key,
            self.planes.certificate,
            port + 2,
            secrets = self.secrets()?,
            nodes = self.listed()?,
            kafka = self.kafka()?,
        );
        self.write(name, &toml)
    }

    pub fn node(&self, name: &str, roles: &[Role], port: u16, endpoints: &[String]) -> Result<PathBuf> {
        let (publish, plane) = (self.callers.issue(name)?, self.planes.issue(&identity(name))?);
        let toml = format!(
            r#"
{secrets}
[node]
id = "{name}"
roles = {roles}

[listen]
publish = "127.0.0.1:{port}"
ops = "127.0.0.1:{}"
cert_file = {:?}
key_file = {:?}

[control_plane]
endpoints = {endpoints:?}
ca_file = {:?}
cert_file = {:?}
key_file = {:?}

[deliver]
ca_file = {:?}
egress.allow = ["127.0.0.0/8", "::1/128"]

{kafka}
"#,
            port + 1,
            publish.certificate,
            publish.key,
            self.planes.certificate,
            plane.certificate,
            plane.key,
            self.recipients.certificate,
            secrets = if roles.contains(&Role::Deliver) { self.secrets()? } else { String::new() },
            roles = serde_json::to_string(roles)?,
            kafka = self.kafka()?,
        );
        self.write(name, &toml)
    }

    fn listed(&self) -> Result<String> {
        let listed = self.nodes.iter().map(|(name, roles)| {
            let roles = serde_json::to_string(roles)?;
            Ok(format!("{{ identity = {:?}, roles = {roles} }}", identity(name)))
        });
        Ok(listed.collect::<Result<Vec<_>>>()?.join(", "))
    }

    fn secrets(&self) -> Result<String> {
        use base64::Engine as _;
        let file = self.path.join("master-key");
        if !file.exists() {
            std::fs::write(&file, base64::prelude::BASE64_STANDARD.encode(rand::random::<[u8; 32]>()))?;
        }
        Ok(format!("[secrets]\nmaster_key_file = {file:?}\n"))
    }

    fn kafka(&self) -> Result<String> {
        let brokers = format!("[kafka]\nbrokers = {:?}\n", self.servers.kafka);
        let Some(authority) = &self.servers.kafka_ca else { return Ok(brokers) };
        let password = self.path.join("kafka-password");
        std::fs::write(&password, "secret\n")?;
        let protected =
            format!("tls.ca_file = {authority:?}\nsasl.user = \"hookwire\"\nsasl.password_file = {password:?}\n");
        Ok(brokers + &protected)
    }

    /// Makes the key that is to be there from the start.
    pub fn admin_key(&self) -> Result<String> {
        let key = format!("hwk_{}", uuid::Uuid::new_v4().simple().to_string().repeat(2));
        std::fs::write(self.path.join(ADMIN_KEY_FILE), &key)?;
        Ok(key)
    }

    fn write(&self, name: &str, toml: &str) -> Result<PathBuf> {
        let file = self.path.join(format!("{name}.toml"));
        std::fs::write(&file, toml)?;
        Ok(file)
    }
}

/// The name in the certificate with which a node gets to its control plane.
fn identity(node: &str) -> String {
    format!("{node}-plane")
}
