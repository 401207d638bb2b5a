//! The RPCs of `hookwire.v1.SubscriptionService` about secrets. A key is in memory that is wiped, from the request's field to
//! the box and to the answer's field.

use std::time::Duration;

use hookwire_proto::name;
use hookwire_proto::v1::{
    CreateSecretRequest, DeleteSecretRequest, GetSecretRequest, ListPublicKeysRequest, ListPublicKeysResponse,
    ListSecretsRequest, ListSecretsResponse, PromoteSecretRequest, RotateSecretRequest, Secret,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, written};
use crate::auth::Rpc;

/// For how long a replaced secret goes on signing, unless the request says.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub async fn create(api: &Api, request: Request<CreateSecretRequest>) -> Result<Response<Secret>, Status> {
    let (call, request) = api.authorized(Rpc::CreateSecret, request, |request| &request.parent).await?;
    let mut violations = Violations::default();
    let store = call.once(&mut violations, &request.request_id, &request);
    let parent = violations.check("parent", name::Subscription::parse(&request.parent));
    let secret = violations.id("secret_id", request.secret_id, 'k');
    let key = violations.signing_key("secret", request.secret.unwrap_or_default());
    let (name::Subscription { tenant, subscription }, key) = violations.finish_with(parent.zip(key))?;
    let name = name::Secret { tenant, subscription, secret };
    let secret = store.create_secret(&name, &key).await?;
    Ok(written(secret.revision, secret))
}

pub async fn get(api: &Api, request: Request<GetSecretRequest>) -> Result<Response<Secret>, Status> {
    let (call, request) = api.authorized(Rpc::GetSecret, request, |request| &request.name).await?;
    let name = field("name", name::Secret::parse(&request.name))?;
    Ok(Response::new(call.store.get_secret(&name).await?))
}

pub async fn list(api: &Api, request: Request<ListSecretsRequest>) -> Result<Response<ListSecretsResponse>, Status> {
    let (call, request) = api.authorized(Rpc::ListSecrets, request, |request| &request.parent).await?;
    let mut violations = Violations::default();
    let parent = violations.check("parent", name::Subscription::parse(&request.parent));
    let page = Page::read(&mut violations, "secrets", &request.parent, request.page_size, &request.page_token);
    let after = after(&mut violations, &page);
    let parent = violations.finish_with(parent)?;
    let secrets = call.store.list_secrets(&parent, after, page.limit()).await?;
    let (secrets, next_page_token) = page.finish(secrets, |last| last.revision.to_string());
    Ok(Response::new(ListSecretsResponse { secrets, next_page_token }))
}

pub async fn delete(api: &Api, request: Request<DeleteSecretRequest>) -> Result<Response<()>, Status> {
    let (call, request) = api.authorized(Rpc::DeleteSecret, request, |request| &request.name).await?;
    let name = field("name", name::Secret::parse(&request.name))?;
    Ok(written(call.store.delete_secret(&name, &request.etag).await?, ()))
}

pub async fn rotate(api: &Api, request: Request<RotateSecretRequest>) -> Result<Response<Secret>, Status> {
    let (call, request) = api.authorized(Rpc::RotateSecret, request, |request| &request.parent).await?;
    let mut violations = Violations::default();
    let store = call.once(&mut violations, &request.request_id, &request);
    let parent = violations.check("parent", name::Subscription::parse(&request.parent));
    let secret = violations.id("secret_id", request.secret_id, 'k');
    let key = violations.signing_key("secret", request.secret.unwrap_or_default());
    let overlap = request.overlap.map_or(Ok(DEFAULT_OVERLAP), Duration::try_from).ok();
    let overlap = overlap.filter(|overlap| *overlap <= MAX_OVERLAP && overlap.subsec_nanos() % 1_000_000 == 0);
    if overlap.is_none() {
        violations.add("overlap", "must be zero to 30 days (2592000s), in whole milliseconds; 24 hours if left out");
    }
    let checked = parent.zip(key).zip(overlap);
    let ((name::Subscription { tenant, subscription }, key), overlap) = violations.finish_with(checked)?;
    let name = name::Secret { tenant, subscription, secret };
    let secret = store.rotate_secret(&name, &key, overlap).await?;
    Ok(written(secret.revision, secret))
}

pub async fn promote(api: &Api, request: Request<PromoteSecretRequest>) -> Result<Response<Secret>, Status> {
    let (call, request) = api.authorized(Rpc::PromoteSecret, request, |request| &request.name).await?;
    let name = field("name", name::Secret::parse(&request.name))?;
    let (secret, revision) = call.store.promote_secret(&name, &request.etag).await?;
    Ok(written(revision, secret))
}

pub async fn list_public_keys(
    api: &Api,
    request: Request<ListPublicKeysRequest>,
) -> Result<Response<ListPublicKeysResponse>, Status> {
    let (call, request) = api.authorized(Rpc::ListPublicKeys, request, |request| &request.parent).await?;
    let mut violations = Violations::default();
    let parent = violations.check("parent", name::Subscription::parse(&request.parent));
    let page = Page::read(&mut violations, "publicKeys", &request.parent, request.page_size, &request.page_token);
    let after = after(&mut violations, &page);
    let parent = violations.finish_with(parent)?;
    let mut keys = call.store.public_keys(&parent).await?;
    if keys.is_empty() {
        // Whoever may read them may know whether there is the subscription.
        call.store.get_subscription(&parent).await?;
    }
    keys.retain(|(revision, _)| *revision > after);
    let (keys, next_page_token) = page.finish(keys, |(revision, _)| revision.to_string());
    let public_keys = keys.into_iter().map(|(_, key)| key).collect();
    Ok(Response::new(ListPublicKeysResponse { public_keys, next_page_token }))
}

/// Oldest first: a page begins after a revision, not after an id.
fn after(violations: &mut Violations, page: &Page<'_>) -> i64 {
    let after = if page.after.is_empty() { Some(0) } else { violations.check("page_token", page.after.parse()) };
    after.unwrap_or_default()
}
