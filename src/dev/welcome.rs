//! What `dev` prints when it is ready: where it listens, and what to try.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The keys of the demo tenant, kept in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// `tenants/demo`.
    pub tenant: String,
    /// API key with role ADMIN, of every tenant.
    pub admin_key: String,
    /// API key with role PUBLISHER, of the demo tenant.
    pub publisher_key: String,
    /// A signing secret for the first subscription, so that `hookwire listen` can be told before there is one.
    pub signing_secret: String,
}

/// Where `dev` listens, as it says in `listening.json` when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Its process.
    pub pid: u32,
    /// The API of the control plane.
    pub api: SocketAddr,
    /// `PublishService` of the data plane.
    pub publish: SocketAddr,
    /// What the control plane pushes from.
    pub push: SocketAddr,
    /// `/livez` and `/readyz` of the control plane.
    pub control_plane_ops: SocketAddr,
    /// `/livez` and `/readyz` of the data plane.
    pub data_plane_ops: SocketAddr,
    /// The file with [`Keys`].
    pub keys: PathBuf,
}

impl Listening {
    /// Its ports.
    pub fn ports(&self) -> [u16; 5] {
        let Self { api, publish, push, control_plane_ops, data_plane_ops, .. } = self;
        [api, publish, push, control_plane_ops, data_plane_ops].map(SocketAddr::port)
    }
}

/// The text.
pub fn text(program: &str, data_dir: &str, secret_file: &str, listening: &Listening, keys: &Keys) -> String {
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let Listening { api, publish, control_plane_ops, data_plane_ops, .. } = listening;
    let Keys { tenant, admin_key, publisher_key, signing_secret } = keys;
    // Writing to a string does not fail.
    let _ = write!(
        text,
        r#"
Hookwire {version}, for development: all of it in this process and in {data_dir} (API keys in keys.json).

  API      {api}   tenants, event types, subscriptions, API keys
  publish  {publish}   PublishService
  health   http://{control_plane_ops}/readyz and http://{data_plane_ops}/readyz; /metrics beside them

Only this machine can reach it. Other than in production, webhooks may go to this machine (127.0.0.0/8, ::1), and over http.

1. In another terminal, receive webhooks:

   {program} listen --secret-file {secret_file}

2. Subscribe {tenant} to its invoices:

   grpcurl -plaintext -H 'authorization: Bearer {admin_key}' -d '{{
     "parent": "{tenant}", "subscription_id": "first",
     "subscription": {{"url": "http://127.0.0.1:7400/", "event_types": ["invoice.*"], "initial_secret": {{"key": "{signing_secret}"}}}}
   }}' {api} hookwire.v1.SubscriptionService/CreateSubscription

3. Publish an event:

   grpcurl -plaintext -H 'authorization: Bearer {publisher_key}' -d '{{
     "parent": "{tenant}",
     "messages": [{{"event_type": "invoice.paid", "text": "{{\"type\": \"invoice.paid\", \"data\": {{\"amount\": 4200}}}}"}}]
   }}' {publish} hookwire.v1.PublishService/PublishMessages

"#
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_in_it_are_json() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listening = Listening {
            pid: 1,
            api: at(1),
            publish: at(2),
            push: at(3),
            control_plane_ops: at(4),
            data_plane_ops: at(5),
            keys: "keys.json".into(),
        };
        let keys = Keys {
            tenant: "tenants/demo".into(),
            admin_key: "hwk_a".into(),
            publisher_key: "hwk_p".into(),
            signing_secret: "whsec_s".into(),
        };
        let text = text("hookwire", "./data", "./data/secret", &listening, &keys);
        let requests: Vec<serde_json::Value> = text
            .split("-d '")
            .skip(1)
            .map(|rest| rest.split('\'').next().expect("closed"))
            .map(|json| serde_json::from_str(json).expect("JSON"))
            .collect();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0]["subscription"]["initial_secret"]["key"], "whsec_s");
        let event = requests[1]["messages"][0]["text"].as_str().expect("text");
        assert_eq!(serde_json::from_str::<serde_json::Value>(event).expect("JSON")["data"]["amount"], 4200);
    }
}
