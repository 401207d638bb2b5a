//! `hookwire.v1.ApiKeyService`

use hookwire_proto::name;
use hookwire_proto::v1::api_key::Role;
use hookwire_proto::v1::api_key_service_server::ApiKeyService;
use hookwire_proto::v1::{
    ApiKey, CreateApiKeyRequest, DeleteApiKeyRequest, GetApiKeyRequest, ListApiKeysRequest, ListApiKeysResponse,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, Error, written};
use crate::auth::{self, Caller, Rpc, Why};
use crate::store::{self, NewApiKey};

#[tonic::async_trait]
impl ApiKeyService for Api {
    async fn create_api_key(&self, request: Request<CreateApiKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let (caller, request) = self.authorized(Rpc::CreateApiKey, request, |_| "").await?;
        let tenant = request.api_key.as_ref().map_or("", |key| &key.tenant);
        if caller.tenant.as_ref().is_some_and(|own| own.to_string() != tenant) {
            return Err(Error::from(caller.denied(Why::OtherTenant)).into());
        }
        let (new, tenant) = read(request)?;
        let name = name::ApiKey { api_key: name::new_id('k') };
        let key = auth::new_key(&name);
        let (role, tenant) = (new.role(), tenant.as_ref());
        let stored = NewApiKey { display_name: &new.display_name, role, tenant, key: &key };
        let stored = self.store.create_api_key(&name, stored).await?;
        Ok(written(stored.revision, ApiKey { key: key.to_string(), ..stored }))
    }

    async fn get_api_key(&self, request: Request<GetApiKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let (caller, request) = self.authorized(Rpc::GetApiKey, request, |_| "").await?;
        let name = field("name", name::ApiKey::parse(&request.name))?;
        let key = self.store.get_api_key(&name, caller.tenant.as_ref()).await;
        Ok(Response::new(hidden(&caller, key)?))
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Result<Response<ListApiKeysResponse>, Status> {
        let (caller, request) = self.authorized(Rpc::ListApiKeys, request, |_| "").await?;
        let within = caller.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut violations = Violations::default();
        let page = Page::read(&mut violations, "apiKeys", &within, request.page_size, &request.page_token);
        violations.finish()?;
        let api_keys = self.store.list_api_keys(caller.tenant.as_ref(), &page.after, page.limit()).await?;
        let (api_keys, next_page_token) = page.finish(api_keys, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListApiKeysResponse { api_keys, next_page_token }))
    }

    async fn delete_api_key(&self, request: Request<DeleteApiKeyRequest>) -> Result<Response<()>, Status> {
        let (caller, request) = self.authorized(Rpc::DeleteApiKey, request, |_| "").await?;
        let name = field("name", name::ApiKey::parse(&request.name))?;
        let revision = self.store.delete_api_key(&name, caller.tenant.as_ref()).await;
        Ok(written(hidden(&caller, revision)?, ()))
    }
}

/// Checks a new key, and reads its tenant.
fn read(request: CreateApiKeyRequest) -> Result<(ApiKey, Option<name::Tenant>), Error> {
    let mut violations = Violations::default();
    let new = request.api_key.unwrap_or_else(|| {
        violations.add("api_key", "is required");
        ApiKey::default()
    });
    violations.display_name("api_key.display_name", &new.display_name);
    let tenant = match &*new.tenant {
        "" => None,
        tenant => violations.check("api_key.tenant", name::Tenant::parse(tenant)),
    };
    match Role::try_from(new.role) {
        Ok(Role::Unspecified) | Err(_) => {
            violations.add("api_key.role", "must be ROLE_ADMIN, ROLE_TENANT_ADMIN, ROLE_PUBLISHER or ROLE_VIEWER");
        }
        Ok(Role::TenantAdmin) if new.tenant.is_empty() => {
            violations.add("api_key.tenant", "is required with ROLE_TENANT_ADMIN");
        }
        Ok(_) => {}
    }
    violations.finish()?;
    Ok((new, tenant))
}

/// A key that is bound does not learn whether a key of another tenant exists.
fn hidden<T>(caller: &Caller, result: Result<T, store::Error>) -> Result<T, Error> {
    match result {
        Err(store::Error::NotFound { .. }) if caller.tenant.is_some() => Err(caller.denied(Why::NotOfTenant).into()),
        other => Ok(other?),
    }
}
