//! `hookwire.v1.MessageService`

use hookwire_log::Topic;
use hookwire_proto::log::Place;
use hookwire_proto::name;
use hookwire_proto::v1::message::PayloadState;
use hookwire_proto::v1::message_service_server::MessageService;
use hookwire_proto::v1::{GetMessageRequest, ListMessagesRequest, ListMessagesResponse, Message, MessageView};
use tonic::{Request, Response, Status};

use super::filter::{Field, Grammar, Kind};
use super::indexed::{Asked, List};
use super::validate::field;
use super::{Api, Error};
use crate::auth::Rpc;
use crate::store::index::Column;

const LIST: List = List {
    name: "messages",
    grammar: Grammar {
        fields: &[
            Field { name: "message_id", kind: Kind::Exact(name::check_message_id) },
            Field { name: "event_type", kind: Kind::Text(name::check_event_type) },
            Field { name: "publish_time", kind: Kind::Time },
        ],
        example: r#"event_type = "invoice.paid" AND publish_time >= "2026-01-31T00:00:00Z""#,
    },
    columns: &[("message_id", Column::Message), ("event_type", Column::EventType), ("publish_time", Column::Time)],
};

#[tonic::async_trait]
impl MessageService for Api {
    async fn get_message(&self, request: Request<GetMessageRequest>) -> Result<Response<Message>, Status> {
        let (_, request) = self.authorized(Rpc::GetMessage, request, |request| &request.name).await?;
        let name = field("name", name::Message::parse(&request.name))?;
        let (message, place) = self.index()?.get_message(&name).await?;
        Ok(Response::new(match request.view() {
            MessageView::Basic => message,
            MessageView::Full | MessageView::Unspecified => self.with_payload(&name, message, place).await?,
        }))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let (_, request) = self.authorized(Rpc::ListMessages, request, |request| &request.parent).await?;
        let ListMessagesRequest { parent, page_size, page_token, filter } = &request;
        let asked = Asked { parent, page_size: *page_size, page_token, filter };
        let tenant = |violations: &mut super::validate::Violations| {
            Some((violations.check("parent", name::Tenant::parse(parent))?, None))
        };
        let (page, query) = LIST.read(&asked, tenant)?;
        let listed = self.index()?.list_messages(&query).await?;
        let next_page_token = page.token(listed.next);
        Ok(Response::new(ListMessagesResponse { messages: listed.items, next_page_token }))
    }
}

impl Api {
    /// The message with what the log has of it, or with why the log does not have it.
    async fn with_payload(&self, name: &name::Message, message: Message, place: Place) -> Result<Message, Error> {
        let layout = self.log.layout();
        Ok(match self.log.message(name, place).await? {
            Ok(found) => Message {
                payload: found.payload,
                content_type: found.content_type,
                ordering_key: found.ordering_key,
                payload_state: PayloadState::Retained.into(),
                payload_detail: format!(
                    "from {}/{} at offset {}",
                    layout.name(Topic::Messages),
                    place.partition,
                    place.offset
                ),
                ..message
            },
            Err(gone) => {
                Message { payload_state: PayloadState::Expired.into(), payload_detail: gone.to_string(), ..message }
            }
        })
    }
}
