//! The copy of a store's configuration that a stream keeps current. Pure: what comes is applied in order, or not at all.

use std::sync::Arc;

use hookwire_proto::config::{Change, ChangeSet, Changes, SnapshotPart, Welcome, change};

use super::{Error, Snapshot};

/// What this node has of which store.
#[derive(Debug, Default)]
pub struct Copy {
    /// Which store's; empty: a snapshot is needed.
    store_id: String,
    snapshot: Arc<Snapshot>,
    /// The store that the present stream is of.
    stream_of: String,
    /// The parts of a snapshot that have come until now.
    coming: Option<Snapshot>,
    /// The stream has announced a snapshot whose last part has not come.
    awaiting: bool,
}

impl Copy {
    /// The store whose revision this is; empty if there is none, or none that can be built on.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// The revision; 0 if there is none, or none that can be built on.
    pub fn revision(&self) -> i64 {
        if self.store_id.is_empty() { 0 } else { self.snapshot.revision() }
    }

    /// The checksum of what has that revision.
    pub fn checksum(&self) -> u64 {
        if self.store_id.is_empty() { 0 } else { self.snapshot.checksum() }
    }

    /// A stream begins.
    pub fn welcome(&mut self, welcome: &Welcome) -> Result<(), Error> {
        self.coming = None;
        self.awaiting = welcome.snapshot_follows;
        if welcome.store_id.is_empty() {
            return Err(self.out_of_order("a store without identity".into()));
        }
        if !welcome.snapshot_follows && welcome.store_id != self.store_id {
            return Err(self.out_of_order("changes of another store".into()));
        }
        self.stream_of.clone_from(&welcome.store_id);
        Ok(())
    }

    /// A part of a snapshot comes; the whole, if it was the last.
    pub fn part(&mut self, part: SnapshotPart) -> Result<Option<Arc<Snapshot>>, Error> {
        let mut coming = match self.coming.take() {
            Some(coming) if coming.revision() != part.revision => {
                let detail = format!("a part of revision {} among those of {}", part.revision, coming.revision());
                return Err(self.out_of_order(detail));
            }
            Some(coming) => coming,
            None => Snapshot::new(part.revision, []),
        };
        let changes = part.resources.into_iter().map(|resource| Change { change: Some(change::Change::Put(resource)) });
        coming.apply(ChangeSet { revision: part.revision, changes: changes.collect() });
        if !part.last {
            self.coming = Some(coming);
            return Ok(None);
        }
        self.awaiting = false;
        self.store_id.clone_from(&self.stream_of);
        self.snapshot = Arc::new(coming);
        Ok(Some(self.snapshot.clone()))
    }

    /// Changes come: all of them make one new snapshot.
    pub fn changes(&mut self, changes: Changes) -> Result<Arc<Snapshot>, Error> {
        if self.awaiting || self.coming.is_some() {
            return Err(self.out_of_order("changes before the snapshot is complete".into()));
        }
        let mut next = Snapshot::clone(&self.snapshot);
        for set in changes.change_sets {
            if set.revision != next.revision() + 1 {
                let detail = format!("revision {} after {}", set.revision, next.revision());
                return Err(self.out_of_order(detail));
            }
            next.apply(set);
        }
        self.snapshot = Arc::new(next);
        Ok(self.snapshot.clone())
    }

    /// What is here can't be built on: the next stream has to begin with a snapshot.
    fn out_of_order(&mut self, detail: String) -> Error {
        self.store_id.clear();
        self.coming = None;
        Error::OutOfOrder { detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::config::{Resource, Tenant, resource};
    use proptest::prelude::*;

    fn tenant(id: impl std::fmt::Display) -> Resource {
        Resource {
            resource: Some(resource::Resource::Tenant(Tenant { name: format!("tenants/{id}"), ..Tenant::default() })),
        }
    }

    fn part(revision: i64, id: &str, last: bool) -> SnapshotPart {
        SnapshotPart { revision, resources: vec![tenant(id)], last }
    }

    fn set(revision: i64) -> ChangeSet {
        let put = Change { change: Some(change::Change::Put(tenant(format_args!("t{revision}")))) };
        ChangeSet { revision, changes: vec![put] }
    }

    fn welcome(store_id: &str, snapshot_follows: bool) -> Welcome {
        Welcome { store_id: store_id.into(), snapshot_follows, ..Default::default() }
    }

    /// A copy at this revision, of store `one`.
    fn copy(revision: i64) -> Copy {
        let mut copy = Copy::default();
        copy.welcome(&welcome("one", true)).unwrap();
        copy.part(part(revision, "a", true)).unwrap();
        copy
    }

    #[test]
    fn a_snapshot_replaces_the_whole_and_only_with_its_last_part() {
        let mut copy = copy(5);
        copy.welcome(&welcome("two", true)).unwrap();
        assert!(copy.part(part(2, "b", false)).unwrap().is_none());
        assert_eq!((copy.store_id(), copy.revision()), ("one", 5));
        let whole = copy.part(part(2, "c", true)).unwrap().unwrap();
        assert_eq!((copy.store_id(), copy.revision()), ("two", 2));
        assert_eq!(["a", "b", "c"].map(|id| whole.has_tenant(&format!("tenants/{id}"))), [false, true, true]);
    }

    #[test]
    fn a_stream_that_breaks_within_a_snapshot_leaves_what_was_here() {
        let mut copy = copy(5);
        copy.welcome(&welcome("one", true)).unwrap();
        copy.part(part(9, "b", false)).unwrap();
        copy.welcome(&welcome("one", false)).unwrap();
        assert_eq!(copy.changes(Changes { change_sets: vec![set(6)] }).unwrap().revision(), 6);
        assert!(!copy.snapshot.has_tenant("tenants/b"));
    }

    #[test]
    fn what_is_out_of_order_is_not_applied_and_asks_for_a_snapshot() {
        type Step = fn(&mut Copy) -> Result<(), Error>;
        let steps: [(&str, Step); 6] = [
            ("a gap", |copy| copy.changes(Changes { change_sets: vec![set(6), set(8)] }).map(drop)),
            ("a repeat", |copy| copy.changes(Changes { change_sets: vec![set(5)] }).map(drop)),
            ("another store's changes", |copy| copy.welcome(&welcome("two", false))),
            ("a part of another snapshot", |copy| {
                copy.part(part(9, "b", false))?;
                copy.part(part(10, "c", true)).map(drop)
            }),
            ("changes within a snapshot", |copy| {
                copy.part(part(9, "b", false))?;
                copy.changes(Changes { change_sets: vec![set(6)] }).map(drop)
            }),
            ("changes instead of a snapshot", |copy| {
                copy.welcome(&welcome("one", true))?;
                copy.changes(Changes { change_sets: vec![set(6)] }).map(drop)
            }),
        ];
        for (what, step) in steps {
            let mut copy = copy(5);
            assert!(matches!(step(&mut copy), Err(Error::OutOfOrder { .. })), "{what}");
            assert_eq!((copy.store_id(), copy.revision()), ("", 0), "{what}");
            assert_eq!(copy.snapshot.revision(), 5, "{what}");
            assert!(!copy.snapshot.has_tenant("tenants/t6"), "{what}");
        }
    }

    proptest! {
        /// However a history is cut into responses, the copy ends the same.
        #[test]
        fn batches_change_nothing(lengths in prop::collection::vec(1..6i64, 1..20)) {
            let mut copy = copy(0);
            let mut next = 1;
            for length in lengths {
                let change_sets = (next..next + length).map(set).collect();
                next += length;
                prop_assert_eq!(copy.changes(Changes { change_sets }).unwrap().revision(), next - 1);
            }
            for revision in 1..next {
                let tenant = format!("tenants/t{revision}");
                prop_assert!(copy.snapshot.has_tenant(&tenant));
            }
        }
    }
}
