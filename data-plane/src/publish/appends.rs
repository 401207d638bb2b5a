//! Appends that a call or a stream has under way, and what became of them, in order.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hookwire_log::{Log, Pending, codec};
use hookwire_proto::google_rpc;
use hookwire_proto::log::MessageRecord;
use hookwire_proto::v1::PublishResult;
use tokio::time::{Instant, Sleep, sleep_until};

use super::circuit::{Circuit, Probe};
use crate::error::append_status;
use crate::metrics::Metrics;

/// Messages without a result, oldest first.
///
/// Only the oldest is waited for, since results are told in order: nothing is spawned or registered for each message.
pub(super) struct Appends {
    log: Arc<dyn Log>,
    circuit: Arc<Circuit>,
    metrics: Metrics,
    timeout: Duration,
    open: VecDeque<Open>,
    bytes: usize,
    /// Never later than the deadline of the oldest. It is set anew only when it has passed.
    timer: Option<Pin<Box<Sleep>>>,
}

struct Open {
    name: String,
    bytes: usize,
    begun: Instant,
    state: State,
    /// Given back with the result.
    probe: Option<Probe>,
}

enum State {
    Pending(Pending),
    Refused(google_rpc::Status),
}

impl Appends {
    pub(super) fn new(log: Arc<dyn Log>, circuit: Arc<Circuit>, metrics: Metrics, timeout: Duration) -> Self {
        Self { log, circuit, metrics, timeout, open: VecDeque::new(), bytes: 0, timer: None }
    }

    /// How many have no result yet.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// How many bytes of payload these have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a message.
    pub(super) fn append(&mut self, record: MessageRecord) {
        let pending = self.log.append(codec::message(self.log.layout(), &record));
        let name = format!("{}/messages/{}", record.tenant, record.message_id);
        self.push(name, record.payload.len(), State::Pending(pending));
    }

    /// A message that is not appended has this for a result, in its turn.
    pub(super) fn refuse(&mut self, status: google_rpc::Status) {
        self.metrics.refused(1);
        self.push(String::new(), 0, State::Refused(status));
    }

    /// Keeps the probe until the newest has its result.
    pub(super) fn keep(&mut self, probe: Option<Probe>) {
        if let Some(newest) = self.open.back_mut() {
            newest.probe = probe;
        }
    }

    fn push(&mut self, name: String, bytes: usize, state: State) {
        self.bytes += bytes;
        self.open.push_back(Open { name, bytes, begun: Instant::now(), state, probe: None });
    }

    /// The result of the oldest, as soon as it has one; `None` if there is none. Nothing is lost if this is dropped.
    pub(super) async fn next(&mut self) -> Option<PublishResult> {
        poll_fn(|context| self.poll_next(context)).await
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<PublishResult>> {
        let Some(oldest) = self.open.front_mut() else { return Poll::Ready(None) };
        let error = match &mut oldest.state {
            State::Refused(status) => Some(std::mem::take(status)),
            State::Pending(pending) => match Pin::new(pending).poll(context) {
                Poll::Ready(Ok(_)) => {
                    self.metrics.acknowledged(oldest.begun.elapsed());
                    self.circuit.acknowledged();
                    None
                }
                Poll::Ready(Err(error)) => Some(self.failed(&error)),
                Poll::Pending => {
                    ready!(self.poll_overdue(context));
                    let detail = format!("no acknowledgement within {:?}", self.timeout);
                    Some(self.failed(&hookwire_log::Error::Unavailable { detail }))
                }
            },
        };
        let Open { name, bytes, .. } = self.open.pop_front().expect("it is the oldest");
        self.bytes -= bytes;
        Poll::Ready(Some(PublishResult { name, error }))
    }

    fn failed(&self, error: &hookwire_log::Error) -> google_rpc::Status {
        self.metrics.unacknowledged();
        if let (hookwire_log::Error::Unavailable { .. }, Some(oldest)) = (error, self.open.front()) {
            self.circuit.failed(oldest.begun, error);
        }
        append_status(error)
    }

    /// Ready when the oldest has waited for too long.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.open.front().map(|oldest| oldest.begun + self.timeout) else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(context));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
