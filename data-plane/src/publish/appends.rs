//! The messages of a call or a stream that have no result yet: appended to the log, or waiting for a place ([`share`](super::share)); and
//! what became of them, in order.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hookwire_log::{Log, NewRecord, Pending, codec};
use hookwire_proto::google_rpc;
use hookwire_proto::log::MessageRecord;
use hookwire_proto::v1::PublishResult;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::PollSemaphore;

use super::circuit::{Circuit, Probe};
use super::share::Shares;
use crate::error::{Error, append_status};
use crate::metrics::Metrics;

/// Messages without a result, oldest first: those that are appended, and behind them those that wait for a place.
///
/// Only the oldest is waited for, since results are told in order, and a place for the first that waits: nothing is spawned or registered for each
/// message.
pub(super) struct Appends {
    log: Arc<dyn Log>,
    circuit: Arc<Circuit>,
    shares: Arc<Shares>,
    metrics: Metrics,
    timeout: Duration,
    open: VecDeque<Open>,
    /// How many of them do not wait for a place, from the oldest on.
    begun: usize,
    /// The tenant, which is that of the first message and of all others, and its places.
    tenant: Option<(String, PollSemaphore)>,
    bytes: usize,
    /// Never later than the deadline of the oldest. It is set anew only when it has passed.
    timer: Option<Pin<Box<Sleep>>>,
}

struct Open {
    name: String,
    bytes: usize,
    begun: Instant,
    state: State,
    /// Given back with the result, as is its place, if it needed one.
    probe: Option<Probe>,
    place: Option<OwnedSemaphorePermit>,
}

enum State {
    /// For a place.
    Waiting(NewRecord),
    Pending(Pending),
    Refused(google_rpc::Status),
}

impl Appends {
    pub(super) fn new(
        log: Arc<dyn Log>,
        circuit: Arc<Circuit>,
        shares: Arc<Shares>,
        metrics: Metrics,
        timeout: Duration,
    ) -> Self {
        let open = VecDeque::new();
        Self { log, circuit, shares, metrics, timeout, open, begun: 0, tenant: None, bytes: 0, timer: None }
    }

    /// How many have no result yet.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// How many bytes of payload these have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a message, as soon as there is a place for it. All are of one tenant.
    pub(super) fn append(&mut self, record: MessageRecord) {
        let new = codec::message(self.log.layout(), &record);
        let name = format!("{}/messages/{}", record.tenant, record.message_id);
        let bytes = record.payload.len();
        let shares = &self.shares;
        let (tenant, places) = self.tenant.get_or_insert_with(|| {
            let places = PollSemaphore::new(shares.places(&record.tenant));
            (record.tenant, places)
        });
        let (place, is_first) = (places.clone_inner().try_acquire_owned().ok(), self.begun == self.open.len());
        if is_first && (place.is_some() || shares.is_alone(tenant)) {
            let pending = self.log.append(new);
            self.push(name, bytes, State::Pending(pending), place);
            self.begun += 1;
        } else {
            self.push(name, bytes, State::Waiting(new), None);
        }
    }

    /// A message that is not appended has this for a result, in its turn.
    pub(super) fn refuse(&mut self, status: google_rpc::Status) {
        self.metrics.refused(1);
        self.begun += usize::from(self.begun == self.open.len());
        self.push(String::new(), 0, State::Refused(status), None);
    }

    /// Keeps the probe until the newest has its result.
    pub(super) fn keep(&mut self, probe: Option<Probe>) {
        if let Some(newest) = self.open.back_mut() {
            newest.probe = probe;
        }
    }

    fn push(&mut self, name: String, bytes: usize, state: State, place: Option<OwnedSemaphorePermit>) {
        self.bytes += bytes;
        self.open.push_back(Open { name, bytes, begun: Instant::now(), state, probe: None, place });
    }

    /// Appends those that wait, as far as there are places; while the log is away they are refused instead. Ready when none waits.
    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(open) = self.open.get_mut(self.begun) {
            if let State::Waiting(record) = &open.state {
                if self.circuit.is_away() {
                    self.metrics.refused(1);
                    open.name.clear();
                    open.state = State::Refused(Error::LogUnavailable.into());
                } else {
                    let (tenant, places) = self.tenant.as_mut().expect("who waits is of a tenant");
                    if !self.shares.is_alone(tenant) {
                        open.place = ready!(places.poll_acquire(context));
                    }
                    open.begun = Instant::now();
                    open.state = State::Pending(self.log.append(record.clone()));
                }
            }
            self.begun += 1;
        }
        Poll::Ready(())
    }

    /// The result of the oldest, as soon as it has one; `None` if there is none. Nothing is lost if this is dropped.
    pub(super) async fn next(&mut self) -> Option<PublishResult> {
        poll_fn(|context| self.poll_next(context)).await
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<PublishResult>> {
        if self.begun == 0 {
            let _ = self.poll_begin(context);
        }
        let Some(oldest) = self.open.front_mut() else { return Poll::Ready(None) };
        let error = match &mut oldest.state {
            State::Waiting(_) => return Poll::Pending,
            State::Refused(status) => Some(std::mem::take(status)),
            State::Pending(pending) => match Pin::new(pending).poll(context) {
                Poll::Ready(Ok(_)) => {
                    self.metrics.acknowledged(oldest.begun.elapsed());
                    self.circuit.acknowledged();
                    None
                }
                Poll::Ready(Err(error)) => Some(self.failed(&error)),
                Poll::Pending if self.poll_overdue(context).is_pending() => {
                    // Not before it is known that the oldest is not overdue: those that wait are then not to be appended.
                    let _ = self.poll_begin(context);
                    return Poll::Pending;
                }
                Poll::Pending => {
                    let detail = format!("no acknowledgement within {:?}", self.timeout);
                    Some(self.failed(&hookwire_log::Error::Unavailable { detail }))
                }
            },
        };
        let Open { name, bytes, .. } = self.open.pop_front().expect("it is the oldest");
        self.bytes -= bytes;
        self.begun -= 1;
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
