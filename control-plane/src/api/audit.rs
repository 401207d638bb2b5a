//! `hookwire.v1.AuditService`

use hookwire_proto::name;
use hookwire_proto::v1::audit_service_server::AuditService;
use hookwire_proto::v1::{AuditEntry, GetAuditEntryRequest, ListAuditEntriesRequest, ListAuditEntriesResponse};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, api_key};
use crate::auth::Rpc;
use crate::store::AuditFilter;

#[tonic::async_trait]
impl AuditService for Api {
    async fn get_audit_entry(&self, request: Request<GetAuditEntryRequest>) -> Result<Response<AuditEntry>, Status> {
        let (call, request) = self.authorized(Rpc::GetAuditEntry, request, |_| "").await?;
        let name = field("name", name::AuditEntry::parse(&request.name))?;
        let entry = call.store.get_audit_entry(&name, call.caller.tenant.as_ref()).await;
        Ok(Response::new(api_key::hidden(&call.caller, entry)?))
    }

    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListAuditEntries, request, |_| "").await?;
        let within = call.caller.tenant.as_ref().map(|tenant| tenant.tenant.clone());
        let mut violations = Violations::default();
        let list = format!("{}\n{}", within.as_deref().unwrap_or_default(), request.filter);
        let page = Page::read(&mut violations, "auditEntries", &list, request.page_size, &request.page_token);
        violations.finish()?;
        let filter = AuditFilter { tenant: within, ..Default::default() };
        let entries = call.store.list_audit_entries(&filter, &page.after, page.limit()).await?;
        let (audit_entries, next_page_token) = page.finish(entries, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListAuditEntriesResponse { audit_entries, next_page_token }))
    }
}
