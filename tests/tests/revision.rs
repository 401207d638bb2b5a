//! One reads one's own writes: what is published after a subscription was created is matched against it, on every node.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hookwire_tests::cluster::{Cluster, Options};
use hookwire_tests::on_both_shapes;

const TIMES: usize = 1_000;

async fn a_message_published_after_a_write_is_matched_against_it(cluster: &mut Cluster) -> Result<()> {
    let controls = (0..cluster.control_planes.len()).map(|index| cluster.control(index)).collect::<Result<Vec<_>>>()?;
    let publishers = cluster.publishers()?;
    let tenant = controls[0].new_tenant(&[]).await?;
    let receiver = &cluster.receiver;
    let attempts = stream::iter(0..TIMES).map(|number| {
        let (control, publisher) = (&controls[number % controls.len()], &publishers[number / 2 % publishers.len()]);
        let tenant = &tenant;
        async move {
            let event_type = format!("own.n{number}");
            control.new_event_type(tenant, &event_type).await?;
            let subscription = control.subscribe(tenant, &receiver.url("/own"), &[&event_type]).await?;
            // At once: no node may know of it yet.
            publisher.publish_one(tenant, &event_type, "{}", subscription.revision).await
        }
    });
    let ids: HashSet<String> = attempts.buffer_unordered(8).try_collect().await?;
    ensure!(ids.len() == TIMES);
    receiver.wait_for_all("/own", &ids, Duration::from_secs(60)).await?;
    Ok(())
}

on_both_shapes!(
    own_writes,
    Options { control_planes: 2, nodes: 2, ..Options::default() },
    a_message_published_after_a_write_is_matched_against_it
);
