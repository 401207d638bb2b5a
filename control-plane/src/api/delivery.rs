//! `hookwire.v1.DeliveryService`

use hookwire_proto::name;
use hookwire_proto::v1::delivery_service_server::DeliveryService;
use hookwire_proto::v1::{Delivery, GetDeliveryRequest, ListDeliveriesRequest, ListDeliveriesResponse};
use tonic::{Request, Response, Status};

use super::Api;
use super::filter::{Field, Grammar, Kind};
use super::indexed::{Asked, ERRORS, List, REASONS, check_subscription, messages_parent};
use super::validate::field;
use crate::auth::Rpc;
use crate::store::index::Column;

const LIST: List = List {
    name: "deliveries",
    grammar: Grammar {
        fields: &[
            Field { name: "subscription", kind: Kind::Exact(check_subscription) },
            Field { name: "event_type", kind: Kind::Text(name::check_event_type) },
            Field {
                name: "state",
                kind: Kind::Enum { prefix: "STATE_", values: &[("RETRYING", 1), ("DELIVERED", 2), ("DEAD", 3)] },
            },
            Field { name: "dead_reason", kind: REASONS },
            Field { name: "status_code", kind: Kind::Number },
            Field { name: "error", kind: ERRORS },
            Field { name: "attempt_count", kind: Kind::Number },
            Field { name: "publish_time", kind: Kind::Time },
        ],
        example: r#"subscription = "s1" AND state = DEAD AND publish_time >= "2026-01-31T00:00:00Z""#,
    },
    columns: &[
        ("subscription", Column::Subscription),
        ("event_type", Column::EventType),
        ("state", Column::State),
        ("dead_reason", Column::DeadReason),
        ("status_code", Column::StatusCode),
        ("error", Column::Error),
        ("attempt_count", Column::Attempts),
        ("publish_time", Column::Time),
    ],
};

#[tonic::async_trait]
impl DeliveryService for Api {
    async fn get_delivery(&self, request: Request<GetDeliveryRequest>) -> Result<Response<Delivery>, Status> {
        let (_, request) = self.authorized(Rpc::GetDelivery, request, |request| &request.name).await?;
        let name = field("name", name::Delivery::parse(&request.name))?;
        Ok(Response::new(self.index()?.get_delivery(&name).await?))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let (_, request) = self.authorized(Rpc::ListDeliveries, request, |request| &request.parent).await?;
        let ListDeliveriesRequest { parent, page_size, page_token, filter } = &request;
        let asked = Asked { parent, page_size: *page_size, page_token, filter };
        let (page, query) = LIST.read(&asked, |violations| messages_parent(violations, parent))?;
        let listed = self.index()?.list_deliveries(&query).await?;
        let next_page_token = page.token(listed.next);
        Ok(Response::new(ListDeliveriesResponse { deliveries: listed.items, next_page_token }))
    }
}
