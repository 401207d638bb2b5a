//! The partitions of a range as one sequence, so that a replay is at one place of it. Pure.
//!
//! A slice of each partition in turn, so that what is replayed comes about in the order in which it was published, and in the log's
//! order within a partition.

use hookwire_log::Offset;
use hookwire_proto::v1::replay::Partition;

/// Records of a slice, at most.
pub(super) const SLICE: i64 = 1_000;

/// Offsets of some partitions, in an order that depends on nothing else.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    parts: Vec<Part>,
    /// Into how many slices each partition is cut.
    slices: i64,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    partition: i32,
    start: Offset,
    len: i64,
}

/// Offsets of a partition that follow one another, in the sequence too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    pub partition: i32,
    pub from: Offset,
    /// The one after the last.
    pub until: Offset,
}

impl Sequence {
    pub fn new(partitions: &[Partition]) -> Self {
        let part = |partition: &Partition| Part {
            partition: partition.partition,
            start: partition.start_offset,
            len: partition.end_offset.saturating_sub(partition.start_offset).max(0),
        };
        let parts: Vec<_> = partitions.iter().map(part).collect();
        let longest = parts.iter().map(|part| part.len).max().unwrap_or_default();
        Self { parts, slices: (longest.saturating_add(SLICE - 1) / SLICE).max(1) }
    }

    /// How many offsets there are.
    pub fn len(&self) -> i64 {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// What is left, at a place of the sequence, of the slice that is there; `None` at the end.
    pub fn at(&self, place: i64) -> Option<Slice> {
        if !(0..self.len()).contains(&place) {
            return None;
        }
        // The last round of slices that begins here or before.
        let (mut low, mut high) = (0, self.slices);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.parts.iter().map(|part| self.cut(part, middle)).sum::<i64>() <= place {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mut rest = place - self.parts.iter().map(|part| self.cut(part, low)).sum::<i64>();
        for part in &self.parts {
            let (from, until) = (self.cut(part, low), self.cut(part, low + 1));
            if rest < until - from {
                return Some(Slice {
                    partition: part.partition,
                    from: part.start + from + rest,
                    until: part.start + until,
                });
            }
            rest -= until - from;
        }
        None
    }

    /// Where the slice of a partition begins that has this number.
    fn cut(&self, part: &Part, number: i64) -> i64 {
        let cut = i128::from(part.len) * i128::from(number) / i128::from(self.slices);
        i64::try_from(cut).expect("no more than the length")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition(partition: i32, start_offset: i64, end_offset: i64) -> Partition {
        Partition { partition, start_offset, end_offset, ..Default::default() }
    }

    #[test]
    fn partitions_take_turns() {
        let sequence = Sequence::new(&[partition(0, 100, 2_600), partition(3, 7, 7), partition(5, 0, 1_250)]);
        let (mut place, mut slices) = (0, Vec::new());
        while let Some(slice) = sequence.at(place) {
            place += slice.until - slice.from;
            slices.push((slice.partition, slice.from, slice.until));
        }
        let expected = [(0, 100, 933), (5, 0, 416), (0, 933, 1_766), (5, 416, 833), (0, 1_766, 2_600), (5, 833, 1_250)];
        assert_eq!((slices, place), (expected.to_vec(), sequence.len()));
        assert_eq!(sequence.at(900), Some(Slice { partition: 5, from: 67, until: 416 }), "within a slice");
        assert_eq!((sequence.at(-1), sequence.at(3_750)), (None, None));
        assert_eq!((Sequence::new(&[]).at(0), Sequence::new(&[]).len()), (None, 0));
    }

    #[test]
    fn the_longest_partitions_fit() {
        let sequence = Sequence::new(&[partition(0, 0, i64::MAX / 4), partition(1, 5, i64::MAX / 4)]);
        let slice = sequence.at(sequence.len() - 1).unwrap();
        assert_eq!((slice.partition, slice.until, slice.until - slice.from), (1, i64::MAX / 4, 1));
    }

    proptest! {
        /// Wherever it is taken up, every offset comes once, those of a partition in their order.
        #[test]
        fn every_offset_comes_once(lengths in prop::collection::vec((0_i64..1_000, 0_i64..5_000), 0..6), step in 1_i64..3_000) {
            let partitions: Vec<_> =
                lengths.iter().zip(0..).map(|((start, len), id)| partition(id, *start, start + len)).collect();
            let sequence = Sequence::new(&partitions);
            let mut next: Vec<_> = partitions.iter().map(|partition| partition.start_offset).collect();
            let mut place = 0;
            while let Some(slice) = sequence.at(place) {
                prop_assert!(slice.until > slice.from && slice.until - slice.from <= SLICE);
                let at = usize::try_from(slice.partition).unwrap();
                prop_assert_eq!(slice.from, next[at]);
                let taken = step.min(slice.until - slice.from);
                next[at] += taken;
                place += taken;
            }
            prop_assert_eq!(place, sequence.len());
            for (next, partition) in next.iter().zip(&partitions) {
                prop_assert_eq!(*next, partition.end_offset);
            }
        }
    }
}
