//! What a replay has read of the log and not looked at yet: a step takes some tens of records of the thousands that are read at once.

use hookwire_log::{Error, Log, Offset, Record, Topic};

/// What was read last. While a replay runs, it is at one place of the log.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The offset that it was read from; what the log does not have above it was not there.
    from: Offset,
    records: Vec<Record>,
}

impl Ahead {
    /// Records from an offset on, as the log reads them, or what is left of those that were read before.
    ///
    /// # Errors
    /// Those of [`Log::read`].
    pub async fn read(
        &mut self,
        log: &dyn Log,
        (topic, partition): (Topic, i32),
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<&[Record], Error> {
        if self.rest(topic, partition, from).is_empty() {
            self.records = log.read(topic, partition, from, max_records, max_bytes).await?;
            self.from = from;
        }
        Ok(self.rest(topic, partition, from))
    }

    fn rest(&self, topic: Topic, partition: i32, from: Offset) -> &[Record] {
        let is_there = self.from <= from
            && self.records.first().is_some_and(|first| (first.topic, first.partition) == (topic, partition));
        let first = self.records.partition_point(|record| record.offset < from);
        if is_there { &self.records[first..] } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_there_from_any_offset_within_it() {
        let record = |offset| Record {
            topic: Topic::Messages,
            partition: 1,
            offset,
            time_ms: 0,
            key: bytes::Bytes::new(),
            value: bytes::Bytes::new(),
        };
        let ahead = Ahead { from: 3, records: [4, 5, 9].map(record).to_vec() };
        let rest = |topic, partition, from| {
            ahead.rest(topic, partition, from).iter().map(|record| record.offset).collect::<Vec<_>>()
        };
        for (from, expected) in [(3, &[4, 5, 9][..]), (4, &[4, 5, 9]), (6, &[9]), (9, &[9]), (10, &[]), (2, &[])] {
            assert_eq!(rest(Topic::Messages, 1, from), expected, "from {from}");
        }
        assert!(rest(Topic::Messages, 0, 4).is_empty() && rest(Topic::DeadLetters, 1, 4).is_empty());
    }
}
