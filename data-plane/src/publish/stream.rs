//! `StreamMessages`: each message stands for itself, and has its result in its turn.
//!
//! The stream of results drives all of it: it is asked for more when the connection can take more, and reads, appends and waits only
//! then. So nothing is spawned, and who doesn't read results is not read from.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use hookwire_proto::v1::{PublishResult, StreamMessagesRequest, StreamMessagesResponse};
use tonic::{Status, Streaming};

use super::appends::Appends;
use super::call::Call;
use super::{Publish, Stamp, validate};
use crate::cache::{Config, Snapshot};
use crate::error::Error;

/// The most results of one response.
const MAX_RESULTS: usize = 500;

/// What becomes of the messages of a stream, and how it ends.
pub(super) fn results(
    publish: Publish,
    call: Call,
    requests: Streaming<StreamMessagesRequest>,
) -> BoxStream<'static, Result<StreamMessagesResponse, Status>> {
    let session = Session {
        appends: publish.appends(),
        config: publish.config.clone(),
        publish,
        call: Arc::new(call),
        requests,
        tenant: None,
        reaching: None,
        told: 0,
        end: None,
    };
    let next = |mut session: Session| async move { Ok(session.next().await?.map(|response| (response, session))) };
    stream::try_unfold(session, next).boxed()
}

/// A request, and the snapshot that it is judged by.
type Reached = (StreamMessagesRequest, Result<Arc<Snapshot>, Error>);

/// A stream that is open.
struct Session {
    publish: Publish,
    call: Arc<Call>,
    /// To be told of changes.
    config: Config,
    requests: Streaming<StreamMessagesRequest>,
    /// `tenants/{tenant}`, once the first request has named it.
    tenant: Option<String>,
    appends: Appends,
    /// A request that asks for a revision which is not there yet, or for more than the quota has. Nothing is read meanwhile.
    reaching: Option<BoxFuture<'static, Reached>>,
    /// How many results were told.
    told: i64,
    /// How the stream ends when all results are told. Nothing more is read then.
    end: Option<Result<(), Status>>,
}

impl Session {
    /// The next results; `None` when there are no more to come.
    async fn next(&mut self) -> Result<Option<StreamMessagesResponse>, Status> {
        loop {
            let settings = &self.publish.settings;
            let has_room =
                self.appends.len() < settings.max_in_flight && self.appends.bytes() < settings.max_in_flight_bytes;
            let (goes_on, waits) = (self.end.is_none(), self.reaching.is_some());
            tokio::select! {
                biased;
                Some(result) = self.appends.next() => return Ok(Some(self.response(result))),
                (request, snapshot) = async { self.reaching.as_mut().expect("guarded").await }, if waits => {
                    self.reaching = None;
                    let taken = self.take(request, snapshot);
                    self.end_if_refused(taken);
                }
                changed = self.config.changed(), if goes_on && self.tenant.is_some() => {
                    let judged = self.judge_again(changed);
                    self.end_if_refused(judged);
                }
                () = self.publish.draining.cancelled(), if goes_on => {
                    self.end_if_refused(self.publish.ready());
                }
                request = self.requests.next(), if goes_on && !waits && has_room => match request {
                    Some(Ok(request)) => {
                        let read = self.read(request);
                        self.end_if_refused(read);
                    }
                    Some(Err(status)) => self.end = Some(Err(status)),
                    None => self.end = Some(Ok(())),
                },
                else => return self.end.take().unwrap_or(Ok(())).map(|()| None),
            }
        }
    }

    fn end_if_refused(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.end.get_or_insert(Err(error.into()));
            self.reaching = None;
        }
    }

    fn read(&mut self, request: StreamMessagesRequest) -> Result<(), Error> {
        self.publish.ready()?;
        match self.publish.config.current() {
            Some(current) if current.revision() >= request.min_revision => self.take(request, Ok(current)),
            _ => {
                self.wait(request, Duration::ZERO);
                Ok(())
            }
        }
    }

    /// Takes a request later, with the snapshot of then.
    fn wait(&mut self, request: StreamMessagesRequest, time: Duration) {
        let (publish, call) = (self.publish.clone(), self.call.clone());
        self.reaching = Some(Box::pin(async move {
            tokio::time::sleep(time).await;
            let snapshot = publish.snapshot(&call, request.min_revision).await;
            (request, snapshot)
        }));
    }

    /// Appends the messages of a request, or refuses each for itself.
    ///
    /// # Errors
    /// What ends the stream.
    fn take(&mut self, request: StreamMessagesRequest, snapshot: Result<Arc<Snapshot>, Error>) -> Result<(), Error> {
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            // It is told to those with a key only.
            Err(error @ Error::RevisionNotReached { .. }) => {
                validate::stream_request(&request, self.tenant.as_deref())?;
                self.tenant.get_or_insert(request.parent);
                request.messages.iter().for_each(|_| self.appends.refuse(error.clone().into()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let caller = self.call.authenticate(&snapshot)?;
        validate::stream_request(&request, self.tenant.as_deref())?;
        let tenant = self.tenant.get_or_insert_with(|| request.parent.clone());
        validate::tenant(tenant, &snapshot, &caller)?;

        let admitted = self.publish.circuit.admit();
        let quota = snapshot.publish_quota(tenant);
        if let Err(time) = self.publish.quotas.take(tenant, quota, request.messages.len()) {
            self.wait(request, time);
            return Ok(());
        }
        self.publish.shares.came(tenant);
        let (begun, count) = (self.publish.spans.call(self.call.trace), request.messages.len());
        let stamp = Stamp::new(&self.call, begun.context, snapshot.revision());
        for (index, message) in request.messages.into_iter().enumerate() {
            let max_bytes = self.publish.settings.max_payload_bytes;
            let valid = validate::message(tenant, index, message, &snapshot, max_bytes);
            match (valid, &admitted) {
                (Ok(valid), Ok(_)) => self.appends.append(stamp.record(valid)),
                (Ok(_), Err(error)) => self.appends.refuse(error.clone().into()),
                (Err(error), _) => self.appends.refuse(error.into()),
            }
        }
        self.publish.ended(begun, tenant, count, None);
        self.appends.keep(admitted.ok().flatten());
        Ok(())
    }

    /// The configuration has changed: the key may have been revoked, or the tenant deleted.
    fn judge_again(&self, changed: Option<Arc<Snapshot>>) -> Result<(), Error> {
        let snapshot = changed.ok_or(Error::NotReady { detail: "it is shutting down" })?;
        let caller = self.call.authenticate(&snapshot)?;
        match &self.tenant {
            Some(tenant) => validate::tenant(tenant, &snapshot, &caller),
            None => Ok(()),
        }
    }

    /// A response with this result and those that are there as well.
    fn response(&mut self, oldest: PublishResult) -> StreamMessagesResponse {
        let first = self.told;
        let mut results = vec![oldest];
        while results.len() < MAX_RESULTS
            && let Some(Some(result)) = self.appends.next().now_or_never()
        {
            results.push(result);
        }
        self.told += i64::try_from(results.len()).expect("there are few");
        StreamMessagesResponse { first, results }
    }
}
