//! `hookwire.v1.ApiKeyService`

use hookwire_proto::name;
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::api_key_service_server::ApiKeyService;
use hookwire_proto::v1::{
    self, ApiKey, CreateApiKeyRequest, CreateTenantTokenRequest, DeleteApiKeyRequest, GetApiKeyRequest,
    ListApiKeysRequest, ListApiKeysResponse, UpdateApiKeyRequest,
};
use ipnet::IpNet;
use prost_types::Timestamp;
use time::{Duration, OffsetDateTime};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, Error, mask, written};
use crate::auth::{self, Caller, Rpc, TenantToken, Why};
use crate::store::{self, NewApiKey};

const MAX_CIDRS: usize = 64;
const MIN_TTL: Duration = Duration::minutes(1);
const MAX_TTL: Duration = Duration::hours(24);
const DEFAULT_TTL: Duration = Duration::hours(1);

#[tonic::async_trait]
impl ApiKeyService for Api {
    async fn create_api_key(&self, request: Request<CreateApiKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let (call, request) = self.authorized(Rpc::CreateApiKey, request, |_| "").await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let new = request.api_key.unwrap_or_else(|| {
            violations.add("api_key", "is required");
            ApiKey::default()
        });
        if call.caller.tenant.as_ref().is_some_and(|own| own.to_string() != new.tenant) {
            return Err(Error::from(call.caller.denied(Why::OtherTenant)).into());
        }
        let tenant = match &*new.tenant {
            "" => None,
            tenant => violations.check("api_key.tenant", name::Tenant::parse(tenant)),
        };
        check(&mut violations, &call.caller, &new, OffsetDateTime::now_utc());
        violations.finish()?;
        let name = name::ApiKey { api_key: name::new_id('k') };
        let key = auth::new_key(&name);
        let new = NewApiKey {
            display_name: &new.display_name,
            role: new.role(),
            tenant: tenant.as_ref(),
            key: &key,
            expire_time: new.expire_time.as_ref().and_then(time),
            source_cidrs: &new.source_cidrs,
            scopes: &new.scopes,
        };
        let made = store.create_api_key(&name, new).await?;
        Ok(written(made.revision, made))
    }

    async fn get_api_key(&self, request: Request<GetApiKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let (call, request) = self.authorized(Rpc::GetApiKey, request, |_| "").await?;
        let name = field("name", name::ApiKey::parse(&request.name))?;
        let key = call.store.get_api_key(&name, call.caller.tenant.as_ref()).await;
        Ok(Response::new(hidden(&call.caller, key)?))
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Result<Response<ListApiKeysResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListApiKeys, request, |_| "").await?;
        let within = call.caller.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut violations = Violations::default();
        let page = Page::read(&mut violations, "apiKeys", &within, request.page_size, &request.page_token);
        violations.finish()?;
        let api_keys = call.store.list_api_keys(call.caller.tenant.as_ref(), &page.after, page.limit()).await?;
        let (api_keys, next_page_token) = page.finish(api_keys, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListApiKeysResponse { api_keys, next_page_token }))
    }

    async fn delete_api_key(&self, request: Request<DeleteApiKeyRequest>) -> Result<Response<()>, Status> {
        let (call, request) = self.authorized(Rpc::DeleteApiKey, request, |_| "").await?;
        let name = field("name", name::ApiKey::parse(&request.name))?;
        let revision = call.store.delete_api_key(&name, call.caller.tenant.as_ref(), &request.etag).await;
        Ok(written(hidden(&call.caller, revision)?, ()))
    }

    async fn update_api_key(&self, request: Request<UpdateApiKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let (call, request) = self.authorized(Rpc::UpdateApiKey, request, |_| "").await?;
        let update = request.api_key.unwrap_or_default();
        let name = field("api_key.name", name::ApiKey::parse(&update.name))?;
        let change = |current: &ApiKey| -> Result<ApiKey, Error> {
            let mut violations = Violations::default();
            let next = mask::apply(&mut violations, current, &update, request.update_mask.as_ref());
            for (field, same) in
                [("api_key.role", next.role == current.role), ("api_key.tenant", next.tenant == current.tenant)]
            {
                if !same {
                    violations.add(field, "can't be changed; create another key");
                }
            }
            check(&mut violations, &call.caller, &next, OffsetDateTime::now_utc());
            violations.finish_with(Some(next))
        };
        let key = call.store.update_api_key(&name, call.caller.tenant.as_ref(), &update.etag, change).await;
        let key = match key {
            Err(Error::Store(error)) => hidden(&call.caller, Err(error))?,
            other => other?,
        };
        Ok(written(key.revision, key))
    }

    async fn create_tenant_token(
        &self,
        request: Request<CreateTenantTokenRequest>,
    ) -> Result<Response<v1::TenantToken>, Status> {
        let (call, request) = self.authorized(Rpc::CreateTenantToken, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        if !matches!(request.role(), Role::TenantAdmin | Role::Viewer) {
            violations.add("role", "must be ROLE_TENANT_ADMIN or ROLE_VIEWER");
        }
        scopes(&mut violations, "scopes", &call.caller, &request.scopes);
        let ttl = request.ttl.map_or(DEFAULT_TTL, |ttl| Duration::new(ttl.seconds, ttl.nanos));
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            violations.add("ttl", "must be 60s to 86400s; 3600s if not set");
        }
        let tenant = violations.finish_with(parent)?;
        let expire_time = OffsetDateTime::now_utc() + ttl;
        let token = TenantToken {
            id: name::new_id('t'),
            tenant: tenant.tenant.clone(),
            role: request.role,
            scopes: request.scopes,
            expire_time_s: expire_time.unix_timestamp(),
            minted_by: call.caller.name.clone(),
        };
        let detail = format!("minted tenantTokens/{} with {} for {}", token.id, token.role().as_str_name(), ttl);
        call.store.record_tenant_token(&tenant, detail).await?;
        let expire_time = Some(Timestamp { seconds: token.expire_time_s, nanos: 0 });
        let token = token.seal(call.store.master_keys());
        Ok(Response::new(v1::TenantToken { token: token.to_string(), expire_time }))
    }
}

/// What a key must be that this caller makes.
fn check(violations: &mut Violations, caller: &Caller, key: &ApiKey, now: OffsetDateTime) {
    violations.display_name("api_key.display_name", &key.display_name);
    match Role::try_from(key.role) {
        Ok(Role::Unspecified) | Err(_) => {
            violations.add("api_key.role", "must be ROLE_ADMIN, ROLE_TENANT_ADMIN, ROLE_PUBLISHER or ROLE_VIEWER");
        }
        Ok(Role::TenantAdmin) if key.tenant.is_empty() => {
            violations.add("api_key.tenant", "is required with ROLE_TENANT_ADMIN");
        }
        Ok(_) => {}
    }
    if let Some(expire_time) = &key.expire_time
        && time(expire_time).is_none_or(|expire_time| expire_time <= now)
    {
        violations.add("api_key.expire_time", "must be in the future; leave it out for a key that does not expire");
    }
    if key.source_cidrs.len() > MAX_CIDRS {
        violations.add("api_key.source_cidrs", format!("must be at most {MAX_CIDRS}"));
    }
    for (at, cidr) in key.source_cidrs.iter().enumerate() {
        if cidr.parse::<IpNet>().is_err() {
            let what = "must be a CIDR such as `203.0.113.0/24`, `198.51.100.7/32` or `2001:db8::/32`";
            violations.add(format!("api_key.source_cidrs[{at}]"), what);
        }
    }
    scopes(violations, "api_key.scopes", caller, &key.scopes);
}

/// What scopes must be: known, and none that the caller lacks.
fn scopes(violations: &mut Violations, field: &str, caller: &Caller, scopes: &[String]) {
    for (at, scope) in scopes.iter().enumerate() {
        if !auth::SCOPES.contains(&&**scope) {
            violations.add(format!("{field}[{at}]"), format!("must be one of {}", auth::SCOPES.join(", ")));
        } else if scopes[..at].contains(scope) {
            violations.add(format!("{field}[{at}]"), "is there already; leave it out");
        }
    }
    if !caller.scopes.is_empty() && (scopes.is_empty() || scopes.iter().any(|scope| !caller.scopes.contains(scope))) {
        let own = caller.scopes.join(", ");
        violations
            .add(field, format!("must be some of your own key's scopes, {own}: it can't give what it doesn't have"));
    }
}

fn time(time: &Timestamp) -> Option<OffsetDateTime> {
    let whole = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
    // A year that text can't say is no time.
    (1970..=9999).contains(&whole.year()).then(|| whole + Duration::nanoseconds(i64::from(time.nanos)))
}

/// A key that is bound does not learn whether a key of another tenant exists.
pub(super) fn hidden<T>(caller: &Caller, result: Result<T, store::Error>) -> Result<T, Error> {
    match result {
        Err(store::Error::NotFound { .. }) if caller.tenant.is_some() => Err(caller.denied(Why::NotOfTenant).into()),
        other => Ok(other?),
    }
}
