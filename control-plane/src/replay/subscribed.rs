//! Who subscribes to a message that is replayed: the store's subscriptions, read again when something was written.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hookwire_proto::{name, pattern};
use tokio::time::Instant;

use crate::store;

/// How often it is looked whether something was written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The subscriptions of a tenant that a replay may select.
pub(super) struct Subscribed {
    tenant: name::Tenant,
    /// Ids of those that were named; empty: all.
    named: HashSet<String>,
    /// When they were read, and the revision that they are of or a later one.
    read: Option<(Instant, i64)>,
    by_pattern: HashMap<String, Vec<String>>,
}

impl Subscribed {
    /// None yet, until they are [read](Self::read); `named` in full.
    pub fn new(tenant: &str, named: &[String]) -> Self {
        let named = named.iter().map(|name| name::last_id(name).to_owned()).collect();
        let tenant = name::Tenant { tenant: tenant.to_owned() };
        Self { tenant, named, read: None, by_pattern: HashMap::new() }
    }

    /// Reads them, if it is time to and something was written since.
    pub async fn read(&mut self, store: &store::Store) -> Result<(), store::Error> {
        if self.read.is_some_and(|(at, _)| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let (now, revision) = (Instant::now(), store.revision().await?);
        if self.read.is_none_or(|(_, last)| last != revision) {
            let rows = store.list_patterns(&self.tenant).await?;
            self.set(rows);
        }
        self.read = Some((now, revision));
        Ok(())
    }

    fn set(&mut self, rows: Vec<(String, String)>) {
        self.by_pattern.clear();
        for (id, patterns) in rows {
            if self.named.is_empty() || self.named.contains(&id) {
                for pattern in patterns.split(' ') {
                    self.by_pattern.entry(pattern.to_owned()).or_default().push(id.clone());
                }
            }
        }
    }

    /// The ids of those that ask for an event type, in their order, each once.
    pub fn to(&self, event_type: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for (beginning, end) in pattern::selecting(event_type) {
            if let Some(ids) = self.by_pattern.get(&format!("{beginning}{end}")) {
                found.extend(ids.iter().map(String::as_str));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_it_is_found_once_in_order_and_only_if_named() {
        let rows = [("a", "*"), ("b", "invoice.* invoice.paid"), ("c", "user.created"), ("d", "invoice.paid")];
        let rows = || rows.map(|(id, patterns)| (id.to_owned(), patterns.to_owned())).to_vec();
        let mut all = Subscribed::new("t", &[]);
        all.set(rows());
        assert_eq!(all.to("invoice.paid"), ["a", "b", "d"]);
        assert_eq!((all.to("invoice"), all.to("hookwire.ping")), (vec!["a"], vec![]));
        let mut named = Subscribed::new("t", &["tenants/t/subscriptions/d".into(), "tenants/t/subscriptions/c".into()]);
        named.set(rows());
        assert_eq!(named.to("invoice.paid"), ["d"]);
        named.set(Vec::new());
        assert!(named.to("invoice.paid").is_empty(), "what was there before is gone");
    }
}
