//! `hookwire.v1.TenantService`

use hookwire_proto::name;
use hookwire_proto::v1::tenant_service_server::TenantService;
use hookwire_proto::v1::{
    CreateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse, Tenant,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, written};
use crate::auth::Rpc;

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let (_, request) = self.authorized(Rpc::CreateTenant, request, |_| "").await?;
        let mut violations = Violations::default();
        let name = name::Tenant { tenant: violations.id("tenant_id", request.tenant_id, 't') };
        let new = request.tenant.unwrap_or_else(|| {
            violations.add("tenant", "is required; it may be empty");
            Tenant::default()
        });
        violations.display_name("tenant.display_name", &new.display_name);
        violations.finish()?;
        let tenant = self.store.create_tenant(&name, &new.display_name).await?;
        Ok(written(tenant.revision, tenant))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<Tenant>, Status> {
        let (_, request) = self.authorized(Rpc::GetTenant, request, |request| &request.name).await?;
        let name = field("name", name::Tenant::parse(&request.name))?;
        Ok(Response::new(self.store.get_tenant(&name).await?))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let (_, request) = self.authorized(Rpc::ListTenants, request, |_| "").await?;
        let mut violations = Violations::default();
        let page = Page::read(&mut violations, "tenants", "", request.page_size, &request.page_token);
        violations.finish()?;
        let tenants = self.store.list_tenants(&page.after, page.limit()).await?;
        let (tenants, next_page_token) = page.finish(tenants, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn delete_tenant(&self, request: Request<DeleteTenantRequest>) -> Result<Response<()>, Status> {
        let (_, request) = self.authorized(Rpc::DeleteTenant, request, |request| &request.name).await?;
        let name = field("name", name::Tenant::parse(&request.name))?;
        Ok(written(self.store.delete_tenant(&name).await?, ()))
    }
}
