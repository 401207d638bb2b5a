//! What is written down in `ids`: stretches of a partition of `messages` and the ids in them. Pure.
//!
//! A segment says what is so of offsets that never change. So it does not matter who appended it and when: an owner that was stopped,
//! and goes on after another has taken over, may add one late, and it says nothing that the other does not know or might not.

use std::ops::Range;

use hookwire_log::Offset;
use hookwire_proto::log::IdSegment;

use super::{Entry, Id};

/// A stretch of a partition and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// All its offsets.
    pub range: Range<Offset>,
    /// Its records, ascending.
    pub entries: Vec<Entry>,
}

/// A segment that says what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} of a segment is malformed")]
pub(super) struct Malformed(&'static str);

impl From<&Segment> for IdSegment {
    fn from(segment: &Segment) -> Self {
        let (mut offset, mut time_ms) = (segment.range.start, 0);
        let mut written = Self {
            first_offset: segment.range.start,
            next_offset: segment.range.end,
            ids: segment.entries.iter().flat_map(|entry| entry.id.0).collect(),
            ..Self::default()
        };
        for entry in &segment.entries {
            written.offset_deltas.push(entry.offset.abs_diff(offset));
            written.time_ms_deltas.push(entry.time_ms.wrapping_sub(time_ms));
            (offset, time_ms) = (entry.offset, entry.time_ms);
        }
        written
    }
}

impl TryFrom<IdSegment> for Segment {
    type Error = Malformed;

    fn try_from(written: IdSegment) -> Result<Self, Malformed> {
        let range = written.first_offset..written.next_offset;
        if range.start < 0 || range.is_empty() {
            return Err(Malformed("next_offset"));
        }
        let (ids, rest) = written.ids.as_chunks::<{ Id::BYTES }>();
        if !rest.is_empty() || ids.len() != written.offset_deltas.len() || ids.len() != written.time_ms_deltas.len() {
            return Err(Malformed("ids"));
        }
        let (mut offset, mut time_ms) = (range.start, 0_i64);
        let mut entries = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            let delta = written.offset_deltas[index];
            offset = offset.checked_add_unsigned(delta).ok_or(Malformed("offset_deltas"))?;
            if !range.contains(&offset) || (index > 0 && delta == 0) {
                return Err(Malformed("offset_deltas"));
            }
            time_ms = time_ms.wrapping_add(written.time_ms_deltas[index]);
            entries.push(Entry { offset, time_ms, id: Id(*id) });
        }
        Ok(Self { range, entries })
    }
}

/// What segments, however they came, say of a range of offsets: its entries, ascending and each once, and the ranges of which they
/// say nothing, ascending.
pub(super) fn of_range(range: &Range<Offset>, mut segments: Vec<Segment>) -> (Vec<Entry>, Vec<Range<Offset>>) {
    segments.sort_by_key(|segment| segment.range.start);
    let (mut entries, mut gaps) = (Vec::new(), Vec::new());
    let mut told = range.start;
    for segment in segments {
        let begin = segment.range.start.clamp(told, range.end.max(told));
        if told < begin {
            gaps.push(told..begin);
        }
        // What is below is told already.
        entries.extend(segment.entries.into_iter().filter(|entry| (begin..range.end).contains(&entry.offset)));
        told = told.max(segment.range.end);
    }
    if told < range.end {
        gaps.push(told..range.end);
    }
    (entries, gaps)
}
