//! The service against a log in memory.

use std::sync::Mutex;

use async_trait::async_trait;
use hookwire_log::offsets::Committed;
use hookwire_log::{
    Appended, Bounds, Consumer, ConsumerOptions, Health, Layout, NewRecord, Offset, Pending, Record, Topic,
};
use hookwire_proto::config::{self, Role, change, resource};
use hookwire_proto::google_rpc;
use hookwire_proto::v1::NewMessage;
use hookwire_proto::v1::new_message::Payload;
use hookwire_proto::v1::publish_service_client::PublishServiceClient;
use proptest::prelude::*;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::{RpcStatusExt as _, StatusExt as _};

use super::*;
use crate::server;

mod places;
mod stream;

const KEY: &str = "hwk_publisher";

/// A log in memory that can fail.
struct MemoryLog {
    layout: Arc<Layout>,
    appended: Mutex<Vec<NewRecord>>,
    /// Appends from this one on fail with this.
    fails: Mutex<Option<(usize, hookwire_log::Error)>>,
    held: Mutex<Held>,
}

/// Appends that are not acknowledged, while that is asked for.
#[derive(Default)]
struct Held {
    holds: bool,
    appends: Vec<(oneshot::Sender<Result<Appended, hookwire_log::Error>>, Appended)>,
    /// How many there were at most.
    most: usize,
}

impl MemoryLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            layout: Arc::default(),
            appended: Mutex::default(),
            fails: Mutex::default(),
            held: Mutex::default(),
        })
    }

    fn hold(&self) {
        self.held.lock().unwrap().holds = true;
    }

    /// Acknowledges what is held, as far as it is still waited for, and everything from now on.
    fn release(&self) {
        let mut held = self.held.lock().unwrap();
        held.holds = false;
        for (done, appended) in held.appends.drain(..) {
            let _ = done.send(Ok(appended));
        }
    }

    fn messages(&self) -> Vec<MessageRecord> {
        self.appended
            .lock()
            .unwrap()
            .iter()
            .map(|record| MessageRecord::decode(record.value.clone()).unwrap())
            .collect()
    }
}

#[async_trait]
impl Log for MemoryLog {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn append(&self, record: NewRecord) -> Pending {
        let mut appended = self.appended.lock().unwrap();
        if let Some((_, error)) = self.fails.lock().unwrap().as_ref().filter(|(from, _)| appended.len() >= *from) {
            return Pending::failed(error.clone());
        }
        let (done, pending) = Pending::new();
        let offset = Offset::try_from(appended.len()).unwrap();
        let answer = Appended { partition: record.partition, offset, time_ms: 0 };
        appended.push(record);
        let mut held = self.held.lock().unwrap();
        if held.holds {
            held.appends.push((done, answer));
            held.most = held.most.max(held.appends.len());
        } else {
            done.send(Ok(answer)).unwrap();
        }
        pending
    }

    async fn read(&self, _: Topic, _: i32, _: Offset, _: usize, _: usize) -> Result<Vec<Record>, hookwire_log::Error> {
        unimplemented!("publish does not read")
    }

    async fn bounds(&self, _: Topic, _: i32) -> Result<Bounds, hookwire_log::Error> {
        unimplemented!("publish does not read")
    }

    async fn offset_at(&self, _: Topic, _: i32, _: i64) -> Result<Offset, hookwire_log::Error> {
        unimplemented!("publish does not read")
    }

    async fn committed(&self, _: &str, _: Topic, _: i32) -> Result<Option<Committed>, hookwire_log::Error> {
        unimplemented!("publish does not consume")
    }

    fn join(&self, _: &str, _: &[Topic], _: ConsumerOptions) -> Result<Consumer, hookwire_log::Error> {
        unimplemented!("publish does not consume")
    }

    fn now_ms(&self) -> i64 {
        forward::now_ms()
    }

    async fn check(&self) -> Result<Health, hookwire_log::Error> {
        Ok(Health::default())
    }

    async fn close(&self) {}
}

/// A service with two tenants, `a` and `b`, and keys of every kind.
struct Node {
    service: Publish,
    log: Arc<MemoryLog>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    draining: CancellationToken,
}

fn tenant(name: &str) -> config::Resource {
    config::Resource {
        resource: Some(resource::Resource::Tenant(config::Tenant { name: name.into(), ..config::Tenant::default() })),
    }
}

fn tenant_with_quota(name: &str, messages_per_second: f64, burst: i32) -> config::Resource {
    let publish_quota = Some(config::PublishQuota { messages_per_second, burst });
    let tenant = config::Tenant { name: name.into(), publish_quota, ..config::Tenant::default() };
    config::Resource { resource: Some(resource::Resource::Tenant(tenant)) }
}

fn event_type(name: &str) -> config::Resource {
    config::Resource {
        resource: Some(resource::Resource::EventType(config::EventType {
            name: name.into(),
            ..config::EventType::default()
        })),
    }
}

fn api_key(key: &str, role: Role, tenant: &str) -> config::Resource {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let key = config::ApiKey {
        name: format!("apiKeys/{}", key.trim_start_matches("hwk_").replace('_', "-")),
        hash: hash.as_ref().to_vec().into(),
        role: role.into(),
        tenant: tenant.into(),
        ..config::ApiKey::default()
    };
    config::Resource { resource: Some(resource::Resource::ApiKey(key)) }
}

fn put(revision: i64, resource: config::Resource) -> config::ChangeSet {
    config::ChangeSet { revision, changes: vec![config::Change { change: Some(change::Change::Put(resource)) }] }
}

impl Node {
    /// Without a snapshot.
    fn unready(settings: Settings) -> Self {
        settings.validate().unwrap();
        let (snapshots, config) = Config::new();
        let (log, draining) = (MemoryLog::new(), CancellationToken::new());
        let service =
            Publish::new(config, log.clone(), settings, Metrics::default(), Spans::default(), draining.clone());
        Self { service, log, snapshots, draining }
    }

    /// With a snapshot of revision 7.
    fn new() -> Self {
        Self::with(Settings { revision_timeout: Duration::from_millis(50), ..Settings::default() })
    }

    fn with(settings: Settings) -> Self {
        let node = Self::unready(settings);
        let resources = [
            tenant("tenants/a"),
            tenant("tenants/b"),
            event_type("tenants/a/eventTypes/invoice.paid"),
            event_type("tenants/b/eventTypes/user.created"),
            api_key(KEY, Role::Publisher, ""),
            api_key("hwk_admin", Role::Admin, ""),
            api_key("hwk_admin_of_a", Role::Admin, "tenants/a"),
            api_key("hwk_tenant_admin", Role::TenantAdmin, "tenants/a"),
            api_key("hwk_publisher_of_b", Role::Publisher, "tenants/b"),
            api_key("hwk_viewer", Role::Viewer, ""),
            api_key("hwk_of_the_future", Role::Unspecified, ""),
            api_key("hwk_admin_of_nothing", Role::TenantAdmin, ""),
        ];
        node.snapshots.send_replace(Some(Arc::new(Snapshot::new(7, resources))));
        node
    }

    fn apply(&self, set: config::ChangeSet) {
        self.snapshots.send_modify(|snapshot| {
            let mut next = Snapshot::clone(snapshot.as_ref().unwrap());
            next.apply(set);
            *snapshot = Some(Arc::new(next));
        });
    }

    async fn call(&self, metadata: &[(&'static str, &str)], request: PublishMessagesRequest) -> Answer {
        let mut request = Request::new(request);
        for (name, value) in metadata {
            request.metadata_mut().append(*name, value.parse().unwrap());
        }
        self.service.publish_messages(request).await.map(Response::into_inner)
    }

    /// Serves on a port, as long as the test lasts.
    async fn serve(&self) -> PublishServiceClient<Channel> {
        let gate = Gate::default();
        gate.open(self.service.clone());
        PublishServiceClient::new(serve(gate).await)
    }

    async fn publish(&self, request: PublishMessagesRequest) -> Answer {
        self.call(&[("authorization", &format!("Bearer {KEY}"))], request).await
    }
}

/// Serves what is behind a gate, as a node does, as long as the test lasts.
async fn serve(gate: Gate) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, None, gate, Settings::default().max_request_bytes, CancellationToken::new()));
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

type Answer = Result<PublishMessagesResponse, Status>;

fn message(text: &str) -> NewMessage {
    NewMessage { event_type: "invoice.paid".into(), payload: Some(Payload::Text(text.into())), ..NewMessage::default() }
}

fn request(messages: impl Into<Vec<NewMessage>>) -> PublishMessagesRequest {
    PublishMessagesRequest { parent: "tenants/a".into(), messages: messages.into(), min_revision: 0 }
}

/// Code and reason of a refusal.
fn refusal(answer: Answer) -> (Code, String) {
    let status = answer.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "hookwire");
    (status.code(), info.reason)
}

/// Fields that a refusal names.
fn fields(answer: Answer) -> Vec<String> {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_ARGUMENT");
    let request = status.get_details_bad_request().unwrap();
    assert!(request.field_violations.iter().all(|violation| !violation.description.is_empty()));
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn payloads_fit_their_schema_where_the_tenant_asks_for_it() {
    let node = Node::new();
    let tenant =
        |validate_payloads| config::Tenant { name: "tenants/a".into(), validate_payloads, ..Default::default() };
    let event_type = config::EventType {
        name: "tenants/a/eventTypes/invoice.paid".into(),
        schema: r#"{"type": "object", "required": ["id"]}"#.into(),
    };
    let resource = |resource| config::Resource { resource: Some(resource) };
    let batch = || request([message(r#"{"id": 1}"#), message("{}"), message("[]")]);
    node.apply(put(8, resource(resource::Resource::EventType(event_type))));
    node.publish(batch()).await.unwrap();
    node.apply(put(9, resource(resource::Resource::Tenant(tenant(true)))));
    assert_eq!(fields(node.publish(batch()).await), ["messages[1].payload", "messages[2].payload"]);
    assert_eq!(node.log.messages().len(), 3, "all of a batch or nothing");
    node.publish(request([message(r#"{"id": 1}"#)])).await.unwrap();
    node.apply(put(10, resource(resource::Resource::Tenant(tenant(false)))));
    node.publish(batch()).await.unwrap();
}

#[tokio::test]
async fn a_batch_is_appended_in_its_order_as_it_was_published() {
    let node = Node::new();
    let chosen = NewMessage {
        message_id: "mine_1".into(),
        payload: Some(Payload::Data(vec![0, 159, 146, 150].into())),
        content_type: "application/octet-stream".into(),
        ordering_key: "Kunde 7".into(),
        ..message("")
    };
    let answer = node.publish(request([message("{\"name\": \"Jürgen\"}"), chosen])).await.unwrap();
    let records = node.log.messages();
    assert_eq!(records.len(), 2);
    let [made, chosen] = &records[..] else { unreachable!() };
    assert_eq!((made.tenant.as_str(), made.event_type.as_str(), made.revision), ("tenants/a", "invoice.paid", 7));
    assert_eq!(
        (&made.payload[..], made.content_type.as_str()),
        ("{\"name\": \"Jürgen\"}".as_bytes(), "application/json")
    );
    assert!(made.message_id.starts_with("msg_") && !made.client_chosen_id && made.ordering_key.is_empty());
    assert!((forward::now_ms() - made.publish_time_ms).abs() < 60_000);
    assert_eq!((chosen.message_id.as_str(), chosen.client_chosen_id), ("mine_1", true));
    assert_eq!(
        (&chosen.payload[..], chosen.content_type.as_str()),
        (&[0, 159, 146, 150][..], "application/octet-stream")
    );
    assert_eq!(chosen.ordering_key, "Kunde 7");
    let names: Vec<_> = answer.results.iter().map(|result| (result.name.clone(), result.error.is_some())).collect();
    assert_eq!(
        names,
        [(format!("tenants/a/messages/{}", made.message_id), false), ("tenants/a/messages/mine_1".to_owned(), false)]
    );
    let placed = node.log.appended.lock().unwrap()[1].clone();
    assert_eq!((placed.topic, &placed.key[..]), (Topic::Messages, "tenants/a\nkKunde 7".as_bytes()));
}

#[tokio::test]
async fn a_time_to_live_is_counted_from_publishing() {
    let node = Node::new();
    let ttl = |seconds| NewMessage { ttl: Some(prost_types::Duration { seconds, nanos: 0 }), ..message("1") };
    node.publish(request([message("1"), ttl(1), ttl(30 * 86_400)])).await.unwrap();
    let lives: Vec<_> = (node.log.messages().iter())
        .map(|record| (record.expire_time_ms != 0).then(|| record.expire_time_ms - record.publish_time_ms))
        .collect();
    assert_eq!(lives, [None, Some(1_000), Some(30 * 86_400_000)]);
}

#[tokio::test(start_paused = true)]
async fn who_has_used_up_the_quota_is_told_when_to_come_back_and_others_do_not_notice() {
    let node = Node::new();
    node.apply(put(8, tenant_with_quota("tenants/a", 10.0, 20)));
    // All of a batch or nothing, also beyond the burst.
    node.publish(request(vec![message("1"); 50])).await.unwrap();
    let status = node.publish(request([message("2")])).await.unwrap_err();
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(retry.as_millis(), 3_100, "30 too many, and the one that is asked for");
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, "tenants/a");
    assert_eq!(refusal(Err(status)), (Code::ResourceExhausted, "QUOTA_EXCEEDED".to_owned()));
    // What is refused uses nothing up.
    node.publish(request([message("no JSON")])).await.unwrap_err();
    let other = NewMessage { event_type: "user.created".into(), ..message("3") };
    let other = PublishMessagesRequest { parent: "tenants/b".into(), ..request([other]) };
    node.publish(other).await.unwrap();
    tokio::time::sleep(retry).await;
    node.publish(request([message("4")])).await.unwrap();
    node.publish(request([message("5")])).await.unwrap_err();
    node.apply(put(9, tenant("tenants/a")));
    node.publish(request([message("6")])).await.unwrap();
    assert_eq!(node.log.messages().len(), 53);
}

#[tokio::test(start_paused = true)]
async fn while_the_log_is_away_calls_are_answered_at_once_and_publishing_goes_on_by_itself() {
    let node = Node::new();
    let away = (Code::Unavailable, "LOG_UNAVAILABLE".to_owned());
    node.log.hold();
    let began = tokio::time::Instant::now();
    let answer = node.publish(request([message("1"), message("2")])).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), Settings::default().append_timeout.as_secs(), "once, not for each message");
    for result in &answer.results {
        let status = tonic_types::Status::decode(&result.error.as_ref().unwrap().encode_to_vec()[..]).unwrap();
        assert_eq!(Code::from_i32(status.code), Code::Unavailable);
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
        assert!(result.name.starts_with("tenants/a/messages/msg_"), "it may be durable: {}", result.name);
    }
    // One call looks whether the log is back; the others need not wait for it.
    let probe = node.publish(request([message("3")]));
    let others = async {
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        let status = node.publish(request([message("4")])).await.unwrap_err();
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
        assert_eq!(refusal(Err(status)), away);
        assert!(began.elapsed().is_zero());
        node.log.release();
    };
    let (answer, ()) = tokio::join!(probe, others);
    assert!(answer.unwrap().results[0].error.is_none());
    let answer = node.publish(request([message("5")])).await.unwrap();
    assert!(answer.results[0].error.is_none());
    let appended: Vec<_> = node.log.messages().into_iter().map(|record| record.payload).collect();
    assert_eq!(appended, ["1", "2", "3", "5"].map(bytes::Bytes::from));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_keep_the_log_from_being_looked_at() {
    let node = Node::new();
    node.log.hold();
    node.publish(request([message("1")])).await.unwrap();
    timeout(Duration::from_secs(1), node.publish(request([message("2")]))).await.expect_err("it waits for the log");
    node.log.release();
    node.publish(request([message("3")])).await.unwrap();
}

#[tokio::test]
async fn a_call_needs_a_key_that_exists() {
    let node = Node::new();
    let missing = (Code::Unauthenticated, "API_KEY_MISSING".to_owned());
    let invalid = (Code::Unauthenticated, "API_KEY_INVALID".to_owned());
    assert_eq!(refusal(node.call(&[], request([message("1")])).await), missing);
    for header in ["", "Bearer", "Bearer ", "Bearer hwk_unknown", "Basic aHdr", KEY, "Bearer hwk_publisher "] {
        let answer = node.call(&[("authorization", header)], request([message("1")])).await;
        assert_eq!(refusal(answer), invalid, "{header:?}");
    }
    // The scheme is case-insensitive.
    node.call(&[("authorization", &format!("bearer {KEY}"))], request([message("1")])).await.unwrap();
    node.apply(config::ChangeSet {
        revision: 8,
        changes: vec![config::Change { change: Some(change::Change::Delete("apiKeys/publisher".into())) }],
    });
    assert_eq!(refusal(node.publish(request([message("1")])).await), invalid);
    assert_eq!(node.log.messages().len(), 1);
}

#[tokio::test]
async fn only_roles_that_may_publish_do_and_only_for_their_tenant() {
    let node = Node::new();
    for (key, tenant, may) in [
        ("hwk_admin", "a", true),
        ("hwk_admin", "b", true),
        ("hwk_publisher", "b", true),
        ("hwk_admin_of_a", "a", true),
        ("hwk_admin_of_a", "b", false),
        ("hwk_tenant_admin", "a", true),
        ("hwk_tenant_admin", "b", false),
        ("hwk_publisher_of_b", "b", true),
        ("hwk_publisher_of_b", "a", false),
        // Whether a tenant exists is not told.
        ("hwk_publisher_of_b", "none", false),
        ("hwk_viewer", "a", false),
        ("hwk_of_the_future", "a", false),
        ("hwk_admin_of_nothing", "a", false),
    ] {
        let event_type = if tenant == "b" { "user.created" } else { "invoice.paid" };
        let batch = [NewMessage { event_type: event_type.into(), ..message("1") }];
        let batch = PublishMessagesRequest { parent: format!("tenants/{tenant}"), ..request(batch) };
        let answer = node.call(&[("authorization", &format!("Bearer {key}"))], batch).await;
        match may {
            true => assert!(answer.is_ok(), "{key} {tenant}"),
            false => {
                assert_eq!(refusal(answer), (Code::PermissionDenied, "PERMISSION_DENIED".into()), "{key} {tenant}");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_tenant_is_not_found() {
    let node = Node::new();
    let answer =
        node.publish(PublishMessagesRequest { parent: "tenants/none".into(), ..request([message("1")]) }).await;
    assert_eq!(refusal(answer), (Code::NotFound, "NOT_FOUND".into()));
}

#[tokio::test]
async fn every_wrong_field_is_named_and_nothing_is_appended() {
    let node = Node::new();
    let ttl = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let wrong: [(&str, NewMessage); 18] = [
        ("ttl", NewMessage { ttl: ttl(0, 999_999_999), ..message("1") }),
        ("ttl", NewMessage { ttl: ttl(-5, 0), ..message("1") }),
        ("ttl", NewMessage { ttl: ttl(30 * 86_400, 1), ..message("1") }),
        ("message_id", NewMessage { message_id: "a.b".into(), ..message("1") }),
        ("message_id", NewMessage { message_id: "x".repeat(65), ..message("1") }),
        ("event_type", NewMessage { event_type: String::new(), ..message("1") }),
        ("event_type", NewMessage { event_type: "a..b".into(), ..message("1") }),
        ("ordering_key", NewMessage { ordering_key: "ä".repeat(129), ..message("1") }),
        ("content_type", NewMessage { content_type: "json".into(), ..message("1") }),
        ("content_type", NewMessage { content_type: "text/plain\r\nx: y".into(), ..message("1") }),
        ("content_type", NewMessage { content_type: format!("text/{}", "x".repeat(124)), ..message("1") }),
        ("payload", NewMessage { payload: None, ..message("") }),
        ("text", message("")),
        ("text", message("{\"a\": 1} x")),
        ("text", NewMessage { content_type: "Application/JSON; charset=utf-8".into(), ..message("no JSON") }),
        ("data", NewMessage { payload: Some(Payload::Data(b"\"\xff\""[..].into())), ..message("") }),
        ("text", message(&format!("\"{}\"", "x".repeat(256 * 1024)))),
        (
            "data",
            NewMessage {
                payload: Some(Payload::Data(vec![0; 256 * 1024 + 1].into())),
                content_type: "image/png".into(),
                ..message("")
            },
        ),
    ];
    for (field, message) in &wrong {
        let batch = request([self::message("1"), message.clone()]);
        assert_eq!(fields(node.publish(batch).await), [format!("messages[1].{field}")], "{:?}", message.content_type);
    }
    let all = request(wrong.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>());
    let expected: Vec<_> = wrong.iter().enumerate().map(|(n, (field, _))| format!("messages[{n}].{field}")).collect();
    assert_eq!(fields(node.publish(all).await), expected);

    let twice = NewMessage { message_id: "one".into(), ..message("1") };
    assert_eq!(fields(node.publish(request([twice.clone(), message("1"), twice])).await), ["messages[2].message_id"]);
    for parent in ["", "a", "tenants/A", "tenants/a/messages/m"] {
        let batch = PublishMessagesRequest { parent: parent.into(), ..request([message("1")]) };
        assert_eq!(fields(node.publish(batch).await), ["parent"], "{parent}");
    }
    let negative = PublishMessagesRequest { min_revision: -1, ..request([]) };
    assert_eq!(fields(node.publish(negative).await), ["min_revision", "messages"]);
    assert_eq!(fields(node.publish(request(vec![message("1"); 1_001])).await), ["messages"]);
    assert!(node.log.messages().is_empty());
    node.publish(request(vec![message("1"); 1_000])).await.unwrap();
}

#[tokio::test]
async fn a_refusal_of_everything_still_fits_into_headers() {
    let node = Node::new();
    let wrong = NewMessage { message_id: "ö".repeat(100), event_type: "ä".into(), payload: None, ..message("") };
    let unregistered = (0..1_000).map(|n| NewMessage { event_type: format!("{n}{}", "x".repeat(120)), ..message("1") });
    for batch in [vec![wrong; 1_000], unregistered.collect()] {
        let status = node.publish(request(batch)).await.unwrap_err();
        // In base64, with the message beside it, within the 8 KiB that the strictest clients take.
        assert!(status.details().len() * 4 / 3 + status.message().len() < 7 * 1024, "{}", status.details().len());
        assert!(status.message().len() < 1024, "{}", status.message());
    }
}

#[tokio::test]
async fn event_types_that_are_not_registered_are_named_with_their_index() {
    let node = Node::new();
    let of = |event_type: &str| NewMessage { event_type: event_type.into(), ..message("1") };
    // Registered with the other tenant only.
    let batch = [of("invoice.paid"), of("user.created"), of("invoice.late"), of("user.created")];
    let status = node.publish(request(batch)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.get_details_error_info().unwrap().reason, "EVENT_TYPE_NOT_REGISTERED");
    let violations = status.get_details_precondition_failure().unwrap().violations;
    let told: Vec<_> = violations.iter().map(|v| (v.subject.as_str(), v.description.as_str())).collect();
    assert_eq!(
        told,
        [
            ("tenants/a/eventTypes/user.created", "messages[1].event_type is not registered"),
            ("tenants/a/eventTypes/invoice.late", "messages[2].event_type is not registered"),
        ]
    );
    assert!(status.message().contains("user.created (messages[1])"), "{}", status.message());
    assert!(node.log.messages().is_empty());
}

#[tokio::test]
async fn the_revision_that_is_asked_for_is_waited_for() {
    let node = Node::with(Settings { revision_timeout: Duration::from_secs(30), ..Settings::default() });
    let batch = [NewMessage { event_type: "invoice.late".into(), ..message("1") }];
    let published = node.publish(PublishMessagesRequest { min_revision: 8, ..request(batch) });
    let applied = async {
        tokio::task::yield_now().await;
        node.apply(put(8, event_type("tenants/a/eventTypes/invoice.late")));
    };
    let (answer, ()) = tokio::join!(published, applied);
    answer.unwrap();
    assert_eq!(node.log.messages()[0].revision, 8);
}

#[tokio::test]
async fn a_key_that_is_as_new_as_the_revision_asked_for_is_known() {
    let node = Node::with(Settings { revision_timeout: Duration::from_secs(30), ..Settings::default() });
    let batch = PublishMessagesRequest { min_revision: 8, ..request([message("1")]) };
    let published = node.call(&[("authorization", "Bearer hwk_fresh")], batch);
    let applied = async {
        tokio::task::yield_now().await;
        node.apply(put(8, api_key("hwk_fresh", Role::Publisher, "")));
    };
    tokio::join!(published, applied).0.unwrap();
}

#[tokio::test]
async fn a_revision_that_does_not_come_is_told_to_those_with_a_key() {
    let node = Node::new();
    let batch = || PublishMessagesRequest { min_revision: 8, ..request([message("1")]) };
    let answer = node.publish(batch()).await;
    assert_eq!(refusal(answer), (Code::Unavailable, "REVISION_NOT_REACHED".into()));
    let answer = node.call(&[("authorization", "Bearer hwk_unknown")], batch()).await;
    assert_eq!(refusal(answer), (Code::Unauthenticated, "API_KEY_INVALID".into()));
}

#[tokio::test]
async fn a_call_with_less_time_is_answered_within_it() {
    let node = Node::with(Settings { revision_timeout: Duration::from_secs(60), ..Settings::default() });
    let batch = PublishMessagesRequest { min_revision: 8, ..request([message("1")]) };
    let metadata = [("authorization", &*format!("Bearer {KEY}")), ("grpc-timeout", "100m")];
    let answer = timeout(Duration::from_secs(20), node.call(&metadata, batch)).await.expect("answers long before 60 s");
    assert_eq!(refusal(answer), (Code::Unavailable, "REVISION_NOT_REACHED".into()));
}

/// Another task applies each write a moment after it was acknowledged, as the watch does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_write_is_judged_with_it() {
    let node = Arc::new(Node::with(Settings { revision_timeout: Duration::from_secs(30), ..Settings::default() }));
    let (written, mut writes) = tokio::sync::mpsc::unbounded_channel::<i64>();
    let watch = tokio::spawn({
        let node = node.clone();
        async move {
            while let Some(revision) = writes.recv().await {
                tokio::task::yield_now().await;
                node.apply(put(revision, event_type(&format!("tenants/a/eventTypes/t{revision}"))));
            }
        }
    });
    for revision in 8..1_008 {
        written.send(revision).unwrap();
        let batch = [NewMessage { event_type: format!("t{revision}"), ..message("1") }];
        node.publish(PublishMessagesRequest { min_revision: revision, ..request(batch) }).await.unwrap();
    }
    drop(written);
    watch.await.unwrap();
    assert!(node.log.messages().iter().zip(8..).all(|(record, revision)| record.revision >= revision));
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_so() {
    let not_ready = (Code::Unavailable, "NOT_READY".to_owned());
    let node = Node::unready(Settings::default());
    assert_eq!(refusal(node.publish(request([message("1")])).await), not_ready);
    let node = Node::new();
    node.draining.cancel();
    assert_eq!(refusal(node.publish(request([message("1")])).await), not_ready);
    // Its watch has ended.
    let Node { service, snapshots, .. } = Node::new();
    drop(snapshots);
    let mut call = Request::new(PublishMessagesRequest { min_revision: 8, ..request([message("1")]) });
    call.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    assert_eq!(refusal(service.publish_messages(call).await.map(Response::into_inner)), not_ready);
}

#[tokio::test]
async fn a_node_that_has_not_begun_says_so_and_begins() {
    let gate = Gate::default();
    let channel = serve(gate.clone()).await;
    let mut client = PublishServiceClient::new(channel.clone());
    let mut health = HealthClient::new(channel);
    let call = || {
        let mut call = Request::new(request([message("1")]));
        call.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        call
    };
    let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let not_ready = (Code::Unavailable, "NOT_READY".to_owned());
    assert_eq!(refusal(client.publish_messages(call()).await.map(Response::into_inner)), not_ready);
    let stream = client.stream_messages(futures::stream::pending()).await;
    assert_eq!(refusal(stream.map(|_| PublishMessagesResponse::default())), not_ready);
    let status = changes.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::NotServing);
    let node = Node::new();
    gate.open(node.service.clone());
    let status = timeout(Duration::from_secs(20), changes.message()).await.unwrap().unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::Serving);
    assert_eq!(client.publish_messages(call()).await.unwrap().into_inner().results.len(), 1);
}

#[tokio::test]
async fn keys_are_refused_once_the_node_is_cut_off_for_too_long() {
    let node = Node::with(Settings { max_staleness: Duration::from_secs(1), ..Settings::default() });
    node.service.config.set_cut_off();
    node.publish(request([message("1")])).await.unwrap();
    let refused = async {
        while node.publish(request([message("1")])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), refused).await.expect("refused after a second");
    assert_eq!(refusal(node.publish(request([message("1")])).await), (Code::Unavailable, "NOT_READY".into()));
    node.service.config.set_current();
    node.publish(request([message("1")])).await.unwrap();
}

#[tokio::test]
async fn each_message_has_a_result_of_its_own_when_the_log_fails_midway() {
    let node = Node::new();
    let down = hookwire_log::Error::Unavailable { detail: "broker 3 at 10.0.0.3 is down".into() };
    *node.log.fails.lock().unwrap() = Some((2, down));
    let answer = node.publish(request(vec![message("1"); 4])).await.unwrap();
    let failed: Vec<_> = answer.results.iter().map(|result| result.error.is_some()).collect();
    assert_eq!(failed, [false, false, true, true]);
    assert!(answer.results.iter().all(|result| result.name.starts_with("tenants/a/messages/msg_")));
    let status: &google_rpc::Status = answer.results[3].error.as_ref().unwrap();
    let status = tonic_types::Status::decode(&status.encode_to_vec()[..]).unwrap();
    assert_eq!(Code::from_i32(status.code), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "LOG_UNAVAILABLE");
    assert!(!status.message.contains("10.0.0.3"), "what is inside is not told: {}", status.message);
}

#[tokio::test]
async fn a_record_that_the_log_refuses_is_an_error_of_ours() {
    let node = Node::new();
    let refused = hookwire_log::Error::Refused { topic: "hookwire.messages".into(), detail: "too large".into() };
    *node.log.fails.lock().unwrap() = Some((0, refused));
    let answer = node.publish(request([message("1")])).await.unwrap();
    assert_eq!(Code::from_i32(answer.results[0].error.as_ref().unwrap().code), Code::Internal);
}

#[tokio::test]
async fn the_callers_trace_goes_on_and_without_one_a_trace_is_begun() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let node = Node::new();
    let key = format!("Bearer {KEY}");
    let key = ("authorization", key.as_str());
    let traced = [key, ("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
    node.call(&traced, request([message("1"), message("2")])).await.unwrap();
    node.call(&[key, ("traceparent", "nonsense"), ("tracestate", "a=1")], request([message("3")])).await.unwrap();
    let traces: Vec<_> =
        node.log.messages().into_iter().map(|record| (record.traceparent, record.tracestate)).collect();
    assert_eq!(traces[0], (PARENT.to_owned(), "a=1,b=2".to_owned()));
    assert_eq!(traces[1], traces[0]);
    assert!(trace::Context::parse(&traces[2].0).is_some() && traces[2].1.is_empty());
}

#[tokio::test]
async fn a_full_batch_goes_over_the_wire_and_a_larger_request_is_refused() {
    let settings = Settings { max_payload_bytes: 1024 * 1024, ..Settings::default() };
    let node = Node::with(settings);
    let client = node.serve().await;
    let call = |megabytes: usize| {
        let mut request =
            Request::new(request(vec![message(&format!("\"{}\"", "x".repeat(1024 * 1024 - 2))); megabytes]));
        request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        let mut client = client.clone();
        async move { client.publish_messages(request).await }
    };
    assert_eq!(call(15).await.unwrap().into_inner().results.len(), 15);
    assert_eq!(call(17).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(node.log.messages().len(), 15);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let default = Settings::default;
    for (settings, name) in [
        (Settings { max_payload_bytes: 2 * 1024 * 1024, ..default() }, "publish.max_payload_bytes"),
        (Settings { max_request_bytes: 1024, ..default() }, "publish.max_request_bytes"),
        (Settings { revision_timeout: Duration::from_secs(61), ..default() }, "publish.revision_timeout"),
        (Settings { max_staleness: Duration::ZERO, ..default() }, "publish.max_staleness"),
        (Settings { append_timeout: Duration::ZERO, ..default() }, "publish.append_timeout"),
        (Settings { max_in_flight: 0, ..default() }, "publish.max_in_flight must"),
        (Settings { max_in_flight_bytes: 0, ..default() }, "publish.max_in_flight_bytes"),
        (Settings { tenant_messages_per_second: f64::NAN, ..default() }, "publish.tenant_messages_per_second"),
        (Settings { tenant_messages_per_second: -1.0, ..default() }, "publish.tenant_messages_per_second"),
    ] {
        assert!(settings.validate().unwrap_err().to_string().starts_with(name), "{name}");
    }
    default().validate().unwrap();
}

proptest! {
    /// Whatever is in a message, the answer is a refusal that names fields, or the message as it was.
    #[test]
    fn any_message_is_refused_by_field_or_taken_as_it_is(
        id in "\\PC{0,70}", event_type in "\\PC{0,20}|invoice\\.paid", text in "\\PC{0,30}|[0-9]{1,5}",
        content_type in "|application/json|\\PC{0,20}", ordering_key in "\\PC{0,140}",
    ) {
        let node = Node::new();
        let snapshot = node.service.config.current().unwrap();
        let caller = snapshot.api_key(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()).as_ref()).unwrap();
        let new = NewMessage { message_id: id.clone(), event_type, payload: Some(Payload::Text(text.clone())), content_type, ordering_key, ttl: None };
        match validate::batch(request([new]), &snapshot, caller, 1_000) {
            Ok(valid) => prop_assert!(valid[0].payload == text && (id.is_empty() || valid[0].id == id)),
            Err(Error::Invalid { violations }) => {
                prop_assert!(violations.iter().all(|violation| violation.field.starts_with("messages[0].")));
            }
            Err(Error::EventTypesNotRegistered { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
