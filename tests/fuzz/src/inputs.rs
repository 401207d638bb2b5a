//! Inputs at random: what is in the corpus, changed in a few places; words of the target in any order; and any bytes.

use std::fmt;
use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::Target;

/// The longest, in bytes; longer than any limit that a target knows.
const MAX_BYTES: usize = 4_096;

/// An input, which shows itself as it can be written in a shell or in Rust.
#[derive(Clone)]
pub struct Input(pub Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// A change of an input; places are found modulo its length.
#[derive(Debug, Clone)]
enum Change {
    Insert(Index, Vec<u8>),
    Replace(Index, u8),
    /// The word at a place by another.
    Word(Index, Vec<u8>),
    Flip(Index, u8),
    Delete(Index, usize),
    /// A part of it again, elsewhere, some times.
    Repeat(Index, usize, Index, usize),
    /// The rest of another one.
    Splice(Index, Vec<u8>, Index),
}

impl Change {
    fn apply(self, input: &mut Vec<u8>) {
        let (length, part) = (input.len(), |at: usize, length: usize, count: usize| at..(at + count).min(length));
        match self {
            Self::Insert(at, bytes) => {
                let at = at.index(length + 1);
                input.splice(at..at, bytes);
            }
            Self::Splice(at, other, from) => {
                input.truncate(at.index(length + 1));
                input.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
            _ if length == 0 => {}
            Self::Replace(at, byte) => input[at.index(length)] = byte,
            Self::Word(at, word) => drop(input.splice(word_at(input, at.index(length)), word)),
            Self::Flip(at, bit) => input[at.index(length)] ^= 1 << (bit % 8),
            Self::Delete(at, count) => drop(input.drain(part(at.index(length), length, count))),
            Self::Repeat(from, count, to, times) => {
                let copy = input[part(from.index(length), length, count)].repeat(times);
                let to = to.index(length + 1);
                input.splice(to..to, copy);
            }
        }
        input.truncate(MAX_BYTES);
    }
}

/// Where the word around a place begins and ends: letters and digits, or one byte of anything else.
fn word_at(input: &[u8], at: usize) -> Range<usize> {
    let is_other = |byte: &u8| !byte.is_ascii_alphanumeric();
    let start = input[..at].iter().rposition(is_other).map_or(0, |before| before + 1);
    let end = input[at..].iter().position(is_other).map_or(input.len(), |after| at + after);
    if start <= at && at < end { start..end } else { at..at + 1 }
}

/// Inputs for a target that has this corpus.
pub fn inputs(target: &Target, corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Input> + use<> {
    let word = select(target.dictionary).prop_map(|word| word.as_bytes().to_vec());
    let place = any::<Index>;
    let change = prop_oneof![
        4 => (place(), word.clone()).prop_map(|(at, word)| Change::Insert(at, word)),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        4 => (place(), word.clone()).prop_map(|(at, word)| Change::Word(at, word)),
        2 => (place(), b' '..=b'~').prop_map(|(at, byte)| Change::Replace(at, byte)),
        1 => (place(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        3 => (place(), 1..12_usize).prop_map(|(at, count)| Change::Delete(at, count)),
        2 => (place(), 1..40_usize, place(), 1..4_usize)
            .prop_map(|(from, count, to, times)| Change::Repeat(from, count, to, times)),
        1 => (place(), 1..4_usize, place(), 20..200_usize)
            .prop_map(|(from, count, to, times)| Change::Repeat(from, count, to, times)),
        1 => (place(), select(corpus.clone()), place()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ];
    let changed = (select(corpus), prop::collection::vec(change, 0..6)).prop_map(|(mut input, changes)| {
        changes.into_iter().for_each(|change| change.apply(&mut input));
        input
    });
    let words = prop::collection::vec(word, 0..24).prop_map(|words| words.concat());
    prop_oneof![
        8 => changed,
        3 => words,
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
    .prop_map(Input)
}
