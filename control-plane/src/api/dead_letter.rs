//! `hookwire.v1.DeadLetterService`

use hookwire_proto::name;
use hookwire_proto::v1::dead_letter_service_server::DeadLetterService;
use hookwire_proto::v1::{DeadLetter, GetDeadLetterRequest, ListDeadLettersRequest, ListDeadLettersResponse};
use tonic::{Request, Response, Status};

use super::Api;
use super::filter::{Field, Grammar, Kind};
use super::indexed::{Asked, ERRORS, List, REASONS, subscriptions_parent};
use super::validate::field;
use crate::auth::Rpc;
use crate::store::index::Column;

const LIST: List = List {
    name: "deadLetters",
    grammar: Grammar {
        fields: &[
            Field { name: "event_type", kind: Kind::Text(name::check_event_type) },
            Field { name: "reason", kind: REASONS },
            Field { name: "status_code", kind: Kind::Number },
            Field { name: "error", kind: ERRORS },
            Field { name: "publish_time", kind: Kind::Time },
            Field { name: "dead_time", kind: Kind::Time },
        ],
        example: r#"reason = EXHAUSTED AND dead_time >= "2026-01-31T00:00:00Z""#,
    },
    columns: &[
        ("event_type", Column::EventType),
        ("reason", Column::DeadReason),
        ("status_code", Column::StatusCode),
        ("error", Column::Error),
        ("publish_time", Column::PublishTime),
        ("dead_time", Column::Time),
    ],
};

#[tonic::async_trait]
impl DeadLetterService for Api {
    async fn get_dead_letter(&self, request: Request<GetDeadLetterRequest>) -> Result<Response<DeadLetter>, Status> {
        let (_, request) = self.authorized(Rpc::GetDeadLetter, request, |request| &request.name).await?;
        let name = field("name", name::DeadLetter::parse(&request.name))?;
        Ok(Response::new(self.index()?.get_dead_letter(&name).await?))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let (_, request) = self.authorized(Rpc::ListDeadLetters, request, |request| &request.parent).await?;
        let ListDeadLettersRequest { parent, page_size, page_token, filter } = &request;
        let asked = Asked { parent, page_size: *page_size, page_token, filter };
        let (page, query) = LIST.read(&asked, |violations| subscriptions_parent(violations, parent))?;
        let listed = self.index()?.list_dead_letters(&query).await?;
        let next_page_token = page.token(listed.next);
        Ok(Response::new(ListDeadLettersResponse { dead_letters: listed.items, next_page_token }))
    }
}
