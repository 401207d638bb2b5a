//! `hookwire.v1.EventTypeService`

use hookwire_proto::name;
use hookwire_proto::v1::event_type_service_server::EventTypeService;
use hookwire_proto::v1::{
    CreateEventTypeRequest, DeleteEventTypeRequest, EventType, GetEventTypeRequest, ListEventTypesRequest,
    ListEventTypesResponse,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, written};
use crate::auth::Rpc;

#[tonic::async_trait]
impl EventTypeService for Api {
    async fn create_event_type(&self, request: Request<CreateEventTypeRequest>) -> Result<Response<EventType>, Status> {
        let (_, request) = self.authorized(Rpc::CreateEventType, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        violations.check("event_type_id", name::check_event_type(&request.event_type_id));
        let new = request.event_type.unwrap_or_default();
        violations.description("event_type.description", &new.description);
        let parent = violations.finish_with(parent)?;
        let name = name::EventType { tenant: parent.tenant, event_type: request.event_type_id };
        let event_type = self.store.create_event_type(&name, &new.description).await?;
        Ok(written(event_type.revision, event_type))
    }

    async fn get_event_type(&self, request: Request<GetEventTypeRequest>) -> Result<Response<EventType>, Status> {
        let (_, request) = self.authorized(Rpc::GetEventType, request, |request| &request.name).await?;
        let name = field("name", name::EventType::parse(&request.name))?;
        Ok(Response::new(self.store.get_event_type(&name).await?))
    }

    async fn list_event_types(
        &self,
        request: Request<ListEventTypesRequest>,
    ) -> Result<Response<ListEventTypesResponse>, Status> {
        let (_, request) = self.authorized(Rpc::ListEventTypes, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        let page = Page::read(&mut violations, "eventTypes", &request.parent, request.page_size, &request.page_token);
        let parent = violations.finish_with(parent)?;
        let event_types = self.store.list_event_types(&parent, &page.after, page.limit()).await?;
        let (event_types, next_page_token) = page.finish(event_types, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListEventTypesResponse { event_types, next_page_token }))
    }

    async fn delete_event_type(&self, request: Request<DeleteEventTypeRequest>) -> Result<Response<()>, Status> {
        let (_, request) = self.authorized(Rpc::DeleteEventType, request, |request| &request.name).await?;
        let name = field("name", name::EventType::parse(&request.name))?;
        Ok(written(self.store.delete_event_type(&name).await?, ()))
    }
}
