//! An ordered subscription gets the messages of each ordering key one after another, whatever fails and whoever is killed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hookwire_proto::v1::Subscription;
use hookwire_tests::cluster::{Cluster, Options, Shape};
use hookwire_tests::publisher::{Load, Publisher};
use hookwire_tests::receiver::{Arrival, Behaviour};
use hookwire_tests::{is_full, on_both_shapes, say, wait_until};

/// Ordering keys.
const KEYS: usize = 10;
/// How long everything may take to arrive after the last kill.
const DRAIN: Duration = Duration::from_secs(120);

fn options() -> Options {
    // More attempts than can fail, so that nothing ends as a dead letter.
    let delays: Vec<u64> = std::iter::once(0).chain([200; 30]).collect();
    Options { nodes: 2, ..Options::default() }.schedule(&delays, &[500, 2_000])
}

/// Checks the order in which messages `{run}-{number}` arrived: each comes only when the one before it of its key has been taken. How
/// many keys there were, and how many arrivals beyond that.
fn check(arrivals: &[Arrival]) -> Result<(usize, usize)> {
    // By key: the latest message, and whether it has been taken.
    let mut latest: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    let mut repeated = 0;
    for (at, arrival) in arrivals.iter().enumerate() {
        let number: usize = arrival.id().rsplit_once('-').context("an id of ours")?.1.parse()?;
        let is_taken = arrival.status == 200;
        match latest.get_mut(&(number % KEYS)) {
            Some((latest, was_taken)) if number == *latest => {
                repeated += usize::from(*was_taken);
                *was_taken |= is_taken;
            }
            // It was taken, and its sender did not live to know.
            Some((latest, _)) if number < *latest => repeated += 1,
            Some(known @ (_, true)) if number == known.0 + KEYS => *known = (number, is_taken),
            None if number < KEYS => drop(latest.insert(number, (number, is_taken))),
            known => bail!("{} came as number {at}, when of its key there was {known:?}", arrival.id()),
        }
    }
    Ok((latest.len(), repeated))
}

#[test]
fn the_checker_finds_what_is_out_of_order() {
    let arrival = |(number, status): &(usize, u16)| Arrival {
        time_ms: 0,
        path: "/".into(),
        method: "POST".into(),
        headers: [("webhook-id".parse().expect("a name"), format!("run-{number}").parse().expect("a value"))]
            .into_iter()
            .collect(),
        body: bytes::Bytes::new(),
        source: [127, 0, 0, 1].into(),
        status: *status,
    };
    let of = |arrivals: &[(usize, u16)]| check(&arrivals.iter().map(arrival).collect::<Vec<_>>());
    assert_eq!(of(&[(0, 500), (1, 200), (0, 200), (10, 200), (0, 500), (20, 0)]).expect("in order"), (2, 1));
    for wrong in [&[(0, 200), (20, 200)][..], &[(0, 500), (10, 200)], &[(10, 200)], &[(0, 0), (10, 200), (0, 200)]] {
        assert!(of(wrong).is_err(), "{wrong:?}");
    }
}

async fn order_survives_kills_and_rebalances(cluster: &mut Cluster) -> Result<()> {
    let (messages, kills) = if is_full() { (10_000, 10) } else { (1_500, 3) };
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["order.a", "order.b"]).await?;
    let receiver = &cluster.receiver;
    let mut revision = 0;
    for path in ["/well", "/ill"] {
        let ordered = Subscription {
            url: receiver.url(path),
            event_types: vec!["*".into()],
            ordered: true,
            ..Subscription::default()
        };
        revision = control.subscribe_as(&tenant, ordered).await?.revision;
    }
    // A third of its answers is none that one wants.
    let some = (0..messages / 5).map(|n| match n % 6 {
        0 => Behaviour::status(500),
        3 => Behaviour::Close,
        4 => Behaviour::slow(Duration::from_millis(30)),
        _ => Behaviour::status(200),
    });
    receiver.script("/ill", some, Behaviour::status(200));
    let event_types = vec!["order.a".into(), "order.b".into()];
    let load = Load {
        tenant,
        event_types,
        min_revision: revision,
        messages,
        batch: KEYS,
        per_second: 150,
        bytes: 300,
        keys: KEYS,
    };
    let publisher = Publisher::start(cluster.publishers()?, load, cluster.directory.path())?;
    for kill in 0..kills {
        let moment = messages * (kill + 1) / (kills + 1);
        wait_until("so many are acknowledged", DRAIN, async || Ok(publisher.acknowledged() >= moment)).await?;
        let member = match cluster.shape {
            Shape::Embedded => &mut cluster.control_planes[0],
            Shape::Production => &mut cluster.nodes[kill % 2],
        };
        // One that is told to leaves its partitions in good order.
        match kill % 3 {
            2 => drop(member.process.terminate(Duration::from_secs(60)).await?),
            _ => member.process.kill()?,
        }
        member.restart().await?;
    }
    let acknowledged = publisher.finish(DRAIN).await?;
    for path in ["/well", "/ill"] {
        cluster.receiver.wait_for_all(path, &acknowledged, DRAIN).await?;
    }
    cluster.receiver.quiet(Duration::from_secs(2), DRAIN).await?;
    let mut found = HashMap::new();
    for path in ["/well", "/ill"] {
        let (keys, repeated) = check(&cluster.receiver.arrivals(path)).with_context(|| path.to_owned())?;
        ensure!(keys == KEYS);
        found.insert(path, repeated);
    }
    say(&format!("ordered, {:?}: {messages} messages, {kills} kills, repetitions {found:?}", cluster.shape));
    Ok(())
}

on_both_shapes!(order, options(), order_survives_kills_and_rebalances);
