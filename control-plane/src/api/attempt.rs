//! `hookwire.v1.AttemptService`

use hookwire_proto::name;
use hookwire_proto::v1::attempt_service_server::AttemptService;
use hookwire_proto::v1::{Attempt, GetAttemptRequest, ListAttemptsRequest, ListAttemptsResponse};
use tonic::{Request, Response, Status};

use super::Api;
use super::filter::{Field, Grammar, Kind};
use super::indexed::{Asked, ERRORS, List, check_subscription, messages_parent};
use super::validate::field;
use crate::auth::Rpc;
use crate::store::index::Column;

const LIST: List = List {
    name: "attempts",
    grammar: Grammar {
        fields: &[
            Field { name: "subscription", kind: Kind::Exact(check_subscription) },
            Field { name: "event_type", kind: Kind::Text(name::check_event_type) },
            Field {
                name: "outcome",
                kind: Kind::Enum { prefix: "OUTCOME_", values: &[("DELIVERED", 1), ("RETRY", 2), ("DEAD", 3)] },
            },
            Field { name: "status_code", kind: Kind::Number },
            Field { name: "error", kind: ERRORS },
            Field { name: "number", kind: Kind::Number },
            Field { name: "start_time", kind: Kind::Time },
        ],
        example: r#"subscription = "s1" AND outcome != DELIVERED AND start_time >= "2026-01-31T00:00:00Z""#,
    },
    columns: &[
        ("subscription", Column::Subscription),
        ("event_type", Column::EventType),
        ("outcome", Column::Outcome),
        ("status_code", Column::StatusCode),
        ("error", Column::Error),
        ("number", Column::Attempts),
        ("start_time", Column::Time),
    ],
};

#[tonic::async_trait]
impl AttemptService for Api {
    async fn get_attempt(&self, request: Request<GetAttemptRequest>) -> Result<Response<Attempt>, Status> {
        let (_, request) = self.authorized(Rpc::GetAttempt, request, |request| &request.name).await?;
        let name = field("name", name::Attempt::parse(&request.name))?;
        Ok(Response::new(self.index()?.get_attempt(&name).await?))
    }

    async fn list_attempts(
        &self,
        request: Request<ListAttemptsRequest>,
    ) -> Result<Response<ListAttemptsResponse>, Status> {
        let (_, request) = self.authorized(Rpc::ListAttempts, request, |request| &request.parent).await?;
        let ListAttemptsRequest { parent, page_size, page_token, filter } = &request;
        let asked = Asked { parent, page_size: *page_size, page_token, filter };
        let (page, query) = LIST.read(&asked, |violations| messages_parent(violations, parent))?;
        let listed = self.index()?.list_attempts(&query).await?;
        let next_page_token = page.token(listed.next);
        Ok(Response::new(ListAttemptsResponse { attempts: listed.items, next_page_token }))
    }
}
