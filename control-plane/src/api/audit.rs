//! `hookwire.v1.AuditService`

use hookwire_proto::name;
use hookwire_proto::v1::audit_service_server::AuditService;
use hookwire_proto::v1::{AuditEntry, GetAuditEntryRequest, ListAuditEntriesRequest, ListAuditEntriesResponse};
use time::{Duration, OffsetDateTime};
use tonic::{Request, Response, Status};

use super::filter::{Comparison, Field, Grammar, Kind, Op, Value};
use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, api_key};
use crate::auth::Rpc;
use crate::store::AuditFilter;

/// What entries can be listed by. Names are not checked: whatever was changed once may be asked for.
const GRAMMAR: Grammar = Grammar {
    fields: &[
        Field { name: "resource", kind: Kind::Exact(|_| Ok(())) },
        Field { name: "below", kind: Kind::Exact(|_| Ok(())) },
        Field { name: "caller", kind: Kind::Exact(|_| Ok(())) },
        Field { name: "method", kind: Kind::Exact(|_| Ok(())) },
        Field { name: "create_time", kind: Kind::Time },
    ],
    example: r#"below = tenants/acme AND create_time >= "2026-01-31T00:00:00Z""#,
};

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
        let comparisons = violations.check("filter", GRAMMAR.parse(&request.filter)).unwrap_or_default();
        let filter = filter(&mut violations, comparisons, within);
        violations.finish()?;
        let entries = call.store.list_audit_entries(&filter, &page.after, page.limit()).await?;
        let (audit_entries, next_page_token) = page.finish(entries, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListAuditEntriesResponse { audit_entries, next_page_token }))
    }
}

/// What the store looks for, below the tenant that the caller is bound to.
fn filter(violations: &mut Violations, comparisons: Vec<Comparison>, within: Option<String>) -> AuditFilter {
    let mut filter = AuditFilter { tenant: within, ..Default::default() };
    for Comparison { field, op, value } in comparisons {
        match value {
            Value::Number(ms) => {
                let at = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::milliseconds(ms));
                let next = at.saturating_add(Duration::MILLISECOND);
                match op {
                    Op::Gt | Op::Ge => {
                        let from = if op == Op::Gt { next } else { at };
                        filter.from = filter.from.max(Some(from));
                    }
                    _ => {
                        let until = if op == Op::Le { next } else { at };
                        filter.until = Some(filter.until.map_or(until, |other| other.min(until)));
                    }
                }
            }
            Value::Text(text) => {
                let place = match field {
                    "resource" => &mut filter.resource,
                    "below" => &mut filter.below,
                    "caller" => &mut filter.caller,
                    _ => &mut filter.method,
                };
                if place.replace(text).is_some() {
                    violations.add("filter", format!("compares {field} twice: one entry has one"));
                }
            }
        }
    }
    filter
}
