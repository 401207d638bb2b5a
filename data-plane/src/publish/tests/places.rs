//! Tenants that are not alone wait for a place before their messages are appended.

use std::ops::Range;

use super::*;

/// A message of `b`, so that `a` is not alone.
async fn publish_of_b(node: &Node) -> PublishMessagesResponse {
    let of_b = NewMessage { event_type: "user.created".into(), ..message("{}") };
    node.publish(PublishMessagesRequest { parent: "tenants/b".into(), ..request([of_b]) }).await.unwrap()
}

fn numbered(range: Range<usize>) -> PublishMessagesRequest {
    request(range.map(|number| message(&number.to_string())).collect::<Vec<_>>())
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_not_alone_has_so_many_messages_with_the_log_at_a_time() {
    let node = Node::new();
    publish_of_b(&node).await;
    node.log.hold();
    let (first, second) = (node.publish(numbered(0..300)), node.publish(numbered(300..500)));
    let others = async {
        tokio::task::yield_now().await;
        assert_eq!(node.log.messages().len(), 1 + share::SHARED, "those of both calls together");
        let of_b = publish_of_b(&node);
        tokio::pin!(of_b);
        assert!(futures::poll!(&mut of_b).is_pending());
        assert_eq!(node.log.messages().len(), 2 + share::SHARED, "others wait for none of them");
        node.log.release();
        of_b.await;
    };
    let (first, second, ()) = tokio::join!(first, second, others);
    for (answer, range) in [(first, 0..300), (second, 300..500)] {
        let results = answer.unwrap().results;
        assert!(results.iter().all(|result| result.error.is_none()));
        let appended = node.log.messages();
        let place = |name: &str| appended.iter().position(|record| name.ends_with(&record.message_id)).unwrap();
        let places: Vec<_> = results.iter().map(|result| place(&result.name)).collect();
        assert!(places.is_sorted(), "in their order: {places:?}");
        let payloads: Vec<_> = places.iter().map(|place| appended[*place].payload.clone()).collect();
        assert_eq!(payloads, range.map(|number| number.to_string()).collect::<Vec<_>>());
    }
    let most = node.log.held.lock().unwrap().most;
    assert_eq!(most, 1 + share::SHARED);
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_has_any_number_of_messages_with_the_log() {
    let node = Node::new();
    publish_of_b(&node).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    node.log.hold();
    let others = async {
        tokio::task::yield_now().await;
        assert_eq!(node.log.messages().len(), 1 + 500);
        node.log.release();
    };
    tokio::join!(node.publish(numbered(0..500)), others).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_place_is_refused_when_the_log_turns_out_to_be_away() {
    let node = Node::new();
    publish_of_b(&node).await;
    tokio::time::advance(Duration::from_millis(10)).await;
    node.log.hold();
    let began = tokio::time::Instant::now();
    let results = node.publish(numbered(0..200)).await.unwrap().results;
    assert_eq!(began.elapsed().as_secs(), Settings::default().append_timeout.as_secs(), "no longer than the first");
    let (appended, refused) = results.split_at(share::SHARED);
    assert!(appended.iter().all(|result| !result.name.is_empty() && result.error.is_some()), "they may be durable");
    for result in refused {
        let status = tonic_types::Status::decode(&result.error.as_ref().unwrap().encode_to_vec()[..]).unwrap();
        assert_eq!(status.get_details_error_info().unwrap().reason, "LOG_UNAVAILABLE");
        assert_eq!(result.name, "", "it is not in the log");
    }
    assert_eq!((refused.len(), node.log.messages().len()), (200 - share::SHARED, 1 + share::SHARED));
    node.log.release();
    node.publish(numbered(0..1)).await.unwrap();
}
