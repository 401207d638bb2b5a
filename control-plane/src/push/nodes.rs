//! Who is connected to this control plane, and how far each is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hookwire_proto::config::{Acknowledgement, Hello, NodeRole, OwnedPartitions};
use hookwire_proto::name;
use tokio::sync::Notify;

/// A connected node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its id, stable while its process lives.
    pub id: String,
    /// Version of its software.
    pub version: String,
    /// The listed identity that its certificate is of; empty where nodes need none.
    pub identity: String,
    /// What it does.
    pub roles: Vec<NodeRole>,
    /// The revision that it has applied; 0 if none.
    pub revision: i64,
    /// Checksum of what it has applied; 0 if it told none.
    pub checksum: u64,
    /// What it owns of the log.
    pub partitions: Vec<OwnedPartitions>,
    /// The addresses that its requests come from, as it declares or binds them.
    pub egress_addresses: Vec<String>,
    /// Since when this stream is open.
    pub connected_since: SystemTime,
}

/// The nodes that are connected to this control plane. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Notify,
}

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

    /// Waits until a node has come, or says something else than how far it is, since the last time.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// A node has opened a stream; it is listed until the result is dropped. `revision` is what it can build on.
    pub(super) fn connect(&self, hello: &Hello, identity: &str, roles: &[NodeRole], revision: i64) -> Connected {
        let node = Node {
            id: hello.node.clone(),
            version: hello.version.clone(),
            identity: identity.into(),
            roles: roles.to_vec(),
            revision,
            checksum: if revision == 0 { 0 } else { hello.checksum },
            partitions: Vec::new(),
            egress_addresses: hello.egress_addresses.clone(),
            connected_since: SystemTime::now(),
        };
        let stream = self.with(|table| {
            table.streams += 1;
            table.nodes.insert(hello.node.clone(), (table.streams, node));
            table.streams
        });
        self.0.changed.notify_one();
        Connected { nodes: self.clone(), id: hello.node.clone(), stream }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        // Nothing in here panics half-way through a change.
        f(&mut self.0.table.lock().unwrap_or_else(PoisonError::into_inner))
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
    /// The node has applied everything up to a revision.
    pub(super) fn applied(&self, applied: &Acknowledgement) {
        self.update(|node| (node.revision, node.checksum) = (applied.revision, applied.checksum));
    }

    /// The node owns these partitions.
    pub(super) fn owns(&self, partitions: Vec<OwnedPartitions>) {
        self.update(|node| node.partitions = partitions);
        self.nodes.0.changed.notify_one();
    }

    fn update(&self, f: impl FnOnce(&mut Node)) {
        self.nodes.with(|table| {
            if let Some((stream, node)) = table.nodes.get_mut(&self.id)
                && *stream == self.stream
            {
                f(node);
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

/// Whether this can be a node's id.
pub(super) fn is_id(id: &str) -> bool {
    name::check_node_id(id).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(nodes: &Nodes, revision: i64) -> Connected {
        nodes.connect(&Hello { node: "one".into(), ..Hello::default() }, "", &[], revision)
    }

    fn applied(revision: i64) -> Acknowledgement {
        Acknowledgement { revision, checksum: 9 }
    }

    fn listed(nodes: &Nodes) -> Vec<(String, i64)> {
        nodes.list().into_iter().map(|node| (node.id, node.revision)).collect()
    }

    #[test]
    fn a_node_is_listed_while_it_is_connected() {
        let nodes = Nodes::default();
        let one = connect(&nodes, 0);
        one.applied(&applied(7));
        assert_eq!(listed(&nodes), [("one".into(), 7)]);
        let owned = vec![OwnedPartitions { topic: "deliveries".into(), numbers: vec![1, 2] }];
        one.owns(owned.clone());
        assert_eq!((nodes.list()[0].checksum, &nodes.list()[0].partitions), (9, &owned));
        drop(one);
        assert!(nodes.list().is_empty());
    }

    #[test]
    fn the_end_of_an_old_stream_does_not_take_the_new_one_away() {
        let nodes = Nodes::default();
        let old = connect(&nodes, 5);
        let new = connect(&nodes, 6);
        old.applied(&applied(5));
        drop(old);
        assert_eq!(listed(&nodes), [("one".into(), 6)]);
        drop(new);
        assert!(nodes.list().is_empty());
    }
}
