//! Which offset of a partition may be committed, and what is finished beyond it. Pure.
//!
//! Records finish out of order: a slow recipient must not hold back what came after it, nor a tenant with very many messages those of
//! others. A commit therefore says two things: the offset below which all is finished, and, in its metadata, which runs of
//! offsets above it are *not*.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rangemap::RangeSet;

use crate::Offset;

/// Runs of unfinished offsets that a commit names, at most. What is above them counts as unfinished altogether.
pub const MAX_RUNS: usize = 1_024;

/// The longest metadata of a commit in bytes (Kafka's `offset.metadata.max.bytes`, whose default this is).
pub const MAX_METADATA_BYTES: usize = 4_096;

/// Begins every metadata, so that another form can follow one day.
const VERSION: &str = "2:";

/// What a group has committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// All below this is finished; where a new owner begins to read.
    pub next: Offset,
    /// Nothing at or above this is finished. Never below `next`.
    pub horizon: Offset,
    /// What between the two is not finished.
    pub unfinished: RangeSet<Offset>,
}

impl Committed {
    /// Everything below `next` is finished, nothing else.
    pub fn at(next: Offset) -> Self {
        Self { next, horizon: next, unfinished: RangeSet::new() }
    }

    /// Whether a record was finished.
    pub fn is_finished(&self, offset: Offset) -> bool {
        offset < self.next || (offset < self.horizon && !self.unfinished.contains(&offset))
    }

    /// The metadata of the commit: empty when nothing is finished beyond `next`. At most [`MAX_RUNS`] runs of offsets and
    /// [`MAX_METADATA_BYTES`] bytes: where more would be needed, the horizon is lowered, so that finished records may be
    /// redone but none is skipped.
    pub fn metadata(&self) -> String {
        if self.horizon == self.next {
            return String::new();
        }
        let mut horizon = self.horizon;
        let mut runs = Vec::new();
        let mut before = self.next;
        // 4 bytes of base64 for 3, the version, and the horizon's own 10 bytes at most.
        let room = (MAX_METADATA_BYTES - VERSION.len()) / 4 * 3 - 10;
        for (count, run) in self.unfinished.iter().enumerate() {
            let length = runs.len();
            write_run(&mut runs, before, run);
            if count == MAX_RUNS || runs.len() > room {
                runs.truncate(length);
                horizon = run.start;
                break;
            }
            before = run.end;
        }
        let mut bytes = Vec::with_capacity(runs.len() + 10);
        write_varint(&mut bytes, horizon.abs_diff(self.next));
        bytes.append(&mut runs);
        format!("{VERSION}{}", STANDARD_NO_PAD.encode(bytes))
    }

    /// Reads a commit. Metadata that is not ours counts as none: records may be redone, none is skipped.
    pub fn parse(next: Offset, metadata: &str) -> Self {
        Self::parse_metadata(next, metadata).unwrap_or_else(|| Self::at(next))
    }

    fn parse_metadata(next: Offset, metadata: &str) -> Option<Self> {
        let bytes = STANDARD_NO_PAD.decode(metadata.strip_prefix(VERSION)?).ok()?;
        let mut rest = bytes.as_slice();
        let horizon = next.checked_add_unsigned(read_varint(&mut rest)?)?;
        let mut unfinished = RangeSet::new();
        let mut before = next;
        while !rest.is_empty() {
            let run = read_run(&mut rest, before)?;
            if run.end > horizon || (run.start == before && before > next) {
                return None;
            }
            before = run.end;
            unfinished.insert(run);
        }
        Some(Self { next, horizon, unfinished })
    }
}

/// What of a partition is under way, while it is owned.
#[derive(Debug)]
pub struct Offsets {
    /// Not finished, below the horizon: begun, or to be begun again after a new owner has read up to it.
    open: RangeSet<Offset>,
    /// Nothing at or above this is finished.
    horizon: Offset,
    /// Everything below this has been read by this owner.
    read_to: Offset,
}

impl Offsets {
    /// Goes on from what was committed.
    pub fn resume(committed: &Committed) -> Self {
        Self { open: committed.unfinished.clone(), horizon: committed.horizon, read_to: committed.next }
    }

    /// A record has been read; `false` when it is finished already and is to be passed over. Records come in the order of
    /// their offsets, perhaps with gaps (retention, compaction): what was open in a gap is gone, and no longer waited for.
    pub fn begin(&mut self, offset: Offset) -> bool {
        debug_assert!(offset >= self.read_to, "offset {offset} after {}", self.read_to);
        if self.read_to < offset {
            self.open.remove(self.read_to..offset);
        }
        self.read_to = offset + 1;
        if offset >= self.horizon {
            self.horizon = offset + 1;
            self.open.insert(offset..offset + 1);
            return true;
        }
        self.open.contains(&offset)
    }

    /// A record that was begun is finished. More than once is as good as once.
    pub fn finish(&mut self, offset: Offset) {
        self.open.remove(offset..offset + 1);
    }

    /// Whether this owner has read everything below this offset.
    pub fn has_read_to(&self, offset: Offset) -> bool {
        self.read_to >= offset
    }

    /// The first offset that is not finished, and how many are not finished below `next`, read or not.
    pub fn unfinished_up_to(&self, next: Offset) -> (Offset, u64) {
        let unread = next.saturating_sub(self.horizon).max(0).unsigned_abs();
        let open: u64 = self.open.iter().map(|run| run.end.abs_diff(run.start)).sum();
        (self.first(), open + unread)
    }

    /// How many runs of offsets are not finished, below the horizon: what a commit has to name.
    pub fn runs(&self) -> usize {
        self.open.len()
    }

    /// What may be committed now.
    pub fn committable(&self) -> Committed {
        // One more than is named says where the horizon is lowered to.
        let unfinished = self.open.iter().take(MAX_RUNS + 1).cloned().collect();
        Committed { next: self.first(), horizon: self.horizon, unfinished }
    }

    fn first(&self) -> Offset {
        self.open.first().map_or(self.horizon, |run| run.start)
    }
}

/// How far a run begins behind the one before, twice, and one more if it is longer than one offset; then by how much more than two.
fn write_run(bytes: &mut Vec<u8>, before: Offset, run: &Range<Offset>) {
    let (gap, length) = (run.start.abs_diff(before), run.end.abs_diff(run.start));
    write_varint(bytes, gap << 1 | u64::from(length > 1));
    if length > 1 {
        write_varint(bytes, length - 2);
    }
}

fn read_run(bytes: &mut &[u8], before: Offset) -> Option<Range<Offset>> {
    let first = read_varint(bytes)?;
    let length = if first & 1 == 1 { read_varint(bytes)?.checked_add(2)? } else { 1 };
    let start = before.checked_add_unsigned(first >> 1)?;
    Some(start..start.checked_add_unsigned(length)?)
}

/// LEB128: seven bits a byte, the lowest first.
fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn runs(offsets: impl IntoIterator<Item = Offset>) -> RangeSet<Offset> {
        offsets.into_iter().map(|offset| offset..offset + 1).collect()
    }

    #[test]
    fn only_the_contiguous_part_is_committed_and_the_rest_is_named() {
        let mut offsets = Offsets::resume(&Committed::at(10));
        for offset in 10..15 {
            assert!(offsets.begin(offset));
        }
        offsets.finish(12);
        offsets.finish(10);
        let committed = offsets.committable();
        assert_eq!(committed, Committed { next: 11, horizon: 15, unfinished: runs([11, 13, 14]) });
        assert_eq!(Committed::parse(11, &committed.metadata()), committed);
    }

    #[test]
    fn what_is_not_finished_is_counted_whether_it_was_read_or_not() {
        let committed = Committed { next: 11, horizon: 15, unfinished: runs([11, 13]) };
        let mut offsets = Offsets::resume(&committed);
        assert_eq!(offsets.unfinished_up_to(20), (11, 2 + 5));
        assert!(!offsets.has_read_to(12) && offsets.has_read_to(11));
        for offset in 11..17 {
            offsets.begin(offset);
        }
        assert_eq!(offsets.unfinished_up_to(20), (11, 2 + 5));
        assert!(offsets.has_read_to(17) && !offsets.has_read_to(18));
        [11, 13, 15, 16].into_iter().for_each(|offset| offsets.finish(offset));
        assert_eq!(offsets.unfinished_up_to(20), (17, 3));
        assert_eq!(offsets.unfinished_up_to(17), (17, 0));
    }

    #[test]
    fn all_finished_needs_no_metadata() {
        let mut offsets = Offsets::resume(&Committed::at(0));
        assert!(offsets.begin(0));
        offsets.finish(0);
        assert_eq!(offsets.committable(), Committed::at(1));
        assert_eq!(offsets.committable().metadata(), "");
    }

    #[test]
    fn a_new_owner_passes_over_what_is_finished() {
        let committed = Committed { next: 3, horizon: 8, unfinished: runs([3, 6]) };
        let mut offsets = Offsets::resume(&committed);
        let begun: Vec<_> = (3..10).filter(|offset| offsets.begin(*offset)).collect();
        assert_eq!(begun, [3, 6, 8, 9]);
    }

    #[test]
    fn what_was_known_is_still_known_before_it_is_read_again() {
        let committed = Committed { next: 3, horizon: 8, unfinished: runs([3, 6]) };
        assert_eq!(Offsets::resume(&committed).committable(), committed);
    }

    #[test]
    fn an_open_offset_that_retention_took_is_not_waited_for() {
        let mut offsets = Offsets::resume(&Committed { next: 3, horizon: 8, unfinished: runs([3, 6]) });
        assert!(offsets.begin(20));
        offsets.finish(20);
        assert_eq!(offsets.committable(), Committed::at(21));
    }

    #[test]
    fn too_many_to_name_lowers_the_horizon() {
        let committed = Committed { next: 0, horizon: 6_000, unfinished: runs((0..3_000).map(|n| n * 2)) };
        let parsed = Committed::parse(0, &committed.metadata());
        assert_eq!(parsed.unfinished.len(), MAX_RUNS);
        assert_eq!(parsed.horizon, 2 * Offset::try_from(MAX_RUNS).expect("small"));
        assert!(parsed.is_finished(1) && !parsed.is_finished(2) && !parsed.is_finished(4_001));
    }

    #[test]
    fn a_long_run_takes_no_more_room_than_its_ends() {
        let unfinished: RangeSet<_> = (0..700).map(|n| n * 10_000..n * 10_000 + 9_000).collect();
        let committed = Committed { next: 0, horizon: 7_000_000, unfinished };
        assert!(Committed::parse(0, &committed.metadata()) == committed);
    }

    #[test]
    fn metadata_of_another_kind_counts_as_none() {
        // The last ones: a run beyond the horizon, two runs that are one, a length that no offset has.
        for metadata in ["", "x", "2:", "2:!", "1:AAAA", "2:////////////////", "2:AQQ", "2:CAAA", "2:CAH///////////8B"]
        {
            assert_eq!(Committed::parse(7, metadata), Committed::at(7), "{metadata}");
        }
    }

    proptest! {
        /// Whatever finishes in whatever order, and whenever a new owner takes over: nothing unfinished is ever counted as
        /// finished, and metadata always fits.
        #[test]
        fn no_commit_ever_covers_what_is_unfinished(
            steps in prop::collection::vec((0..3u8, any::<prop::sample::Index>(), 1..2_000_000i64), 1..400),
        ) {
            let mut offsets = Offsets::resume(&Committed::at(0));
            let (mut next, mut begun, mut finished) = (0, Vec::new(), BTreeSet::new());
            for (step, index, gap) in steps {
                match step {
                    0 | 1 if step == 0 || begun.is_empty() => {
                        next += if gap % 5 == 0 { gap } else { 1 };
                        if offsets.begin(next) {
                            prop_assert!(!finished.contains(&next));
                            begun.push(next);
                        }
                    }
                    _ => {
                        if !begun.is_empty() {
                            let offset = begun.swap_remove(index.index(begun.len()));
                            offsets.finish(offset);
                            finished.insert(offset);
                        }
                    }
                }
                let committed = offsets.committable();
                let metadata = committed.metadata();
                prop_assert!(metadata.len() <= MAX_METADATA_BYTES);
                let parsed = Committed::parse(committed.next, &metadata);
                for offset in &begun {
                    prop_assert!(!parsed.is_finished(*offset));
                }
                for offset in &finished {
                    prop_assert!(parsed.is_finished(*offset));
                }
            }
        }

        #[test]
        fn parsing_metadata_never_panics(next in 0..i64::MAX, metadata in "(2:)?[A-Za-z0-9+/]{0,40}") {
            let parsed = Committed::parse(next, &metadata);
            prop_assert!(parsed.horizon >= parsed.next);
        }
    }
}
