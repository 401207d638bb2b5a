//! What fails is tried again through the tiers, what never succeeds ends as a dead letter, and a recipient in trouble
//! holds up nobody else.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use hookwire_log::{Topic, codec};
use hookwire_proto::log::DeadReason;
use hookwire_proto::v1::{ListAttemptsRequest, NewMessage};
use hookwire_tests::api::{message, secret_of};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::receiver::{Arrival, Behaviour};
use hookwire_tests::verifier::{Expectation, Verifiers};
use hookwire_tests::{on_both_shapes, say, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
/// The longest attempt timeout that there is: time enough for the others to have had all that is theirs, on any machine.
const PATIENT: Duration = Duration::from_secs(60);

/// Three attempts, a second between them.
fn short_schedule() -> Options {
    Options::default().schedule(&[0, 1000, 1000], &[500, 2000])
}

fn patient() -> Options {
    Options::default().set("deliver.attempt_timeout", format!("{}s", PATIENT.as_secs()))
}

fn gaps(arrivals: &[Arrival]) -> Vec<u64> {
    arrivals.windows(2).map(|pair| pair[1].time_ms - pair[0].time_ms).collect()
}

fn attempts(arrivals: &[Arrival]) -> Vec<&str> {
    arrivals.iter().map(|arrival| arrival.header("webhook-attempt")).collect()
}

async fn failures_are_tried_again(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let publisher = cluster.publisher()?;
    let tenant = control.new_tenant(&["r.twice", "r.close", "r.patience"]).await?;
    let receiver = &cluster.receiver;
    receiver.script("/twice", [Behaviour::status(500), Behaviour::status(302)], Behaviour::status(204));
    receiver.script("/close", [Behaviour::Close], Behaviour::status(200));
    receiver.script("/patience", [Behaviour::retry_after(429, "3")], Behaviour::status(200));
    let subscription = control.subscribe(&tenant, &receiver.url("/twice"), &["r.twice"]).await?;
    control.subscribe(&tenant, &receiver.url("/close"), &["r.close"]).await?;
    let revision = control.subscribe(&tenant, &receiver.url("/patience"), &["r.patience"]).await?.revision;
    for event_type in ["r.twice", "r.close", "r.patience"] {
        publisher.publish_one(&tenant, event_type, r#"{"tried":"again"}"#, revision).await?;
    }

    let twice = receiver.wait("/twice", 3, LIMIT).await?;
    ensure!(attempts(&twice) == ["1", "2", "3"]);
    ensure!(twice.iter().all(|arrival| arrival.id() == twice[0].id() && arrival.body == twice[0].body));
    // The delay less its jitter.
    ensure!(gaps(&twice).iter().all(|gap| *gap >= 850), "{:?}", gaps(&twice));
    // Each attempt is signed anew.
    let expected = Expectation { secret: secret_of(&subscription)?, audience: receiver.origin() };
    let mut tokens = HashSet::new();
    let mut verifiers = Verifiers::start()?;
    for arrival in &twice {
        let claims = verifiers.accept(arrival, &expected).await?;
        ensure!(tokens.insert(claims["jti"].to_string()), "the same token twice");
    }

    let close = receiver.wait("/close", 2, LIMIT).await?;
    ensure!(attempts(&close) == ["1", "2"]);
    let patience = receiver.wait("/patience", 2, LIMIT).await?;
    ensure!(gaps(&patience)[0] >= 3_000, "retry-after was 3 s: {:?}", gaps(&patience));
    say(&format!("retries, {:?}: gaps {:?} and {:?} ms", cluster.shape, gaps(&twice), gaps(&patience)));
    Ok(())
}

/// A delay in which the partitions of nodes that were killed have owners again.
const LONG_DELAY: Duration = Duration::from_secs(20);

async fn delays_are_kept_though_every_node_is_killed(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["k.event"]).await?;
    // Over several partitions, of `deliveries` and of the tiers.
    let paths: Vec<String> = (0..8).map(|number| format!("/kept-{number}")).collect();
    let mut revision = 0;
    for path in &paths {
        cluster.receiver.script(path, [Behaviour::status(500)], Behaviour::status(200));
        revision = control.subscribe(&tenant, &cluster.receiver.url(path), &["k.event"]).await?.revision;
    }
    cluster.publisher()?.publish_one(&tenant, "k.event", "{}", revision).await?;
    for path in &paths {
        cluster.receiver.wait(path, 1, LIMIT).await?;
    }
    // Then what follows from them is in the log: an attempt that was lost with its node is made again at once.
    wait_until("the attempts are recorded", LIMIT, async || {
        let parent = format!("{tenant}/messages/-");
        let request = ListAttemptsRequest { parent, page_size: 100, ..ListAttemptsRequest::default() };
        Ok(control.attempts().list_attempts(request).await?.into_inner().attempts.len() == paths.len())
    })
    .await?;
    let members = if cluster.nodes.is_empty() { &mut cluster.control_planes } else { &mut cluster.nodes };
    for member in members.iter_mut() {
        member.process.kill()?;
    }
    for member in members {
        member.restart().await?;
    }
    let mut waited = Vec::new();
    for path in &paths {
        // Should the end of the first not be committed, it is made once more.
        let time_of = |attempt: &str| {
            let arrivals = cluster.receiver.arrivals(path);
            arrivals.iter().find(|arrival| arrival.header("webhook-attempt") == attempt).map(|arrival| arrival.time_ms)
        };
        wait_until(&format!("{path} is tried again"), LONG_DELAY + LIMIT, async || Ok(time_of("2").is_some())).await?;
        waited.extend(time_of("2").zip(time_of("1")).map(|(second, first)| second - first));
    }
    say(&format!("delays of {LONG_DELAY:?} over kill -9 of every node, {:?}: {waited:?} ms", cluster.shape));
    let delay = u64::try_from(LONG_DELAY.as_millis())?;
    ensure!(waited.iter().all(|waited| (delay * 9 / 10..=delay * 11 / 10).contains(waited)), "{waited:?}");
    Ok(())
}

async fn the_end_of_the_schedule_is_a_dead_letter(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let publisher = cluster.publisher()?;
    let tenant = control.new_tenant(&["d.never", "d.gone"]).await?;
    let receiver = &cluster.receiver;
    receiver.script("/never", [], Behaviour::status(503));
    receiver.script("/gone", [], Behaviour::status(410));
    control.subscribe(&tenant, &receiver.url("/never"), &["d.never"]).await?;
    let revision = control.subscribe(&tenant, &receiver.url("/gone"), &["d.gone"]).await?.revision;
    let never = publisher.publish_one(&tenant, "d.never", "{}", revision).await?;
    let gone = publisher.publish_one(&tenant, "d.gone", "{}", revision).await?;
    ensure!(attempts(&receiver.wait("/never", 3, LIMIT).await?) == ["1", "2", "3"]);
    receiver.wait("/gone", 1, LIMIT).await?;
    // Longer than another attempt would take.
    let more = receiver.wait("/never", 4, Duration::from_secs(4)).await;
    ensure!(more.is_err(), "a fourth attempt of three");
    ensure!(receiver.arrivals("/gone").len() == 1, "another attempt after 410");

    let dead = dead_letters(cluster).await?;
    let expected = [(never, (DeadReason::Exhausted, Some(503))), (gone, (DeadReason::Gone, Some(410)))];
    ensure!(dead == BTreeMap::from(expected), "the dead letters are {dead:?}");
    Ok(())
}

async fn a_message_does_not_outlive_its_time(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["l.event"]).await?;
    let receiver = &cluster.receiver;
    receiver.script("/down", [], Behaviour::Close);
    let revision = control.subscribe(&tenant, &receiver.url("/down"), &["l.event"]).await?.revision;
    let ttl = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let of = |id: &str, ttl| NewMessage { message_id: id.into(), ttl, ..message("l.event", "{}") };
    let batch = vec![of("short", ttl(2)), of("long", ttl(86_400)), of("none", None)];
    cluster.publisher()?.publish(&tenant, batch, revision).await?;
    // All three attempts of two, and what the other has until its time is over.
    wait_until("two have used up the schedule", LIMIT, async || {
        let arrivals = receiver.arrivals("/down");
        let all = |id| arrivals.iter().filter(|arrival| arrival.id() == id).count() == 3;
        Ok(all("long") && all("none"))
    })
    .await?;
    receiver.quiet(Duration::from_secs(2), LIMIT).await?;
    let arrivals = receiver.arrivals("/down");
    let short: Vec<_> = arrivals.iter().filter(|arrival| arrival.id() == "short").cloned().collect();
    ensure!(attempts(&short).len() < 3, "an attempt after its time: {:?}", gaps(&short));

    let dead = dead_letters(cluster).await?;
    let reasons: Vec<_> = dead.iter().map(|(id, (reason, _))| (id.as_str(), *reason)).collect();
    let (exhausted, expired) = (DeadReason::Exhausted, DeadReason::Expired);
    ensure!(reasons == [("long", exhausted), ("none", exhausted), ("short", expired)], "{reasons:?}");
    Ok(())
}

/// Why each message is dead, and the status of its last attempt.
async fn dead_letters(cluster: &mut Cluster) -> Result<BTreeMap<String, (DeadReason, Option<i32>)>> {
    let log = cluster.open_log().await?;
    let mut dead = BTreeMap::new();
    for partition in 0..log.layout().partitions(Topic::DeadLetters) {
        let bounds = log.bounds(Topic::DeadLetters, partition).await?;
        let mut next = bounds.low;
        while next < bounds.next {
            for record in log.read(Topic::DeadLetters, partition, next, 100, 1 << 20).await? {
                next = record.offset + 1;
                let delivery = codec::decode_delivery(&record)?;
                let last = delivery.last_attempt.and_then(|attempt| attempt.result);
                let reason = delivery.dead.map(|dead| dead.reason()).unwrap_or_default();
                dead.insert(delivery.message_id, (reason, last.map(|last| last.status)));
            }
        }
    }
    log.close().await;
    Ok(dead)
}

async fn a_troubled_recipient_holds_up_nobody(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let publisher = cluster.publisher()?;
    let tenant = control.new_tenant(&["t.event"]).await?;
    let receiver = &cluster.receiver;
    receiver.script("/hangs", [], Behaviour::Hang);
    receiver.script("/fails", [], Behaviour::status(500));
    receiver.script("/slow", [], Behaviour::slow(Duration::from_secs(5)));
    let mut revision = 0;
    // Several of the good ones, so that some share a partition with the bad ones.
    let good: Vec<String> = (0..12).map(|number| format!("/good-{number}")).collect();
    for path in ["/hangs", "/fails", "/slow"].into_iter().chain(good.iter().map(String::as_str)) {
        revision = control.subscribe(&tenant, &receiver.url(path), &["t.event"]).await?.revision;
    }
    let messages = 300;
    let start = hookwire_tests::receiver::now_ms();
    let batch = (0..messages).map(|number| message("t.event", format!(r#"{{"number":{number}}}"#))).collect();
    let results = publisher.publish(&tenant, batch, revision).await?;
    ensure!(results.iter().all(|result| result.error.is_none()));
    let mut slowest = 0;
    for path in &good {
        let arrivals = receiver.wait(path, messages, PATIENT - Duration::from_secs(5)).await?;
        slowest = slowest.max(arrivals.iter().map(|arrival| arrival.time_ms).max().unwrap_or_default() - start);
    }
    // None has timed out yet: what holds up others does so for as long.
    let hanging = receiver.arrivals("/hangs").len();
    ensure!((1..=20).contains(&hanging), "{hanging} requests to the one that hangs, and 20 is the limit");
    say(&format!("isolation, {:?}: the last of {} good deliveries after {slowest} ms", cluster.shape, 12 * messages));
    Ok(())
}

on_both_shapes!(again, short_schedule(), failures_are_tried_again);
on_both_shapes!(
    restarts,
    Options { nodes: 2, ..Options::default() }.schedule(&[0, 20_000, 1000], &[500, 2000, 8000]),
    delays_are_kept_though_every_node_is_killed
);
on_both_shapes!(dead_letters, short_schedule(), the_end_of_the_schedule_is_a_dead_letter);
on_both_shapes!(
    time_to_live,
    Options::default().schedule(&[0, 1500, 1500], &[500, 2000]),
    a_message_does_not_outlive_its_time
);
on_both_shapes!(isolation, patient(), a_troubled_recipient_holds_up_nobody);
