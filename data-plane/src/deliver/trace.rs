//! W3C trace context, level 1: an attempt is a span of the trace that the publish call belongs to. Pure: ids are passed in.

/// Random ids of a request.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// Id of the trace, for a request that begins one.
    pub trace: u128,
    /// Id of the request's span.
    pub span: u64,
}

/// `traceparent` of a request: in the same trace as `parent`, or in a new one if that is none. The second says which.
pub fn child_of(parent: &str, ids: Ids) -> (String, bool) {
    // All zeros are not an id.
    let span = ids.span.max(1);
    match parse(parent) {
        Some((trace, flags)) => (format!("00-{trace}-{span:016x}-{flags}"), true),
        None => (format!("00-{:032x}-{span:016x}-01", ids.trace.max(1)), false),
    }
}

/// Trace id and flags.
fn parse(parent: &str) -> Option<(&str, &str)> {
    let mut parts = parent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let id = |text: &str, length: usize| hex(text, length) && text.bytes().any(|byte| byte != b'0');
    // A later version may have more parts.
    let version = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    (version && id(trace, 32) && id(span, 16) && hex(flags, 2)).then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: Ids = Ids { trace: 0xabc, span: 0x12 };

    #[test]
    fn the_trace_goes_on_with_a_span_of_its_own() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let child = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000012-00";
        assert_eq!(child_of(parent, IDS), (child.to_owned(), true));
        let later = parent.replacen("00", "cc", 1) + "-what-the-future-brings";
        assert_eq!(child_of(&later, IDS), (child.to_owned(), true));
    }

    #[test]
    fn what_is_no_parent_begins_a_trace() {
        let new = "00-00000000000000000000000000000abc-0000000000000012-01";
        for parent in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\n",
        ] {
            assert_eq!(child_of(parent, IDS), (new.to_owned(), false), "{parent}");
        }
        let zeros = child_of("", Ids { trace: 0, span: 0 }).0;
        assert_eq!(zeros, "00-00000000000000000000000000000001-0000000000000001-01");
    }
}
