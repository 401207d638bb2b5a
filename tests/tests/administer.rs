//! Administration with grpcurl over TLS, without a file: every RPC that a control plane lists is called, and says what it did.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::machine::tool;
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::{on_both_shapes, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// grpcurl as an administrator has it: a server, whom to trust, a key.
struct Grpcurl {
    address: String,
    trust: Vec<String>,
    key: String,
    called: BTreeSet<String>,
}

impl Grpcurl {
    fn new(cluster: &Cluster, address: &str) -> Self {
        let trust = match &cluster.callers_trust {
            Some(authority) => vec!["-cacert".to_owned(), authority.display().to_string()],
            None => vec!["-plaintext".to_owned()],
        };
        Self { address: address.to_owned(), trust, key: cluster.admin_key.clone(), called: BTreeSet::new() }
    }

    fn run(&self, before: &[&str], after: &[&str]) -> Result<String> {
        let output = Command::new(tool("bin/grpcurl")?)
            .args(&self.trust)
            .args(before)
            .arg(&self.address)
            .args(after)
            .stdin(Stdio::null())
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "grpcurl {before:?} {after:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Calls a method such as `TenantService/GetTenant`.
    fn call(&mut self, method: &str, request: &Value) -> Result<Value> {
        let authorization = format!("authorization: Bearer {}", self.key);
        let method = format!("hookwire.v1.{method}");
        let answer = self.run(&["-H", &authorization, "-d", &request.to_string()], &[&method])?;
        self.called.insert(method);
        // The last message of a stream.
        let last = serde_json::Deserializer::from_str(&answer).into_iter().last().context("no answer")?;
        last.with_context(|| answer.clone())
    }

    /// Every method of the product's services that the server tells of.
    fn methods(&self) -> Result<BTreeSet<String>> {
        let mut methods = BTreeSet::new();
        for service in self.run(&[], &["list"])?.lines().filter(|service| service.starts_with("hookwire.v1.")) {
            for method in self.run(&[], &["list", service])?.lines() {
                let (service, method) = method.rsplit_once('.').context("a method has a service")?;
                methods.insert(format!("{service}/{method}"));
            }
        }
        Ok(methods)
    }
}

/// The text at a path such as `/items/0/name`.
fn text(value: &Value, path: &str) -> Result<String> {
    let found = value.pointer(path).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no text at {path} of {value}"))?.to_owned())
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list[field].as_array().cloned().unwrap_or_default();
    items.iter().filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
}

const TENANT: &str = "tenants/acme";

fn tenants_and_event_types(api: &mut Grpcurl) -> Result<()> {
    let made =
        api.call("TenantService/CreateTenant", &json!({"tenant_id": "acme", "tenant": {"display_name": "A"}}))?;
    ensure!(made["name"] == TENANT, "{made}");
    let update =
        json!({"tenant": {"name": TENANT, "display_name": "Acme"}, "update_mask": {"paths": ["display_name"]}});
    api.call("TenantService/UpdateTenant", &update)?;
    let got = api.call("TenantService/GetTenant", &json!({"name": TENANT}))?;
    ensure!(got["displayName"] == "Acme", "{got}");
    let listed = api.call("TenantService/ListTenants", &json!({}))?;
    ensure!(names(&listed, "tenants").contains(&TENANT.to_owned()), "{listed}");

    for id in ["a.good", "a.gone", "a.old"] {
        api.call("EventTypeService/CreateEventType", &json!({"parent": TENANT, "event_type_id": id}))?;
    }
    let old = format!("{TENANT}/eventTypes/a.old");
    let update = json!({"event_type": {"name": old, "deprecated": true}, "update_mask": {"paths": ["deprecated"]}});
    api.call("EventTypeService/UpdateEventType", &update)?;
    let got = api.call("EventTypeService/GetEventType", &json!({"name": old}))?;
    ensure!(got["deprecated"] == true, "{got}");
    api.call("EventTypeService/DeleteEventType", &json!({"name": old}))?;
    let listed = api.call("EventTypeService/ListEventTypes", &json!({"parent": TENANT}))?;
    ensure!(names(&listed, "eventTypes").len() == 2, "{listed}");
    Ok(())
}

fn subscriptions(api: &mut Grpcurl, good: &str, gone: &str) -> Result<()> {
    let new = json!({"url": good, "event_types": ["a.good"]});
    let made = api.call(
        "SubscriptionService/CreateSubscription",
        &json!({"parent": TENANT, "subscription_id": "good", "subscription": new}),
    )?;
    ensure!(text(&made, "/initialSecret/key")?.starts_with("whsec_"), "the secret is shown once");
    let subscription = json!({"url": gone, "event_types": ["a.gone"]});
    let many = json!([{"subscription_id": "gone", "subscription": subscription}, {"subscription_id": "third", "subscription": subscription}]);
    let made =
        api.call("SubscriptionService/BatchCreateSubscriptions", &json!({"parent": TENANT, "requests": many}))?;
    ensure!(names(&made, "subscriptions").len() == 2, "{made}");

    let (good, third) = (format!("{TENANT}/subscriptions/good"), format!("{TENANT}/subscriptions/third"));
    let update =
        json!({"subscription": {"name": good, "display_name": "Good"}, "update_mask": {"paths": ["display_name"]}});
    api.call("SubscriptionService/UpdateSubscription", &update)?;
    let update =
        json!({"subscription": {"name": third, "labels": {"tier": "3"}}, "update_mask": {"paths": ["labels"]}});
    api.call("SubscriptionService/BatchUpdateSubscriptions", &json!({"parent": TENANT, "requests": [update]}))?;
    let got = api.call("SubscriptionService/GetSubscription", &json!({"name": good}))?;
    ensure!(got["displayName"] == "Good" && got["initialSecret"].is_null(), "{got}");
    api.call("SubscriptionService/DeleteSubscription", &json!({"name": third}))?;
    let listed = api.call("SubscriptionService/ListSubscriptions", &json!({"parent": TENANT}))?;
    ensure!(names(&listed, "subscriptions").len() == 2, "{listed}");

    let paused = api.call("SubscriptionService/PauseSubscription", &json!({"name": good, "reason": "moving"}))?;
    ensure!(paused["state"] == "STATE_PAUSED" && paused["stateChange"]["reason"] == "moving", "{paused}");
    let enabled =
        api.call("SubscriptionService/EnableSubscription", &json!({"name": good, "waiting": "WAITING_DROP"}))?;
    ensure!(enabled["state"] == "STATE_ENABLED", "{enabled}");

    let told = api.call("SubscriptionService/PingSubscription", &json!({"name": good}))?;
    ensure!(told["delivered"] == true && text(&told, "/summary")?.starts_with("answered 200"), "{told}");

    let secret = api.call(
        "SubscriptionService/CreateSecret",
        &json!({"parent": good, "secret_id": "pair", "secret": {"algorithm": "ALGORITHM_ED25519"}}),
    )?;
    ensure!(secret["name"] == format!("{good}/secrets/pair"), "{secret}");
    let keys = api.call("SubscriptionService/ListPublicKeys", &json!({"parent": good}))?;
    ensure!(text(&keys, "/publicKeys/0/key")?.starts_with("whpk_"), "{keys}");
    let next =
        api.call("SubscriptionService/RotateSecret", &json!({"parent": good, "secret_id": "next", "overlap": "60s"}))?;
    let next = text(&next, "/name")?;
    api.call("SubscriptionService/PromoteSecret", &json!({"name": next}))?;
    let got = api.call("SubscriptionService/GetSecret", &json!({"name": next}))?;
    ensure!(got["signsToken"] == true && got["key"].is_null(), "{got}");
    api.call("SubscriptionService/DeleteSecret", &json!({"name": format!("{good}/secrets/pair")}))?;
    let listed = api.call("SubscriptionService/ListSecrets", &json!({"parent": good}))?;
    ensure!(names(&listed, "secrets").len() == 2, "{listed}");
    Ok(())
}

/// Of the one dead letter: at this rate a replay runs for 100 seconds.
fn replays(api: &mut Grpcurl) -> Result<()> {
    let selection = json!({"subscription": format!("{TENANT}/subscriptions/gone")});
    let replay = json!({"dead_letters": selection, "deliveries_per_second": 0.01});
    for id in ["cancelled", "resumed"] {
        api.call("ReplayService/CreateReplay", &json!({"parent": TENANT, "replay_id": id, "replay": replay}))?;
        let name = json!({"name": format!("{TENANT}/replays/{id}")});
        let paused = api.call("ReplayService/PauseReplay", &name)?;
        ensure!(paused["state"] == "STATE_PAUSED", "{paused}");
        if id == "resumed" {
            api.call("ReplayService/ResumeReplay", &name)?;
        }
        let cancelled = api.call("ReplayService/CancelReplay", &name)?;
        ensure!(cancelled["state"] == "STATE_CANCELLED", "{cancelled}");
        let got = api.call("ReplayService/GetReplay", &name)?;
        ensure!(got["state"] == "STATE_CANCELLED", "{got}");
    }
    let replay = json!({"dead_letters": selection, "dry_run": true});
    api.call("ReplayService/CreateReplay", &json!({"parent": TENANT, "replay_id": "counted", "replay": replay}))?;
    let watched = api.call("ReplayService/WatchReplay", &json!({"name": format!("{TENANT}/replays/counted")}))?;
    let replay = &watched["replay"];
    ensure!(replay["state"] == "STATE_SUCCEEDED", "{watched}");
    // The one, and what replays have made of it before they were cancelled.
    ensure!(["1", "2", "3"].contains(&&*text(replay, "/foundCount")?), "{watched}");
    let listed = api.call("ReplayService/ListReplays", &json!({"parent": TENANT, "filter": "state = CANCELLED"}))?;
    ensure!(names(&listed, "replays").len() == 2, "{listed}");
    Ok(())
}

fn keys(api: &mut Grpcurl) -> Result<()> {
    let new = json!({"api_key": {"role": "ROLE_VIEWER", "tenant": TENANT, "display_name": "portal"}});
    let made = api.call("ApiKeyService/CreateApiKey", &new)?;
    let (name, key) = (text(&made, "/name")?, text(&made, "/key")?);
    let update =
        json!({"api_key": {"name": name, "source_cidrs": ["127.0.0.0/8"]}, "update_mask": {"paths": ["source_cidrs"]}});
    api.call("ApiKeyService/UpdateApiKey", &update)?;
    let got = api.call("ApiKeyService/GetApiKey", &json!({"name": name}))?;
    ensure!(got["sourceCidrs"] == json!(["127.0.0.0/8"]) && got["key"].is_null(), "{got}");
    let listed = api.call("ApiKeyService/ListApiKeys", &json!({}))?;
    ensure!(names(&listed, "apiKeys").contains(&name), "{listed}");
    let token = api.call("ApiKeyService/CreateTenantToken", &json!({"parent": TENANT, "role": "ROLE_VIEWER"}))?;

    // Both are let in, and the key no longer when it is deleted.
    let admin = std::mem::replace(&mut api.key, key);
    api.call("TenantService/GetTenant", &json!({"name": TENANT}))?;
    let key = std::mem::replace(&mut api.key, text(&token, "/token")?);
    api.call("TenantService/GetTenant", &json!({"name": TENANT}))?;
    api.key = admin;
    api.call("ApiKeyService/DeleteApiKey", &json!({"name": name}))?;
    let admin = std::mem::replace(&mut api.key, key);
    let refused = api.call("TenantService/GetTenant", &json!({"name": TENANT})).err().context("it was deleted")?;
    ensure!(refused.to_string().contains("it is unknown or was revoked"), "{refused}");
    api.key = admin;
    Ok(())
}

/// Waits until a list has an item, and gets that.
async fn get(api: &mut Grpcurl, service: &str, list: &str, get: &str, request: Value) -> Result<Value> {
    let field = list.trim_start_matches("List");
    let field = field[..1].to_lowercase() + &field[1..];
    let mut name = None;
    wait_until(&format!("{list} has an item"), LIMIT, async || {
        let listed = api.call(&format!("{service}/{list}"), &request)?;
        name = names(&listed, &field).into_iter().next();
        Ok(name.is_some())
    })
    .await?;
    api.call(&format!("{service}/{get}"), &json!({"name": name}))
}

async fn every_service_is_administered(cluster: &mut Cluster) -> Result<()> {
    let address = cluster.control_planes[0].url.split("//").nth(1).context("a URL")?.to_owned();
    let mut api = Grpcurl::new(cluster, &address);
    let receiver = &cluster.receiver;
    receiver.script("/gone", [], Behaviour::status(410));
    tenants_and_event_types(&mut api)?;
    subscriptions(&mut api, &receiver.url("/good"), &receiver.url("/gone"))?;
    keys(&mut api)?;

    let mut node = Grpcurl::new(cluster, cluster.publish_address());
    let events = json!([{"event_type": "a.good", "text": "{}"}, {"event_type": "a.gone", "text": "{}"}]);
    node.call("PublishService/PublishMessages", &json!({"parent": TENANT, "messages": events}))?;
    receiver.wait("/good", 2, LIMIT).await?;
    let of_good = json!({"parent": format!("{TENANT}/messages/-"), "filter": "status_code = 200"});
    let attempt = get(&mut api, "AttemptService", "ListAttempts", "GetAttempt", of_good).await?;
    ensure!(attempt["outcome"] == "OUTCOME_DELIVERED", "{attempt}");
    let of_gone = json!({"parent": format!("{TENANT}/messages/-"), "filter": "state = DEAD"});
    let delivery = get(&mut api, "DeliveryService", "ListDeliveries", "GetDelivery", of_gone).await?;
    ensure!(delivery["deadReason"] == "REASON_GONE", "{delivery}");
    let parent = json!({"parent": format!("{TENANT}/subscriptions/gone")});
    let dead = get(&mut api, "DeadLetterService", "ListDeadLetters", "GetDeadLetter", parent).await?;
    ensure!(dead["eventType"] == "a.gone", "{dead}");
    replays(&mut api)?;
    let parent = json!({"parent": TENANT, "filter": "event_type = \"a.good\""});
    let message = get(&mut api, "MessageService", "ListMessages", "GetMessage", parent).await?;
    ensure!(text(&message, "/payload")? == "e30=", "{message}");
    let listed = get(&mut api, "NodeService", "ListNodes", "GetNode", json!({})).await?;
    ensure!(listed["state"] == "STATE_CONNECTED", "{listed}");
    let egress = api.call("EgressService/GetEgressAddresses", &json!({}))?;
    ensure!(text(&egress, "/updateTime")?.ends_with('Z'), "{egress}");

    api.call("TenantService/DeleteTenant", &json!({"name": TENANT, "force": true}))?;
    let of_tenant = json!({"filter": "method = \"DeleteTenant\""});
    let entry = get(&mut api, "AuditService", "ListAuditEntries", "GetAuditEntry", of_tenant).await?;
    ensure!(entry["resource"] == TENANT, "{entry}");

    let methods = api.methods()?;
    let called = &api.called | &node.called;
    let missed: Vec<_> = methods.difference(&called).collect();
    if methods.len() < 50 || !missed.is_empty() {
        bail!("of {} methods, these were not called: {missed:?}", methods.len());
    }
    Ok(())
}

on_both_shapes!(grpcurl, Options::default(), every_service_is_administered);
