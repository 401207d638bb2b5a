//! `StreamMessages` over a connection.

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::support::eventually;

/// A stream as its caller has it.
struct Caller {
    requests: Option<mpsc::UnboundedSender<StreamMessagesRequest>>,
    responses: Streaming<StreamMessagesResponse>,
    told: i64,
}

impl Caller {
    async fn open(node: &Node, key: &str) -> Result<Self, Status> {
        let mut client = node.serve().await;
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(receiver));
        if !key.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        let responses = client.stream_messages(request).await?.into_inner();
        Ok(Self { requests: Some(requests), responses, told: 0 })
    }

    fn send(&self, messages: impl Into<Vec<NewMessage>>) {
        self.send_request(StreamMessagesRequest {
            parent: "tenants/a".into(),
            messages: messages.into(),
            min_revision: 0,
        });
    }

    fn send_request(&self, request: StreamMessagesRequest) {
        self.requests.as_ref().unwrap().send(request).unwrap();
    }

    /// Sends nothing more.
    fn close(&mut self) {
        self.requests = None;
    }

    /// The next `count` results: their names, or the reasons of their errors.
    async fn results(&mut self, count: usize) -> Vec<Result<String, String>> {
        let mut results = Vec::new();
        while results.len() < count {
            let response = self.responses.message().await.unwrap().expect("the stream goes on");
            assert_eq!(response.first, self.told, "no gap and no repetition");
            self.told += i64::try_from(response.results.len()).unwrap();
            results.extend(response.results.into_iter().map(|result| match result.error {
                None => Ok(result.name),
                Some(error) => {
                    let status = tonic_types::Status::decode(&error.encode_to_vec()[..]).unwrap();
                    Err(status.get_details_error_info().unwrap().reason)
                }
            }));
        }
        assert_eq!(results.len(), count);
        results
    }

    /// How the stream ends: code and reason.
    async fn end(mut self) -> Result<(), (Code, String)> {
        match self.responses.message().await {
            Ok(None) => Ok(()),
            Ok(Some(response)) => panic!("more results: {response:?}"),
            Err(status) => Err((status.code(), status.get_details_error_info().unwrap().reason)),
        }
    }
}

fn with_id(id: &str) -> NewMessage {
    NewMessage { message_id: id.into(), ..message("1") }
}

fn named(id: &str) -> Result<String, String> {
    Ok(format!("tenants/a/messages/{id}"))
}

fn unauthenticated() -> (Code, String) {
    (Code::Unauthenticated, "API_KEY_INVALID".into())
}

fn delete(revision: i64, name: &str) -> config::ChangeSet {
    let change = config::Change { change: Some(change::Change::Delete(name.into())) };
    config::ChangeSet { revision, changes: vec![change] }
}

#[tokio::test]
async fn each_message_has_its_result_in_its_turn_and_a_wrong_one_harms_no_other() {
    let node = Node::new();
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    caller.send([with_id("m-0"), message("no JSON"), with_id("m-2")]);
    caller.send([NewMessage { event_type: "user.created".into(), ..with_id("m-3") }]);
    // The tenant need not be named again; bytes are what they are.
    let binary = NewMessage {
        payload: Some(Payload::Data(vec![0, 159, 146, 150].into())),
        content_type: "application/octet-stream".into(),
        ..with_id("m-4")
    };
    caller.send_request(StreamMessagesRequest { messages: vec![binary, with_id("m-5")], ..Default::default() });
    let expected = [
        named("m-0"),
        Err("INVALID_ARGUMENT".to_owned()),
        named("m-2"),
        Err("EVENT_TYPE_NOT_REGISTERED".to_owned()),
        named("m-4"),
        named("m-5"),
    ];
    assert_eq!(caller.results(6).await, expected);
    caller.close();
    assert_eq!(caller.end().await, Ok(()));
    let records = node.log.messages();
    let appended: Vec<_> = records.iter().map(|record| record.message_id.as_str()).collect();
    assert_eq!(appended, ["m-0", "m-2", "m-4", "m-5"]);
    assert_eq!(records[2].payload, [0, 159, 146, 150][..]);
}

#[tokio::test]
async fn what_was_sent_before_the_caller_closed_its_side_is_acknowledged() {
    let node = Node::new();
    node.log.hold();
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    caller.send([with_id("m-0"), with_id("m-1")]);
    caller.close();
    eventually("both are appended", async || node.log.messages().len() == 2).await;
    node.log.release();
    assert_eq!(caller.results(2).await, [named("m-0"), named("m-1")]);
    assert_eq!(caller.end().await, Ok(()));
}

#[tokio::test]
async fn no_more_is_read_while_too_much_is_not_acknowledged() {
    let of_bytes = Settings { max_in_flight_bytes: 3, ..Settings::default() };
    for settings in [Settings { max_in_flight: 3, ..Settings::default() }, of_bytes] {
        let node = Node::with(settings);
        node.log.hold();
        let mut caller = Caller::open(&node, KEY).await.unwrap();
        (0..100).for_each(|n| caller.send([with_id(&format!("m-{n}"))]));
        eventually("as many as may be are appended", async || node.log.messages().len() == 3).await;
        node.log.release();
        node.log.hold();
        eventually("and as many again", async || node.log.messages().len() == 6).await;
        node.log.release();
        assert_eq!(caller.results(100).await, (0..100).map(|n| named(&format!("m-{n}"))).collect::<Vec<_>>());
        assert_eq!(node.log.held.lock().unwrap().most, 3);
    }
}

#[tokio::test]
async fn a_stream_whose_key_is_revoked_ends_and_acknowledges_what_was_appended() {
    let node = Node::new();
    node.log.hold();
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    caller.send([with_id("m-0"), with_id("m-1")]);
    eventually("both are appended", async || node.log.messages().len() == 2).await;
    // What does not touch the key does not touch the stream.
    node.apply(put(8, event_type("tenants/a/eventTypes/invoice.late")));
    node.apply(delete(9, "apiKeys/publisher"));
    caller.send([with_id("m-2")]);
    node.log.release();
    assert_eq!(caller.results(2).await, [named("m-0"), named("m-1")]);
    assert_eq!(caller.end().await, Err(unauthenticated()));
    assert_eq!(node.log.messages().len(), 2);
}

#[tokio::test]
async fn a_stream_ends_that_nobody_writes_to_when_its_key_is_revoked_or_its_tenant_deleted() {
    for (name, end) in
        [("apiKeys/publisher", unauthenticated()), ("tenants/a", (Code::NotFound, "NOT_FOUND".to_owned()))]
    {
        let node = Node::new();
        let mut caller = Caller::open(&node, KEY).await.unwrap();
        caller.send([with_id("m-0")]);
        caller.results(1).await;
        node.apply(delete(8, name));
        assert_eq!(caller.end().await, Err(end), "{name}");
    }
}

#[tokio::test]
async fn a_stream_is_told_that_its_node_shuts_down_after_what_was_appended_is_acknowledged() {
    let node = Node::new();
    node.log.hold();
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    caller.send([with_id("m-0")]);
    eventually("it is appended", async || node.log.messages().len() == 1).await;
    node.draining.cancel();
    caller.send([with_id("m-1")]);
    node.log.release();
    assert_eq!(caller.results(1).await, [named("m-0")]);
    assert_eq!(caller.end().await, Err((Code::Unavailable, "NOT_READY".into())));
    assert_eq!(node.log.messages().len(), 1);
}

#[tokio::test]
async fn a_stream_is_authorized_as_a_call_is() {
    let node = Node::new();
    let refused = Caller::open(&node, "").await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let denied = (Code::PermissionDenied, "PERMISSION_DENIED".to_owned());
    for (key, parent, end) in [
        ("hwk_unknown", "tenants/a", unauthenticated()),
        ("hwk_unknown", "nonsense", unauthenticated()),
        ("hwk_viewer", "tenants/a", denied.clone()),
        ("hwk_publisher_of_b", "tenants/a", denied.clone()),
        ("hwk_publisher_of_b", "tenants/none", denied),
        (KEY, "tenants/none", (Code::NotFound, "NOT_FOUND".to_owned())),
        (KEY, "", (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned())),
    ] {
        let caller = Caller::open(&node, key).await.unwrap();
        let messages = vec![message("1")];
        caller.send_request(StreamMessagesRequest { parent: parent.into(), messages, min_revision: 0 });
        assert_eq!(caller.end().await, Err(end), "{key} {parent}");
    }
    assert!(node.log.messages().is_empty());
}

#[tokio::test]
async fn a_request_that_is_none_ends_the_stream() {
    let of = |parent: &str, count, min_revision| StreamMessagesRequest {
        parent: parent.into(),
        messages: vec![message("1"); count],
        min_revision,
    };
    for wrong in [of("tenants/b", 1, 0), of("", 1_001, 0), of("", 1, -1)] {
        let node = Node::new();
        let mut caller = Caller::open(&node, KEY).await.unwrap();
        caller.send([with_id("m-0")]);
        caller.send_request(wrong);
        assert_eq!(caller.results(1).await, [named("m-0")]);
        assert_eq!(caller.end().await, Err((Code::InvalidArgument, "INVALID_ARGUMENT".into())));
    }
}

#[tokio::test]
async fn messages_wait_for_the_revision_that_they_ask_for_and_those_before_them_do_not() {
    let node = Node::with(Settings { revision_timeout: Duration::from_secs(30), ..Settings::default() });
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    caller.send([with_id("m-0")]);
    let late = NewMessage { event_type: "invoice.late".into(), ..with_id("m-1") };
    caller.send_request(StreamMessagesRequest { messages: vec![late], min_revision: 8, ..Default::default() });
    caller.send([with_id("m-2")]);
    assert_eq!(caller.results(1).await, [named("m-0")]);
    node.apply(put(8, event_type("tenants/a/eventTypes/invoice.late")));
    assert_eq!(caller.results(2).await, [named("m-1"), named("m-2")]);
    assert_eq!(node.log.messages()[1].revision, 8);
}

#[tokio::test]
async fn a_revision_that_does_not_come_is_the_result_of_those_who_asked_for_it() {
    let node = Node::new();
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    let parent = "tenants/a".to_owned();
    caller.send_request(StreamMessagesRequest { parent, messages: vec![message("1"), message("2")], min_revision: 8 });
    caller.send_request(StreamMessagesRequest { messages: vec![with_id("m-2")], ..Default::default() });
    let late = || Err("REVISION_NOT_REACHED".to_owned());
    assert_eq!(caller.results(3).await, [late(), late(), named("m-2")]);
}

#[tokio::test]
async fn a_log_that_is_away_is_the_result_of_messages_until_it_is_back() {
    let node = Node::with(Settings { append_timeout: Duration::from_millis(100), ..Settings::default() });
    node.log.hold();
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    caller.send([with_id("m-0"), with_id("m-1")]);
    let away = || Err("LOG_UNAVAILABLE".to_owned());
    assert_eq!(caller.results(2).await, [away(), away()]);
    // Another call is to see whether it is back, so this is not appended, and what is wrong with a message is told all the same.
    let probe = node.service.circuit.admit().unwrap();
    assert!(probe.is_some());
    caller.send([with_id("m-2"), message("no JSON")]);
    assert_eq!(caller.results(2).await, [away(), Err("INVALID_ARGUMENT".to_owned())]);
    assert_eq!(node.log.messages().len(), 2);
    drop(probe);
    node.log.release();
    caller.send([with_id("m-3")]);
    assert_eq!(caller.results(1).await, [named("m-3")]);
}

#[tokio::test]
async fn a_stream_over_its_quota_waits_and_loses_nothing() {
    let node = Node::new();
    node.apply(put(8, tenant_with_quota("tenants/a", 100.0, 1)));
    let mut caller = Caller::open(&node, KEY).await.unwrap();
    let began = std::time::Instant::now();
    (0..20).for_each(|n| caller.send([with_id(&format!("m-{n}"))]));
    assert_eq!(caller.results(20).await, (0..20).map(|n| named(&format!("m-{n}"))).collect::<Vec<_>>());
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stream_that_waits_for_its_quota_is_told_of_what_ends_it() {
    for (name, end) in [("apiKeys/publisher", unauthenticated()), ("", (Code::Unavailable, "NOT_READY".to_owned()))] {
        let node = Node::new();
        node.apply(put(8, tenant_with_quota("tenants/a", 0.01, 1)));
        let mut caller = Caller::open(&node, KEY).await.unwrap();
        caller.send([with_id("m-0")]);
        caller.send([with_id("m-1")]);
        assert_eq!(caller.results(1).await, [named("m-0")]);
        match name {
            "" => node.draining.cancel(),
            name => node.apply(delete(9, name)),
        }
        assert_eq!(caller.end().await, Err(end));
        assert_eq!(node.log.messages().len(), 1);
    }
}
