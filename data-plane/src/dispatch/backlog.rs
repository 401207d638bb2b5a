//! Messages that are read ahead and not begun, so that the others that stand behind a tenant's very many are found.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hookwire_log::Record;
use hookwire_proto::log::MessageRecord;

use super::turns::Turns;
use crate::company::Company;

/// Messages of a tenant that are under way in a partition, at most, while it is not alone there: what more would do is stand in front of others',
/// in the producer, in brokers and in `deliveries`.
const SHARED: usize = 32;

/// Memory that a message takes besides its value, about.
const OVERHEAD_BYTES: usize = 512;

/// What the partitions of a node have read ahead together, in bytes.
#[derive(Debug, Clone, Default)]
pub struct ReadAhead(Arc<AtomicUsize>);

/// A message whose turn it is.
pub struct Next {
    pub tenant: Arc<str>,
    pub record: Record,
    pub message: MessageRecord,
}

impl Next {
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.record.value.len()
    }
}

/// What a partition has read ahead, and how much of each tenant is begun.
pub struct Backlog {
    waiting: Turns<Next>,
    bytes: usize,
    read_ahead: ReadAhead,
    company: Company,
    /// Messages that are begun and have not ended, of tenants that have some.
    begun: HashMap<Arc<str>, usize>,
    /// How many of a tenant, at most, even if it is alone.
    most: usize,
}

impl Backlog {
    /// Empty. Of the `max_messages` that are under way, a tenant has half at most, so that another has room as soon as it comes.
    pub fn new(read_ahead: ReadAhead, max_messages: usize) -> Self {
        let (waiting, company, begun) = (Turns::default(), Company::default(), HashMap::new());
        Self { waiting, bytes: 0, read_ahead, company, begun, most: (max_messages / 2).max(1) }
    }

    /// Whether the next message may be read: one always, others while those of the node have fewer bytes than this.
    pub fn has_room(&self, max_bytes: usize) -> bool {
        self.waiting.is_empty() || self.read_ahead.0.load(Ordering::Relaxed) < max_bytes
    }

    /// A message was read.
    pub fn push(&mut self, record: Record, message: MessageRecord, now_ms: i64) {
        self.company.came(&message.tenant, now_ms);
        let tenant = self.begun.get_key_value(message.tenant.as_str());
        let tenant = tenant.map_or_else(|| message.tenant.as_str().into(), |(tenant, _)| tenant.clone());
        let next = Next { tenant, record, message };
        self.bytes += next.bytes();
        self.read_ahead.0.fetch_add(next.bytes(), Ordering::Relaxed);
        self.waiting.push(next.tenant.clone(), next);
    }

    /// Begins the next message; [`Backlog::ended`] is to be told when it has ended.
    pub fn begin(&mut self, now_ms: i64) -> Option<Next> {
        let next = self.waiting.pop(|tenant| {
            let begun = self.begun.get(tenant).copied().unwrap_or_default();
            begun < self.most && (begun < SHARED || self.company.is_alone(tenant, now_ms))
        })?;
        self.bytes -= next.bytes();
        self.read_ahead.0.fetch_sub(next.bytes(), Ordering::Relaxed);
        *self.begun.entry(next.tenant.clone()).or_default() += 1;
        Some(next)
    }

    /// A message of this tenant that was begun has ended.
    pub fn ended(&mut self, tenant: &Arc<str>) {
        let begun = self.begun.get_mut(tenant).expect("it was begun");
        *begun -= 1;
        if *begun == 0 {
            self.begun.remove(tenant);
        }
    }
}

/// What was not begun is read by the next owner.
impl Drop for Backlog {
    fn drop(&mut self) {
        self.read_ahead.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hookwire_log::Topic;

    use super::*;

    fn read(backlog: &mut Backlog, tenant: &str, offset: i64) {
        let value = Bytes::from(vec![0; 488]);
        let record = Record { topic: Topic::Messages, partition: 0, offset, time_ms: 0, key: Bytes::new(), value };
        backlog.push(record, MessageRecord { tenant: tenant.into(), ..MessageRecord::default() }, 0);
    }

    fn begun(backlog: &mut Backlog) -> Vec<i64> {
        std::iter::from_fn(|| backlog.begin(0)).map(|next| next.record.offset).collect()
    }

    #[test]
    fn a_tenant_has_half_of_what_is_under_way_and_others_pass_by() {
        let mut backlog = Backlog::new(ReadAhead::default(), 4);
        (0..10).for_each(|offset| read(&mut backlog, "a", offset));
        (10..12).for_each(|offset| read(&mut backlog, "b", offset));
        assert_eq!(begun(&mut backlog), [0, 10, 1, 11]);
        backlog.ended(&"b".into());
        assert!(begun(&mut backlog).is_empty());
        backlog.ended(&"a".into());
        assert_eq!(begun(&mut backlog), [2]);
    }

    #[test]
    fn who_is_not_alone_has_less_under_way() {
        let many = i64::try_from(SHARED).unwrap() * 2;
        let mut backlog = Backlog::new(ReadAhead::default(), 1_000);
        (0..many).for_each(|offset| read(&mut backlog, "a", offset));
        assert_eq!(begun(&mut backlog).len(), SHARED * 2);
        (0..many).for_each(|_| backlog.ended(&"a".into()));
        (0..many).for_each(|offset| read(&mut backlog, "a", offset));
        read(&mut backlog, "b", many);
        assert_eq!(begun(&mut backlog).len(), SHARED + 1);
    }

    #[test]
    fn what_is_read_ahead_is_bounded_for_the_node_and_one_may_always_be_read() {
        let node = ReadAhead::default();
        let mut first = Backlog::new(node.clone(), 2);
        let mut second = Backlog::new(node.clone(), 2);
        for offset in 0..10 {
            assert!(first.has_room(10_000));
            read(&mut first, "a", offset);
        }
        assert!(!first.has_room(10_000) && second.has_room(10_000));
        read(&mut second, "a", 0);
        assert!(!second.has_room(10_000));
        assert_eq!(begun(&mut first), [0]);
        assert!(!first.has_room(10_000));
        assert_eq!(begun(&mut second), [0]);
        assert!(first.has_room(10_000));
        drop(first);
        assert_eq!(node.0.load(Ordering::Relaxed), 0);
    }
}
