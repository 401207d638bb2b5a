//! `hookwire.v1.TenantService`

use hookwire_proto::name;
use hookwire_proto::v1::tenant_service_server::TenantService;
use hookwire_proto::v1::{
    CreateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse, PublishQuota,
    Tenant, UpdateTenantRequest,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, Error, LOG_RETAINED_UNTIL_METADATA, mask, written};
use crate::auth::Rpc;

const MIN_MESSAGES_PER_SECOND: f64 = 0.01;
const MAX_MESSAGES_PER_SECOND: f64 = 1_000_000.0;
const MAX_BURST: i32 = 1_000_000;

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let (call, request) = self.authorized(Rpc::CreateTenant, request, |_| "").await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let name = name::Tenant { tenant: violations.id("tenant_id", request.tenant_id, 't') };
        let new = request.tenant.unwrap_or_else(|| {
            violations.add("tenant", "is required; it may be empty");
            Tenant::default()
        });
        check(&mut violations, &new);
        violations.finish()?;
        let tenant = store.create_tenant(&name, &new).await?;
        Ok(written(tenant.revision, tenant))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<Tenant>, Status> {
        let (call, request) = self.authorized(Rpc::GetTenant, request, |request| &request.name).await?;
        let name = field("name", name::Tenant::parse(&request.name))?;
        Ok(Response::new(call.store.get_tenant(&name).await?))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListTenants, request, |_| "").await?;
        let mut violations = Violations::default();
        let page = Page::read(&mut violations, "tenants", "", request.page_size, &request.page_token);
        violations.finish()?;
        let tenants = call.store.list_tenants(&page.after, page.limit()).await?;
        let (tenants, next_page_token) = page.finish(tenants, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn update_tenant(&self, request: Request<UpdateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let (call, request) = self
            .authorized(Rpc::UpdateTenant, request, |request| request.tenant.as_ref().map_or("", |tenant| &tenant.name))
            .await?;
        let update = request.tenant.unwrap_or_default();
        let name = field("tenant.name", name::Tenant::parse(&update.name))?;
        let change = |current: &Tenant| -> Result<Tenant, Error> {
            let mut violations = Violations::default();
            let next = mask::apply(&mut violations, current, &update, request.update_mask.as_ref());
            check(&mut violations, &next);
            violations.finish_with(Some(next))
        };
        let tenant = call.store.update_tenant(&name, &update.etag, change).await?;
        Ok(written(tenant.revision, tenant))
    }

    async fn delete_tenant(&self, request: Request<DeleteTenantRequest>) -> Result<Response<()>, Status> {
        let (call, request) = self.authorized(Rpc::DeleteTenant, request, |request| &request.name).await?;
        let name = field("name", name::Tenant::parse(&request.name))?;
        if !request.force {
            return Ok(written(call.store.delete_tenant(&name, &request.etag, false, "").await?, ()));
        }
        let retained_until = OffsetDateTime::now_utc() + self.log_retention;
        let retained_until = retained_until.format(&Rfc3339).unwrap_or_default();
        let detail = format!(
            "with everything below it; messages, deliveries and dead letters of it stay in the log until {retained_until} at \
             the latest and are not delivered"
        );
        let revision = call.store.delete_tenant(&name, &request.etag, true, &detail).await?;
        let mut response = written(revision, ());
        let retained_until = retained_until.parse().expect("a time is ASCII");
        response.metadata_mut().insert(LOG_RETAINED_UNTIL_METADATA, retained_until);
        Ok(response)
    }
}

/// What a tenant must be.
fn check(violations: &mut Violations, tenant: &Tenant) {
    violations.display_name("tenant.display_name", &tenant.display_name);
    violations.labels("tenant.labels", &tenant.labels);
    if let Some(PublishQuota { messages_per_second, burst }) = tenant.publish_quota {
        // Not a number is in no range.
        if !(MIN_MESSAGES_PER_SECOND..=MAX_MESSAGES_PER_SECOND).contains(&messages_per_second) {
            let detail = format!("must be {MIN_MESSAGES_PER_SECOND} to {MAX_MESSAGES_PER_SECOND}");
            violations.add("tenant.publish_quota.messages_per_second", detail);
        }
        if !(0..=MAX_BURST).contains(&burst) {
            let detail = format!("must be 1 to {MAX_BURST}, or 0 for what comes in one second");
            violations.add("tenant.publish_quota.burst", detail);
        }
    }
}
