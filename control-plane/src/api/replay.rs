//! `hookwire.v1.ReplayService`

use std::time::Duration;

use hookwire_proto::name;
use hookwire_proto::v1::replay::{Selection, State};
use hookwire_proto::v1::replay_service_server::ReplayService;
use hookwire_proto::v1::{
    CancelReplayRequest, CreateReplayRequest, GetReplayRequest, ListReplaysRequest, ListReplaysResponse,
    PauseReplayRequest, Replay, ResumeReplayRequest, WatchReplayRequest, WatchReplayResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::error::Error;
use super::filter::{Field, Grammar, Kind, Op, Value};
use super::new_replay;
use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, written};
use crate::auth::Rpc;
use crate::store::Store;
use crate::store::replay::{ReplayFilter, Verb};

/// How often a watched replay is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a stream goes on without the store.
const PATIENCE: u32 = 60;

const FILTERS: Grammar = Grammar {
    fields: &[Field {
        name: "state",
        kind: Kind::Enum {
            prefix: "STATE_",
            values: &[
                ("PENDING", State::Pending as i32),
                ("RUNNING", State::Running as i32),
                ("PAUSED", State::Paused as i32),
                ("SUCCEEDED", State::Succeeded as i32),
                ("CANCELLED", State::Cancelled as i32),
                ("FAILED", State::Failed as i32),
            ],
        },
    }],
    example: "state = RUNNING",
};

#[tonic::async_trait]
impl ReplayService for Api {
    type WatchReplayStream = ReceiverStream<Result<WatchReplayResponse, Status>>;

    async fn create_replay(&self, request: Request<CreateReplayRequest>) -> Result<Response<Replay>, Status> {
        let (call, request) = self.authorized(Rpc::CreateReplay, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        let replay = violations.id("replay_id", request.replay_id, 'r');
        let new = request.replay.unwrap_or_else(|| {
            violations.add("replay", "is required");
            Replay::default()
        });
        new_replay::check(&mut violations, &new, &request.parent);
        let parent = violations.finish_with(parent)?;
        if let Some(Selection::Deliveries(_)) = new.selection {
            self.index()?;
        }
        let replay = store.create_replay(&name::Replay { tenant: parent.tenant, replay }, &new).await?;
        Ok(written(replay.revision, replay))
    }

    async fn get_replay(&self, request: Request<GetReplayRequest>) -> Result<Response<Replay>, Status> {
        let (call, request) = self.authorized(Rpc::GetReplay, request, |request| &request.name).await?;
        let name = field("name", name::Replay::parse(&request.name))?;
        Ok(Response::new(call.store.get_replay(&name).await?))
    }

    async fn list_replays(
        &self,
        request: Request<ListReplaysRequest>,
    ) -> Result<Response<ListReplaysResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListReplays, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        // A page goes on with the same filter only.
        let list_of = format!("{}\n{}", request.parent, request.filter);
        let page = Page::read(&mut violations, "replays", &list_of, request.page_size, &request.page_token);
        let before = match &*page.after {
            "" => Some(i64::MAX),
            revision => violations.check("page_token", revision.parse()),
        };
        let filter = filter(&mut violations, &request.filter);
        let (parent, before) = violations.finish_with(parent.zip(before))?;
        let replays = call.store.list_replays(&parent, filter, before, page.limit()).await?;
        let (replays, next_page_token) = page.finish(replays, |(_, created)| created.to_string());
        let replays = replays.into_iter().map(|(replay, _)| replay).collect();
        Ok(Response::new(ListReplaysResponse { replays, next_page_token }))
    }

    async fn pause_replay(&self, request: Request<PauseReplayRequest>) -> Result<Response<Replay>, Status> {
        let (call, request) = self.authorized(Rpc::PauseReplay, request, |request| &request.name).await?;
        change(&call.store, &request.name, &request.etag, Verb::Pause).await
    }

    async fn resume_replay(&self, request: Request<ResumeReplayRequest>) -> Result<Response<Replay>, Status> {
        let (call, request) = self.authorized(Rpc::ResumeReplay, request, |request| &request.name).await?;
        change(&call.store, &request.name, &request.etag, Verb::Resume).await
    }

    async fn cancel_replay(&self, request: Request<CancelReplayRequest>) -> Result<Response<Replay>, Status> {
        let (call, request) = self.authorized(Rpc::CancelReplay, request, |request| &request.name).await?;
        change(&call.store, &request.name, &request.etag, Verb::Cancel).await
    }

    async fn watch_replay(
        &self,
        request: Request<WatchReplayRequest>,
    ) -> Result<Response<Self::WatchReplayStream>, Status> {
        let (call, request) = self.authorized(Rpc::WatchReplay, request, |request| &request.name).await?;
        let mut violations = Violations::default();
        let name = violations.check("name", name::Replay::parse(&request.name));
        let changed = match &*request.resume_token {
            "" => Some(-1),
            token => {
                let changed = token.parse().ok().filter(|changed| *changed >= 0);
                violations.check("resume_token", changed.ok_or("must be that of the last response, or left out"))
            }
        };
        let (name, changed) = violations.finish_with(name.zip(changed))?;
        call.store.get_replay(&name).await?;
        let (responses, receiver) = mpsc::channel(1);
        let (store, shutdown) = (call.store, self.shutdown.clone());
        tokio::spawn(async move {
            let ended = shutdown.run_until_cancelled(watch(&store, &name, changed, &responses)).await;
            // The caller goes on with another control plane.
            let end = ended.unwrap_or(Err(Error::ShuttingDown));
            if let Err(error) = end {
                let _ = responses.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Sends a replay whenever it has changed, until it has ended or nobody listens.
async fn watch(
    store: &Store,
    name: &name::Replay,
    mut changed: i64,
    responses: &mpsc::Sender<Result<WatchReplayResponse, Status>>,
) -> Result<(), Error> {
    let mut failures = 0;
    loop {
        match store.replay_since(name, changed).await {
            Ok(Some((replay, now))) => {
                (changed, failures) = (now, 0);
                let has_ended = matches!(replay.state(), State::Succeeded | State::Cancelled | State::Failed);
                let response = WatchReplayResponse { replay: Some(replay), resume_token: changed.to_string() };
                if responses.send(Ok(response)).await.is_err() || has_ended {
                    return Ok(());
                }
            }
            Ok(None) => failures = 0,
            // It may come back soon.
            Err(crate::store::Error::Unavailable(_)) if failures < PATIENCE => failures += 1,
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = responses.closed() => return Ok(()),
        }
    }
}

async fn change(store: &Store, name: &str, etag: &str, verb: Verb) -> Result<Response<Replay>, Status> {
    let name = field("name", name::Replay::parse(name))?;
    let replay = store.change_replay(&name, etag, verb).await?;
    Ok(written(replay.revision, replay))
}

fn filter(violations: &mut Violations, text: &str) -> ReplayFilter {
    let mut filter = ReplayFilter::default();
    for comparison in violations.check("filter", FILTERS.parse(text)).unwrap_or_default() {
        if let Value::Number(number) = comparison.value {
            let state = i32::try_from(number).ok();
            match comparison.op {
                Op::Ne => filter.not_state = state,
                _ => filter.state = state,
            }
        }
    }
    filter
}
