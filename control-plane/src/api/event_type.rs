//! `hookwire.v1.EventTypeService`

use hookwire_proto::name;
use hookwire_proto::schema::Schema;
use hookwire_proto::system_event;
use hookwire_proto::v1::event_type_service_server::EventTypeService;
use hookwire_proto::v1::{
    CreateEventTypeRequest, DeleteEventTypeRequest, EventType, GetEventTypeRequest, ListEventTypesRequest,
    ListEventTypesResponse, UpdateEventTypeRequest,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, Error, mask, written};
use crate::auth::Rpc;

#[tonic::async_trait]
impl EventTypeService for Api {
    async fn create_event_type(&self, request: Request<CreateEventTypeRequest>) -> Result<Response<EventType>, Status> {
        let (call, request) = self.authorized(Rpc::CreateEventType, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        violations.check("event_type_id", name::check_event_type(&request.event_type_id));
        // So that recipients can tell who speaks.
        if system_event::is_system_event(&request.event_type_id) {
            violations.add(
                "event_type_id",
                format!(
                    "begins with `{}`, for what Hookwire itself has to say; choose another",
                    system_event::RESERVED
                ),
            );
        }
        let new = request.event_type.unwrap_or_default();
        check(&mut violations, &new);
        let parent = violations.finish_with(parent)?;
        let name = name::EventType { tenant: parent.tenant, event_type: request.event_type_id };
        let event_type = store.create_event_type(&name, &new).await?;
        Ok(written(event_type.revision, event_type))
    }

    async fn get_event_type(&self, request: Request<GetEventTypeRequest>) -> Result<Response<EventType>, Status> {
        let (call, request) = self.authorized(Rpc::GetEventType, request, |request| &request.name).await?;
        let name = field("name", name::EventType::parse(&request.name))?;
        Ok(Response::new(call.store.get_event_type(&name).await?))
    }

    async fn list_event_types(
        &self,
        request: Request<ListEventTypesRequest>,
    ) -> Result<Response<ListEventTypesResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListEventTypes, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        let page = Page::read(&mut violations, "eventTypes", &request.parent, request.page_size, &request.page_token);
        let parent = violations.finish_with(parent)?;
        let event_types = call.store.list_event_types(&parent, &page.after, page.limit()).await?;
        let (event_types, next_page_token) = page.finish(event_types, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListEventTypesResponse { event_types, next_page_token }))
    }

    async fn update_event_type(&self, request: Request<UpdateEventTypeRequest>) -> Result<Response<EventType>, Status> {
        let (call, request) = self
            .authorized(Rpc::UpdateEventType, request, |request| request.event_type.as_ref().map_or("", |it| &it.name))
            .await?;
        let update = request.event_type.unwrap_or_default();
        let name = field("event_type.name", name::EventType::parse(&update.name))?;
        let change = |current: &EventType| -> Result<EventType, Error> {
            let mut violations = Violations::default();
            let next = mask::apply(&mut violations, current, &update, request.update_mask.as_ref());
            check(&mut violations, &next);
            violations.finish_with(Some(next))
        };
        let event_type = call.store.update_event_type(&name, &update.etag, change).await?;
        Ok(written(event_type.revision, event_type))
    }

    async fn delete_event_type(&self, request: Request<DeleteEventTypeRequest>) -> Result<Response<()>, Status> {
        let (call, request) = self.authorized(Rpc::DeleteEventType, request, |request| &request.name).await?;
        let name = field("name", name::EventType::parse(&request.name))?;
        Ok(written(call.store.delete_event_type(&name, &request.etag).await?, ()))
    }
}

/// What an event type must be.
fn check(violations: &mut Violations, event_type: &EventType) {
    violations.description("event_type.description", &event_type.description);
    if !event_type.schema.is_empty() {
        violations.check("event_type.schema", Schema::compile(&event_type.schema));
    }
}
