//! Who is connected to this control plane, and what they have applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// A connected node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id, stable while its process lives.
    pub id: String,
    /// Version of its software.
    pub version: String,
    /// The revision that it has applied; 0 if none.
    pub revision: i64,
    /// Since when this stream is open.
    pub connected_since: SystemTime,
}

/// The nodes that are connected to this control plane. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By id, with the number of the stream.
    nodes: BTreeMap<String, (u64, Node)>,
    streams: u64,
}

impl Nodes {
    /// All of them, by id.
    pub fn list(&self) -> Vec<Node> {
        self.with(|table| table.nodes.values().map(|(_, node)| node.clone()).collect())
    }

    /// A node has opened a stream; it is listed until the result is dropped.
    pub(super) fn connect(&self, id: &str, version: &str, revision: i64) -> Connected {
        let node = Node { id: id.into(), version: version.into(), revision, connected_since: SystemTime::now() };
        let stream = self.with(|table| {
            table.streams += 1;
            table.nodes.insert(id.into(), (table.streams, node));
            table.streams
        });
        Connected { nodes: self.clone(), id: id.into(), stream }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        // Nothing in here panics half-way through a change.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One stream of a node. A node that has come back before its old stream was seen to end has two; the newer is listed.
#[derive(Debug)]
pub(super) struct Connected {
    nodes: Nodes,
    id: String,
    stream: u64,
}

impl Connected {
    /// The node has applied everything up to this revision.
    pub(super) fn applied(&self, revision: i64) {
        self.nodes.with(|table| {
            if let Some((stream, node)) = table.nodes.get_mut(&self.id)
                && *stream == self.stream
            {
                node.revision = revision;
            }
        });
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.nodes.with(|table| {
            if table.nodes.get(&self.id).is_some_and(|(stream, _)| *stream == self.stream) {
                table.nodes.remove(&self.id);
            }
        });
    }
}

/// Whether this can be a node's id: `[a-z0-9-]{1,63}`.
pub(super) fn is_id(id: &str) -> bool {
    (1..=63).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(nodes: &Nodes) -> Vec<(String, i64)> {
        nodes.list().into_iter().map(|node| (node.id, node.revision)).collect()
    }

    #[test]
    fn a_node_is_listed_while_it_is_connected() {
        let nodes = Nodes::default();
        let one = nodes.connect("one", "1", 0);
        one.applied(7);
        assert_eq!(listed(&nodes), [("one".into(), 7)]);
        drop(one);
        assert!(nodes.list().is_empty());
    }

    #[test]
    fn the_end_of_an_old_stream_does_not_take_the_new_one_away() {
        let nodes = Nodes::default();
        let old = nodes.connect("one", "1", 5);
        let new = nodes.connect("one", "1", 6);
        old.applied(5);
        drop(old);
        assert_eq!(listed(&nodes), [("one".into(), 6)]);
        drop(new);
        assert!(nodes.list().is_empty());
    }
}
