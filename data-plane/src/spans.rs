//! What a node adds to traces: a span for each publish call and for each attempt, of traces that are sampled. Where spans go is the
//! business of whoever runs the node.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::trace::{Context, Ids};

/// Something that was done, as a part of a trace.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace, and its own id.
    pub context: Context,
    /// The span that it follows from, of another process; `None` for the first of its trace.
    pub parent: Option<Context>,
    /// What was done.
    pub kind: Kind,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What else there is to say: names by OpenTelemetry's conventions, and with `hookwire.` before it what they have no name for.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call that publishes, or one request of a stream, until all of it is in the log or refused; of a stream, until it is given to the log.
    Publish,
    /// An attempt to deliver.
    Attempt,
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// Takes spans. It must not wait: who has too many drops some.
pub trait Record: Send + Sync {
    /// Takes one.
    fn record(&self, span: Span);
}

/// Where spans go, if anywhere. Clones share it.
#[derive(Clone, Default)]
pub struct Spans {
    to: Option<Arc<dyn Record>>,
    sample: f64,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("sample", &self.sample).finish_non_exhaustive()
    }
}

/// A span that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Its context, for what follows from it.
    pub context: Context,
    parent: Option<Context>,
    started: SystemTime,
}

impl Spans {
    /// Spans of traces that are sampled go there; of those that begin here, this part is sampled, 0 to 1.
    pub fn new(to: Arc<dyn Record>, sample: f64) -> Self {
        Self { to: Some(to), sample }
    }

    /// Begins the span of a call. Where nothing is recorded, what follows is said to follow from the caller's span.
    pub(crate) fn call(&self, caller: Option<Context>) -> Begun {
        let started = SystemTime::now();
        let context = match (caller, &self.to) {
            (Some(caller), Some(_)) if caller.is_sampled() => caller.child(Ids::random()),
            (Some(caller), _) => caller,
            (None, to) => Context::begin(Ids::random(), to.is_some() && rand::random_bool(self.sample)),
        };
        Begun { context, parent: caller, started }
    }

    /// Begins the span of an attempt, which has these ids, in the trace of its message; in one that begins here if there is none.
    pub(crate) fn attempt(&self, traceparent: &str, ids: Ids) -> Begun {
        let parent = Context::parse(traceparent);
        let context = parent.map_or_else(|| Context::begin(ids, false), |parent| parent.child(ids));
        Begun { context, parent, started: SystemTime::now() }
    }

    /// Whether a span is going to be recorded when it ends.
    pub(crate) fn records(&self, begun: &Begun) -> bool {
        self.to.is_some() && begun.context.is_sampled()
    }

    /// Records a span that ends now, if its trace is sampled; only then it is asked for what there is to say.
    pub(crate) fn end(
        &self,
        begun: Begun,
        kind: Kind,
        said: impl FnOnce() -> (Vec<(&'static str, Value)>, Option<String>),
    ) {
        let Some(to) = self.to.as_ref().filter(|_| begun.context.is_sampled()) else { return };
        let Begun { context, parent, started } = begun;
        let (attributes, error) = said();
        let duration = started.elapsed().unwrap_or_default();
        to.record(Span { context, parent, kind, started, duration, attributes, error });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl Record for Kept {
        fn record(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn ended(spans: &Spans, begun: Begun) {
        spans.end(begun, Kind::Publish, || (vec![("hookwire.tenant", "tenants/t".into())], None));
    }

    #[test]
    fn what_follows_from_a_call_follows_from_its_span_and_that_from_the_caller() {
        let kept = Arc::new(Kept::default());
        let spans = Spans::new(kept.clone(), 0.0);
        let call = spans.call(Context::parse(SAMPLED));
        let ids = Ids { trace: 7, span: 8 };
        let attempt = spans.attempt(&call.context.to_string(), ids);
        assert_eq!(attempt.context.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000008-01");
        ended(&spans, call);
        ended(&spans, attempt);
        let kept = kept.0.lock().unwrap();
        assert_eq!(kept[0].parent.map(|parent| parent.to_string()).as_deref(), Some(SAMPLED));
        assert_eq!(kept[1].parent, Some(kept[0].context));
        assert_ne!(kept[0].context.span_id(), Context::parse(SAMPLED).unwrap().span_id());
        assert_eq!(kept[0].attributes, [("hookwire.tenant", Value::Text("tenants/t".into()))]);
    }

    #[test]
    fn what_is_not_sampled_is_not_recorded_and_passed_on_as_it_came() {
        let kept = Arc::new(Kept::default());
        for spans in [Spans::default(), Spans::new(kept.clone(), 1.0)] {
            let call = spans.call(Context::parse(NOT_SAMPLED));
            assert_eq!(call.context.to_string(), NOT_SAMPLED);
            ended(&spans, call);
        }
        // And without a recorder, what is sampled elsewhere.
        let call = Spans::default().call(Context::parse(SAMPLED));
        assert_eq!(call.context.to_string(), SAMPLED);
        ended(&Spans::default(), call);
        assert!(kept.0.lock().unwrap().is_empty());
    }

    #[test]
    fn of_traces_that_begin_here_a_part_is_sampled() {
        let kept = Arc::new(Kept::default());
        for (sample, expected) in [(0.0, 0), (1.0, 100)] {
            let spans = Spans::new(kept.clone(), sample);
            (0..100).for_each(|_| ended(&spans, spans.call(None)));
            assert_eq!(kept.0.lock().unwrap().len(), expected);
        }
        assert!(kept.0.lock().unwrap().iter().all(|span| span.parent.is_none()));
        assert!(!Spans::default().call(None).context.is_sampled());
    }
}
