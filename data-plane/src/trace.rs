//! W3C Trace Context, level 1: what a publish call brings is read and checked here, and what a request carries is made here.
//! Pure: ids are passed in.

use std::fmt;

/// The most characters of `tracestate` that are passed on; what is longer is dropped whole.
const MAX_STATE_CHARS: usize = 512;
/// The most members of a `tracestate`.
const MAX_STATE_MEMBERS: usize = 32;

/// A `traceparent`: one trace, and the span in it that comes before ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    trace: u128,
    span: u64,
    sampled: bool,
}

/// Random ids.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// Id of the trace, for one that is begun.
    pub trace: u128,
    /// Id of the span.
    pub span: u64,
}

impl Ids {
    /// New ones.
    pub fn random() -> Self {
        Self { trace: rand::random(), span: rand::random() }
    }
}

impl Context {
    /// Begins a trace: sampled if something of it is recorded.
    pub fn begin(ids: Ids, sampled: bool) -> Self {
        // All zeros are not an id.
        Self { trace: ids.trace.max(1), span: ids.span.max(1), sampled }
    }

    /// Id of the trace.
    pub fn trace_id(&self) -> u128 {
        self.trace
    }

    /// Id of the span.
    pub fn span_id(&self) -> u64 {
        self.span
    }

    /// Whether what belongs to the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Reads a `traceparent`, of this version or a later one; `None` if it is malformed.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may add parts; version 00 has none, and ff is never one.
        let complete = version != 0xff && (version != 0 || parts.next().is_none());
        (complete && trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// The same trace with another span.
    #[must_use]
    pub fn child(self, ids: Ids) -> Self {
        Self { span: ids.span.max(1), ..self }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// `traceparent` of a request that follows from a record with this one: in the same trace, or in a new one if that is none.
/// The second says which.
pub fn child_of(traceparent: &str, ids: Ids) -> (String, bool) {
    match Context::parse(traceparent) {
        Some(parent) => (parent.child(ids).to_string(), true),
        None => (Context::begin(ids, false).to_string(), false),
    }
}

/// Joins the `tracestate` headers of a call into one; empty if they are malformed or too long, since a part of a
/// `tracestate` would be worth nothing.
pub fn state<'a>(headers: impl IntoIterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    let mut members = 0;
    for member in headers.into_iter().flat_map(|header| header.split(',')) {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        members += 1;
        if !is_member(member) || members > MAX_STATE_MEMBERS || joined.len() + member.len() + 1 > MAX_STATE_CHARS {
            return String::new();
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(member);
    }
    joined
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let in_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
    let in_value = |b: u8| (0x20..=0x7e).contains(&b) && b != b'=';
    let begins_well = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    begins_well
        && key.len() <= 256
        && key.bytes().all(in_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(in_value)
}

/// Exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(lower_hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDS: Ids = Ids { trace: 0xabc, span: 0x12 };
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_child_is_of_the_same_trace_with_a_span_of_its_own() {
        let parent = Context::parse(PARENT).expect("valid");
        assert_eq!(parent.to_string(), PARENT);
        let child = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000012-01";
        assert_eq!(child_of(PARENT, IDS), (child.to_owned(), true));
    }

    #[test]
    fn without_a_parent_a_trace_is_begun() {
        let begun = "00-00000000000000000000000000000abc-0000000000000012-00";
        for none in ["", "nonsense"] {
            assert_eq!(child_of(none, IDS), (begun.to_owned(), false));
        }
        assert!(Context::parse(&child_of("", Ids { trace: 0, span: 0 }).0).is_some(), "zeros are not ids");
    }

    #[test]
    fn a_later_version_is_read_as_this_one() {
        let later = PARENT.replacen("00-", "cc-", 1) + "-what-the-future-brings";
        assert_eq!(Context::parse(&later).expect("valid").to_string(), PARENT);
    }

    #[test]
    fn malformed_parents_are_refused() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn states_are_joined_and_a_malformed_one_drops_all() {
        assert_eq!(state(["a=1, b=2", "", "t@v=x y"]), "a=1,b=2,t@v=x y");
        for wrong in ["a", "=1", "A=1", "a=1=2", "a=", "a=é", "a=1,b"] {
            assert_eq!(state([wrong]), "", "{wrong}");
        }
        let many: Vec<_> = (0..33).map(|n| format!("k{n}=v")).collect();
        assert_eq!(state([many.join(",").as_str()]), "");
        assert_eq!(state([many[1..].join(",").as_str()]), many[1..].join(","));
        assert_eq!(state([format!("a={}", "v".repeat(256)).as_str(), format!("b={}", "v".repeat(256)).as_str()]), "");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            let _ = Context::parse(&text);
            let _ = state([text.as_str()]);
        }

        #[test]
        fn what_was_printed_is_read_again(trace in 1..u128::MAX, span in 1..u64::MAX, sampled: bool) {
            let context = Context { trace, span, sampled };
            prop_assert_eq!(Context::parse(&context.to_string()), Some(context));
        }
    }
}
