//! Metrics: what is served is what the README's table says, and they tell who is in trouble.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hookwire_tests::cluster::{Cluster, Member, Options, Shape};
use hookwire_tests::machine::root;
use hookwire_tests::receiver::Behaviour;
use hookwire_tests::{on_both_shapes, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// By name: which planes have it, its kind, and its labels.
type Table = BTreeMap<String, (String, String, BTreeSet<String>)>;

/// The README's table.
fn documented() -> Result<Table> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let (_, rest) = readme.split_once("| metric | of |").context("the README has a table of metrics")?;
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut table = Table::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, of, kind, labels, meaning] = cells[..] else { anyhow::bail!("five cells: {row}") };
        ensure!(!meaning.is_empty(), "{row}");
        let before = table.values().last().map(|(_, _, labels): &(_, _, BTreeSet<String>)| labels.clone());
        let labels = match labels {
            "the same" => before.context("the same as the row before")?,
            _ => labels
                .split(',')
                .map(|label| label.trim().trim_matches('`').to_owned())
                .filter(|label| !label.is_empty())
                .collect(),
        };
        let old = table.insert(name.trim_matches('`').to_owned(), (of.to_owned(), kind.to_owned(), labels));
        ensure!(old.is_none(), "twice: {row}");
    }
    Ok(table)
}

/// The same of a page, and the values of its samples by name and labels.
fn served(page: &str, of: &str) -> Result<(Table, BTreeMap<String, f64>)> {
    let (mut table, mut values) = (Table::new(), BTreeMap::new());
    let mut family = (String::new(), String::new());
    for line in page.lines() {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').context("a name and a kind")?;
            family = (name.to_owned(), kind.to_owned());
            let shown = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            table.insert(shown, (of.to_owned(), kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').context("a sample and a value")?;
            values.insert(sample.to_owned(), value.parse()?);
            let labels = sample.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            let shown = if family.1 == "counter" { format!("{}_total", family.0) } else { family.0.clone() };
            let known = &mut table.get_mut(&shown).context("told before")?.2;
            known.extend(names.filter(|name| name != "le"));
        }
    }
    ensure!(page.ends_with("# EOF\n"), "{page}");
    Ok((table, values))
}

async fn look(member: &Member, of: &str) -> Result<(Table, BTreeMap<String, f64>)> {
    let (status, page) = member.page("/metrics").await.with_context(|| format!("{} answers", member.process.name))?;
    ensure!(status == 200, "{status} {page}");
    served(&page, of)
}

async fn they_are_what_the_readme_says_and_tell_of_recipients_in_trouble(cluster: &mut Cluster) -> Result<()> {
    let control = cluster.control(0)?;
    let tenant = control.new_tenant(&["metrics.event"]).await?;
    cluster.receiver.script("/ill", [], Behaviour::status(503));
    control.subscribe(&tenant, &cluster.receiver.url("/well"), &["metrics.*"]).await?;
    let revision = control.subscribe(&tenant, &cluster.receiver.url("/ill"), &["metrics.*"]).await?.revision;
    let node = match cluster.shape {
        Shape::Embedded => &cluster.control_planes[0],
        Shape::Production => &cluster.nodes[0],
    };
    let (_, before) = look(node, "node").await?;
    cluster.publisher()?.publish_one(&tenant, "metrics.event", "{}", revision).await?;
    cluster.receiver.wait("/well", 1, LIMIT).await?;
    let mut now = BTreeMap::new();
    let grown = [
        "hookwire_published_messages_total{result=\"acknowledged\"}",
        "hookwire_dispatched_messages_total{result=\"dispatched\"}",
        "hookwire_attempts_total{answer=\"2xx\"}",
        "hookwire_attempts_total{answer=\"5xx\"}",
        "hookwire_attempt_outcomes_total{outcome=\"retry\"}",
        "hookwire_first_attempt_delay_seconds_count",
    ];
    let troubled = || ["slowed", "pausing"].map(|state| format!("hookwire_lanes{{state=\"{state}\"}}"));
    let waited = wait_until("what has happened is shown", LIMIT, async || {
        now = look(node, "node").await?.1;
        let is_grown = grown.iter().all(|sample| now.get(*sample) > before.get(*sample));
        let is_troubled = troubled().iter().any(|sample| now.get(sample).is_some_and(|lanes| *lanes > 0.0));
        let is_behind = now.keys().any(|sample| sample.contains("stage=\"deliver\""));
        Ok(is_grown && is_troubled && is_behind)
    });
    waited.await.with_context(|| format!("{now:#?}"))?;

    let documented = documented()?;
    let expected = |of: &str| -> Table {
        let rows = documented.iter().filter(|(_, (whose, ..))| whose == of || whose == "both");
        rows.map(|(name, (_, kind, labels))| (name.clone(), (of.to_owned(), kind.clone(), labels.clone()))).collect()
    };
    let (table, _) = look(node, "node").await?;
    ensure!(table == expected("node"), "of a node {table:#?}, but the README says {:#?}", expected("node"));
    if let (Shape::Production, Some(member)) = (cluster.shape, cluster.control_planes.first()) {
        wait_until("its consumer groups are shown", LIMIT, async || {
            Ok(look(member, "control plane").await?.1.keys().any(|sample| sample.contains("stage=\"index\"")))
        })
        .await?;
        let (table, values) = look(member, "control plane").await?;
        let expected = expected("control plane");
        ensure!(table == expected, "of a control plane {table:#?}, but the README says {expected:#?}");
        ensure!(values["hookwire_store_up"] == 1.0 && values["hookwire_connected_nodes"] == 1.0, "{values:#?}");
        ensure!(values["hookwire_config_revision"] >= revision as f64, "{values:#?}");
    }
    Ok(())
}

on_both_shapes!(metrics, Options::default(), they_are_what_the_readme_says_and_tell_of_recipients_in_trouble);
