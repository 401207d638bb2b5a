//! Secrets of every kind are planted, the whole system is used, with recipients that give back all that they get, and then
//! the secrets are looked for in everything that was kept. Markers that are no secrets are planted beside them, and must be found.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::attempt_service_client::AttemptServiceClient;
use hookwire_proto::v1::audit_service_client::AuditServiceClient;
use hookwire_proto::v1::secret::Algorithm;
use hookwire_proto::v1::subscription::Authentication;
use hookwire_proto::v1::*;
use hookwire_tests::api::{Api, message};
use hookwire_tests::certificates::{Authority, Identity};
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::receiver::{Behaviour, Form};
use hookwire_tests::scan::Scanner;
use hookwire_tests::{on_both_shapes, wait_until};
use prost::Message as _;
use tonic::{Code, Status};

/// More than a request has headers, so that each comes first once.
const MESSAGES: usize = 24;
const LIMIT: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// One file, or one topic, or whatever else is kept in one place.
struct Kept {
    place: String,
    bytes: Vec<u8>,
}

/// What is planted.
struct Planted {
    secrets: Scanner,
    /// Those that a node opens for a moment, and sends to nobody.
    opened: Scanner,
    markers: Scanner,
    /// What logs say of what happened here: names, and no payload.
    logged: Scanner,
    marker: String,
    identity: Identity,
}

impl Planted {
    fn new(cluster: &Cluster) -> Result<Self> {
        let identity = Authority::new("clients", cluster.directory.path())?.issue("client")?;
        let marker = format!("marker-{}", uuid::Uuid::new_v4().simple());
        let [secrets, opened, markers, logged] = [(); 4].map(|()| Scanner::new());
        let mut planted = Self { secrets, opened, markers, logged, marker, identity };
        planted.markers.plant("the marker", planted.marker.as_bytes());

        let (data, path) = (cluster.directory.path().join("data"), cluster.directory.path());
        let master_key =
            if cluster.shape == Shape::Embedded { data.join("master-key") } else { path.join("master-key") };
        let master_key = std::fs::read_to_string(master_key)?;
        planted.secrets.plant("the master key", &BASE64_STANDARD.decode(master_key.trim())?);
        planted.secrets.plant("the administrator's API key", cluster.admin_key.as_bytes());
        let key = std::fs::read_to_string(&planted.identity.key)?;
        let lines: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
        planted.opened("the key of a client certificate", &BASE64_STANDARD.decode(lines.concat())?);
        for line in lines {
            planted.opened("a line of the key of a client certificate", line.as_bytes());
        }
        Ok(planted)
    }

    fn opened(&mut self, what: &str, value: &[u8]) {
        self.secrets.plant(what, value);
        self.held(what, value);
    }

    /// What a node opens and drops. Of what was freed the allocator overwrites the beginning, so that the end is looked for.
    fn held(&mut self, what: &str, value: &[u8]) {
        self.opened.plant(what, &value[value.len() / 2..]);
    }

    /// A value of the kind, which nobody has seen before: with what has to be escaped here and there, but for a header.
    fn value(&mut self, what: &str) -> String {
        let value = format!("sk/\"{}\\%+&='{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        self.secrets.plant(what, value.as_bytes());
        value
    }

    /// A key that the API has shown.
    fn shown(&mut self, what: &str, secret: &Secret) -> Result<()> {
        let text = secret.key.split_once('_').context("a key has a prefix")?.1;
        let bytes = BASE64_STANDARD.decode(text)?;
        self.opened(what, &bytes[..32]);
        self.opened(what, secret.key.as_bytes());
        Ok(())
    }

    fn subscription(&mut self, cluster: &Cluster, path: &str, oauth: bool) -> Result<CreateSubscriptionRequest> {
        let key: [u8; 32] = rand::random();
        self.opened("an HMAC secret that was brought", &key);
        let authentication = if oauth {
            let client_secret = self.value("an OAuth client's secret");
            // As it was opened. What is sent of it is encoded.
            self.held("an OAuth client's secret", client_secret.as_bytes());
            Authentication::OauthClient(OAuthClient {
                token_url: cluster.receiver.url("/token"),
                client_id: self.marker.clone(),
                client_secret,
                ..Default::default()
            })
        } else {
            Authentication::BasicAuth(BasicAuth {
                username: self.marker.clone(),
                password: self.value("a password of basic authentication"),
            })
        };
        let subscription = Subscription {
            display_name: self.marker.clone(),
            url: cluster.receiver.url(path),
            event_types: vec!["*".into()],
            initial_secret: Some(Secret {
                key: format!("whsec_{}", BASE64_STANDARD.encode(key)),
                ..Default::default()
            }),
            shared_key: Some(SharedKey { header: "x-api-key".into(), value: self.value("a pre-shared key") }),
            headers: vec![CustomHeader {
                name: "x-secret".into(),
                secret_value: self.value("a secret header"),
                ..Default::default()
            }],
            authentication: Some(authentication),
            client_certificate: Some(ClientCertificate {
                certificate: std::fs::read_to_string(&self.identity.certificate)?,
                private_key: std::fs::read_to_string(&self.identity.key)?,
            }),
            ..Default::default()
        };
        Ok(CreateSubscriptionRequest {
            subscription: Some(subscription),
            // The answer, which shows the secret, is remembered.
            request_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        })
    }
}

async fn no_secret_is_kept_where_it_can_be_read(cluster: &mut Cluster) -> Result<()> {
    let mut planted = Planted::new(cluster)?;
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["b.event"]).await?;
    planted.logged.plant("the tenant, where attempts are logged", format!("{tenant}/subscriptions/").as_bytes());
    planted.logged.plant("a node, where control planes log", b"node applied");
    let token = planted.value("an OAuth access token");
    let answer = serde_json::json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600});
    cluster.receiver.script("/token", [], Behaviour::Json(answer.to_string()));

    let forms = [Form::Plain, Form::Json, Form::Base64, Form::Hex, Form::Percent].map(|form| (form, 200));
    let mut paths = Vec::new();
    for (index, (form, status)) in forms.into_iter().chain([(Form::Plain, 500)]).enumerate() {
        let path = format!("/echo/{index}");
        cluster.receiver.script(&path, [], Behaviour::Echo { status, form });
        let mut request = planted.subscription(cluster, &path, index % 2 == 1)?;
        request.parent.clone_from(&tenant);
        let made = control.subscriptions().create_subscription(request).await?.into_inner();
        let update = UpdateSubscriptionRequest {
            subscription: Some(Subscription {
                name: made.name.clone(),
                shared_key: Some(SharedKey {
                    header: "x-api-key".into(),
                    value: planted.value("a pre-shared key that took another's place"),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        control.subscriptions().update_subscription(update).await?;
        planted.shown("an HMAC secret that was brought", made.initial_secret.as_ref().context("it is shown")?)?;
        for algorithm in [Algorithm::HmacSha256, Algorithm::Ed25519] {
            let secret = Some(Secret { algorithm: algorithm.into(), ..Default::default() });
            let parent = made.name.clone();
            let create = CreateSecretRequest { parent, secret, ..Default::default() };
            planted.shown("a secret that was made", control.subscriptions().create_secret(create).await?.get_ref())?;
        }
        let rotate = RotateSecretRequest { parent: made.name, ..Default::default() };
        planted.shown("a secret after a rotation", control.subscriptions().rotate_secret(rotate).await?.get_ref())?;
        paths.push((path, status));
    }
    let mut said = refusals(cluster, &control, &tenant, &mut planted).await?;
    said.extend(keys(&control, &tenant, &mut planted).await?);

    // Published and delivered; the last is dead after two attempts.
    let list = ListSubscriptionsRequest { parent: tenant.clone(), ..Default::default() };
    let subscriptions = control.subscriptions().list_subscriptions(list).await?.into_inner();
    let revision = subscriptions.subscriptions.iter().map(|it| it.revision).max().unwrap_or_default();
    let publisher = cluster.publisher()?;
    for _ in 0..MESSAGES {
        publisher.publish_one(&tenant, "b.event", &format!("{{\"m\":{:?}}}", planted.marker), revision).await?;
    }
    let (mut sent, bearer) = (0, format!("Bearer {token}"));
    for (path, status) in &paths {
        let count = if *status == 200 { MESSAGES } else { 2 * MESSAGES };
        for arrival in cluster.receiver.wait(path, count, LIMIT).await? {
            sent += 1;
            // What is not sent can't come back.
            let authorization = arrival.header("authorization");
            ensure!(authorization == bearer || authorization.starts_with("Basic "), "authorized otherwise");
            for header in ["x-secret", "x-api-key", "webhook-token", "webhook-signature"] {
                ensure!(!arrival.header(header).is_empty(), "{header} was not sent");
            }
            // What is made of the secrets is none for long, but it is one.
            for header in ["authorization", "webhook-token", "webhook-signature"] {
                for part in arrival.header(header).split([' ', ',']).filter(|part| part.len() > 20) {
                    planted.secrets.plant("what a request was signed or authorized with", part.as_bytes());
                }
            }
        }
    }
    said.extend(subscriptions.encode_to_vec());
    said.extend(read(&control, &tenant, sent).await?);
    let mut kept = vec![Kept { place: "answers of the API".into(), bytes: said }];
    if let Some(dump) = cluster.dump()? {
        kept.push(Kept { place: "the database".into(), bytes: dump });
    }
    wiped(cluster, &planted).await?;
    stopped(cluster, &mut kept).await?;
    judge(&planted, cluster.shape, &kept)
}

/// Calls that are refused with a secret in them.
async fn refusals(cluster: &Cluster, control: &Api, tenant: &str, planted: &mut Planted) -> Result<Vec<u8>> {
    let mut said = Vec::new();
    let mut refused = |status: Status, code: Code| {
        said.extend_from_slice(format!("{status:?} {}", String::from_utf8_lossy(status.details())).as_bytes());
        ensure!(status.code() == code, "{status:?}, and not {code:?}");
        Ok(())
    };
    let wrong = format!("hwk_{}", uuid::Uuid::new_v4().simple().to_string().repeat(2));
    planted.secrets.plant("an API key that is none", wrong.as_bytes());
    let get = GetTenantRequest { name: tenant.to_owned() };
    let answer = control.with_key(&wrong)?.tenants().get_tenant(get).await;
    refused(answer.err().context("refused")?, Code::Unauthenticated)?;
    let answer = cluster.publisher()?.with_key(&wrong)?.publish(tenant, vec![message("b.event", "{}")], 0).await;
    refused(answer.err().context("refused")?, Code::Unauthenticated)?;

    let mut request = planted.subscription(cluster, "/refused", false)?;
    request.parent = tenant.to_owned();
    let subscription = request.subscription.as_mut().context("it has one")?;
    let secret = planted.value("a signing secret that is none");
    subscription.initial_secret = Some(Secret { key: format!("whsec_{secret}"), ..Default::default() });
    subscription.shared_key = Some(SharedKey {
        header: "authorization".into(),
        value: format!("{} ü", planted.value("a pre-shared key that is none")),
    });
    if let Some(certificate) = &mut subscription.client_certificate {
        certificate.private_key = format!("{}\n", planted.value("the key of a certificate that is none"));
    }
    let answer = control.subscriptions().create_subscription(request).await;
    refused(answer.err().context("refused")?, Code::InvalidArgument)?;
    Ok(said)
}

/// API keys and a tenant token, made and used.
async fn keys(control: &Api, tenant: &str, planted: &mut Planted) -> Result<Vec<u8>> {
    let api_key = ApiKey {
        role: Role::Admin.into(),
        display_name: planted.marker.clone(),
        tenant: tenant.to_owned(),
        ..Default::default()
    };
    let request_id = uuid::Uuid::new_v4().to_string();
    let create = CreateApiKeyRequest { api_key: Some(api_key), request_id };
    let key = control.api_keys().create_api_key(create).await?.into_inner();
    planted.secrets.plant("an API key", key.key.as_bytes());
    let by_key = control.with_key(&key.key)?;
    let mint =
        CreateTenantTokenRequest { parent: tenant.to_owned(), role: Role::TenantAdmin.into(), ..Default::default() };
    let token = by_key.api_keys().create_tenant_token(mint).await?.into_inner();
    planted.secrets.plant("a tenant token", token.token.as_bytes());
    let get = GetTenantRequest { name: tenant.to_owned() };
    control.with_key(&token.token)?.tenants().get_tenant(get).await?;
    let list = by_key.api_keys().list_api_keys(ListApiKeysRequest::default()).await?.into_inner();
    Ok(list.encode_to_vec())
}

/// Everything that the API has to read: audit entries, secrets, and attempts with what was answered, once the index has them.
async fn read(control: &Api, tenant: &str, attempts: usize) -> Result<Vec<u8>> {
    let mut said = Vec::new();
    let entries = ListAuditEntriesRequest { page_size: 1_000, ..Default::default() };
    let entries = AuditServiceClient::new(control.connection()).list_audit_entries(entries).await?.into_inner();
    ensure!(entries.audit_entries.iter().any(|entry| entry.method == "RotateSecret"), "an audit entry is missing");
    said.extend(entries.encode_to_vec());
    let list = ListSubscriptionsRequest { parent: tenant.to_owned(), ..Default::default() };
    for subscription in control.subscriptions().list_subscriptions(list).await?.into_inner().subscriptions {
        let list = ListSecretsRequest { parent: subscription.name, ..Default::default() };
        said.extend(control.subscriptions().list_secrets(list).await?.into_inner().encode_to_vec());
    }
    let list = ListAttemptsRequest { parent: format!("{tenant}/messages/-"), page_size: 1_000, ..Default::default() };
    let mut found = ListAttemptsResponse::default();
    wait_until("the index has every attempt", LIMIT, async || {
        found = AttemptServiceClient::new(control.connection()).list_attempts(list.clone()).await?.into_inner();
        Ok(found.attempts.len() >= attempts)
    })
    .await?;
    let redacted = |attempt: &Attempt| attempt.response_body.windows(10).any(|ten| ten == b"[redacted]");
    let scrubbed = found.attempts.iter().filter(|attempt| redacted(attempt)).count();
    ensure!(scrubbed * 2 > attempts, "only {scrubbed} of {attempts} answers had something to scrub");
    said.extend(found.encode_to_vec());
    Ok(said)
}

/// A node that has signed with every secret holds none of them when it is idle: of those that it does not send, not even what
/// libraries have kept. What it may know, the marker, is there. An attempt that is under way (one that the log has twice, say)
/// holds what it signs with, so it is looked until none is; what is left behind in many places stays there.
async fn wiped(cluster: &mut Cluster, planted: &Planted) -> Result<()> {
    for member in cluster.members().filter(|member| member.process.name.starts_with("node-")) {
        let mut left = BTreeSet::new();
        let idle = wait_until("no secret is in memory", LIMIT, async || {
            let Some(memory) = member.process.memory()? else { return Ok(true) };
            left = memory.iter().flat_map(|run| planted.opened.find(run)).collect();
            let is_marked = memory.iter().any(|run| !planted.markers.find(run).is_empty());
            ensure!(is_marked, "nothing was seen of the memory of {}", member.process.name);
            Ok(left.is_empty())
        });
        idle.await.with_context(|| format!("in the memory of {} there is still {left:?}", member.process.name))?;
    }
    Ok(())
}

/// Stops the processes; then every topic and every file that they have written is kept.
async fn stopped(cluster: &mut Cluster, kept: &mut Vec<Kept>) -> Result<()> {
    if cluster.shape == Shape::Production {
        for member in cluster.members() {
            member.process.terminate(STOP).await?;
        }
    }
    let log = cluster.open_log().await?;
    for topic in log.layout().topics() {
        let mut bytes = Vec::new();
        for partition in 0..log.layout().partitions(topic) {
            let bounds = log.bounds(topic, partition).await?;
            let mut next = bounds.low;
            while next < bounds.next {
                let records = log.read(topic, partition, next, 1_000, 1 << 20).await?;
                ensure!(!records.is_empty(), "{topic:?} ends before its end");
                for record in records {
                    next = record.offset + 1;
                    bytes.extend_from_slice(&record.key);
                    bytes.extend_from_slice(&record.value);
                }
            }
        }
        kept.push(Kept { place: format!("topic {topic:?}"), bytes });
    }
    log.close().await;
    files(cluster.directory.path(), kept)
}

/// Every file but those that are there to hold a secret, and what the receiver writes.
fn files(directory: &Path, kept: &mut Vec<Kept>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `dev` prints its demo's keys, too: to who started it, and not to its log.
        let holds = ["master-key", "admin-key", "keys.json", "signing-secret", "dev.out"].contains(&&*name);
        if path.is_dir() {
            files(&path, kept)?;
        } else if !(holds || name.ends_with(".key") || name.starts_with("arrivals-")) {
            kept.push(Kept { place: format!("file {name}"), bytes: std::fs::read(&path)? });
        }
    }
    Ok(())
}

/// Secrets are nowhere; the marker is wherever something is kept, and names are in the logs, or nothing would have been seen.
fn judge(planted: &Planted, shape: Shape, kept: &[Kept]) -> Result<()> {
    let (mut leaks, mut marked) = (BTreeSet::new(), BTreeSet::new());
    for Kept { place, bytes } in kept {
        leaks.extend(planted.secrets.find(bytes).into_iter().map(|found| format!("{found} in {place}")));
        let expected = if place.ends_with(".log") { &planted.logged } else { &planted.markers };
        if !expected.find(bytes).is_empty() {
            marked.insert(place.as_str());
        }
    }
    ensure!(leaks.is_empty(), "{} secrets were kept:\n{}", leaks.len(), Vec::from_iter(leaks).join("\n"));
    let everywhere =
        ["answers of the API", "topic Messages", "topic Deliveries", "topic DeadLetters", "topic Attempts"];
    let here: &[&str] = match shape {
        Shape::Embedded => &["file hookwire.db", "file dev.log"],
        Shape::Production => &["the database", "file control-plane-1.log", "file node-1.log"],
    };
    for place in everywhere.iter().chain(here) {
        ensure!(marked.contains(place), "the marker is not in {place}, only in {marked:?}");
    }
    ensure!(marked.iter().any(|place| place.starts_with("topic Retries")), "the marker is in no tier: {marked:?}");
    Ok(())
}

on_both_shapes!(
    planted,
    Options::default().schedule(&[0, 600], &[200]).set("telemetry.filter", "debug"),
    no_secret_is_kept_where_it_can_be_read
);

#[test]
fn the_scanner_finds_what_is_there_in_every_form() {
    let value = b"sk/\"0123456789\\%+&='abcdefgh";
    let mut scanner = Scanner::new();
    scanner.plant("it", value);
    let text = String::from_utf8_lossy(value).into_owned();
    let json = serde_json::to_string(&text).expect("text is JSON");
    let percent: String = url::form_urlencoded::byte_serialize(value).collect();
    let hexed = hex::encode(value);
    let nested = hex::encode(BASE64_STANDARD.encode(value));
    let longer = |before: usize| BASE64_STANDARD.encode([&vec![7; before][..], value, b"--"].concat());
    let url_safe = |before: usize| longer(before).replace('+', "-").replace('/', "_");
    let forms =
        [text, json.replace('/', "\\/"), json, percent, hexed.to_uppercase(), hexed, format!("\t\\\\x{nested}\t")];
    for form in forms.into_iter().chain((0..6).flat_map(|before| [longer(before), url_safe(before)])) {
        let found = scanner.find(format!("before {form} after").as_bytes());
        assert!(found.iter().all(|found| found.starts_with("it ")) && !found.is_empty(), "{form}: {found:?}");
    }
    assert!(scanner.find(b"before sk/\"0123456789 after").is_empty());
}
