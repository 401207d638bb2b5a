//! What it costs to find the subscriptions that want a message: by the node's index, and by asking each subscription of the tenant, as the
//! baseline.
//!
//! ```sh
//! scripts/bench matching
//! ```
//!
//! Of each tenant's subscriptions one wants everything (`*`), three `orders.line.*`, six `orders.*`, and all others an event type. Messages are of random tenants and event types, so that what is looked up is not in the cache.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use hookwire_bench::report::Report;
use hookwire_data_plane::cache::Snapshot;
use hookwire_proto::config::{Resource, Subscription, resource};
use rand::seq::IndexedRandom as _;

/// Measures matching.
#[derive(Debug, Parser)]
struct Arguments {
    /// Subscriptions of the node
    #[arg(long, default_value_t = 100_000)]
    subscriptions: usize,
    /// Messages that are matched in a round
    #[arg(long, default_value_t = 200_000)]
    messages: usize,
    /// Rounds, of which the report has the median, the least and the most
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Event types of a tenant, at most: more subscriptions share them.
const EVENT_TYPES: usize = 2_000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    for tenants in [arguments.subscriptions / 100, arguments.subscriptions / 10_000] {
        measure(&arguments, tenants.max(1), &mut report)?;
    }
    Ok(report.print()?)
}

fn measure(arguments: &Arguments, tenants: usize, report: &mut Report) -> Result<()> {
    let each = arguments.subscriptions / tenants;
    let types = each.min(EVENT_TYPES);
    let all: Vec<Subscription> =
        (0..tenants).flat_map(|tenant| (0..each).map(move |n| subscription(tenant, n, types))).collect();
    let snapshot = Snapshot::new(
        1,
        all.iter().cloned().map(|it| Resource { resource: Some(resource::Resource::Subscription(it)) }),
    );
    let names: Vec<String> = (0..tenants).map(|tenant| format!("tenants/t{tenant}")).collect();
    let event_types: Vec<String> = (0..types).map(event_type).collect();
    let mut random = rand::rng();
    let messages: Vec<(usize, &str)> = (0..arguments.messages)
        .map(|_| (rand::random_range(0..tenants), event_types.choose(&mut random).map_or("", String::as_str)))
        .collect();

    let by_index = |(tenant, event_type): (usize, &str)| snapshot.matching(&names[tenant], event_type).len();
    let by_asking = |(tenant, event_type): (usize, &str)| {
        let wants = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => pattern == event_type,
        };
        let of_tenant = &all[tenant * each..(tenant + 1) * each];
        of_tenant.iter().filter(|it| it.event_types.iter().any(wants)).count()
    };
    // It takes so much longer that fewer are enough.
    let few = &messages[..(messages.len() / each.max(10) * 10).clamp(100.min(messages.len()), messages.len())];
    ensure!(few.iter().all(|message| by_index(*message) == by_asking(*message)), "both find the same");
    let found: usize = messages.iter().map(|message| by_index(*message)).sum();

    let (mut index, mut asking) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        index.push(each_takes(&messages, by_index));
        asking.push(each_takes(few, by_asking));
    }
    let us = |time: &Duration| time.as_secs_f64() * 1e6;
    let of = format!("{tenants} tenants with {each} each");
    report.add(
        &format!("{of}: a message matches"),
        &format!("matches_{tenants}"),
        found as f64 / messages.len() as f64,
        "",
    );
    report.spread(&format!("{of}: by the index, µs"), &format!("index_us_{tenants}"), index.iter().map(us));
    report.spread(&format!("{of}: by asking each, µs"), &format!("asking_us_{tenants}"), asking.iter().map(us));
    Ok(())
}

/// The mean.
fn each_takes<'a>(messages: &[(usize, &'a str)], matching: impl Fn((usize, &'a str)) -> usize) -> Duration {
    let began = Instant::now();
    for message in messages {
        black_box(matching(black_box(*message)));
    }
    began.elapsed() / u32::try_from(messages.len()).unwrap_or(u32::MAX)
}

fn event_type(n: usize) -> String {
    format!("orders.line.n{n}")
}

fn subscription(tenant: usize, n: usize, types: usize) -> Subscription {
    let pattern = match n {
        0 => "*".to_owned(),
        1..4 => "orders.line.*".to_owned(),
        4..10 => "orders.*".to_owned(),
        _ => event_type(n % types),
    };
    Subscription {
        name: format!("tenants/t{tenant}/subscriptions/s{n:06}"),
        url: "https://receiver.example/hooks".to_owned(),
        event_types: vec![pattern],
        ..Subscription::default()
    }
}
