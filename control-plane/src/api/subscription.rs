//! `hookwire.v1.SubscriptionService`

use hookwire_proto::name;
use hookwire_proto::v1::subscription_service_server::SubscriptionService;
use hookwire_proto::v1::{
    CreateSecretRequest, CreateSubscriptionRequest, DeleteSecretRequest, DeleteSubscriptionRequest,
    GetSubscriptionRequest, ListSecretsRequest, ListSecretsResponse, ListSubscriptionsRequest,
    ListSubscriptionsResponse, Secret, Subscription,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, new_subscription, written};
use crate::auth::Rpc;

#[tonic::async_trait]
impl SubscriptionService for Api {
    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let (call, request) = self.authorized(Rpc::CreateSubscription, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let (name, new) = new_subscription::read(violations, request, &self.egress)?;
        let subscription = store.create_subscription(&name, new).await?;
        Ok(written(subscription.revision, subscription))
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let (call, request) = self.authorized(Rpc::GetSubscription, request, |request| &request.name).await?;
        let name = field("name", name::Subscription::parse(&request.name))?;
        Ok(Response::new(call.store.get_subscription(&name).await?))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListSubscriptions, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Tenant::parse(&request.parent));
        let page =
            Page::read(&mut violations, "subscriptions", &request.parent, request.page_size, &request.page_token);
        let parent = violations.finish_with(parent)?;
        let subscriptions = call.store.list_subscriptions(&parent, &page.after, page.limit()).await?;
        let (subscriptions, next_page_token) = page.finish(subscriptions, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn delete_subscription(&self, request: Request<DeleteSubscriptionRequest>) -> Result<Response<()>, Status> {
        let (call, request) = self.authorized(Rpc::DeleteSubscription, request, |request| &request.name).await?;
        let name = field("name", name::Subscription::parse(&request.name))?;
        Ok(written(call.store.delete_subscription(&name, &request.etag).await?, ()))
    }

    async fn create_secret(&self, request: Request<CreateSecretRequest>) -> Result<Response<Secret>, Status> {
        let (call, request) = self.authorized(Rpc::CreateSecret, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let parent = violations.check("parent", name::Subscription::parse(&request.parent));
        let secret = violations.id("secret_id", request.secret_id, 'k');
        let key = violations.secret("secret.key", &request.secret.unwrap_or_default().key);
        let name::Subscription { tenant, subscription } = violations.finish_with(parent)?;
        let name = name::Secret { tenant, subscription, secret };
        let secret = store.create_secret(&name, &key).await?;
        Ok(written(secret.revision, secret))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListSecrets, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let parent = violations.check("parent", name::Subscription::parse(&request.parent));
        let page = Page::read(&mut violations, "secrets", &request.parent, request.page_size, &request.page_token);
        // Oldest first: a page begins after a revision, not after an id.
        let after = if page.after.is_empty() { Some(0) } else { violations.check("page_token", page.after.parse()) };
        let parent = violations.finish_with(parent)?;
        let secrets = call.store.list_secrets(&parent, after.unwrap_or_default(), page.limit()).await?;
        let (secrets, next_page_token) = page.finish(secrets, |last| last.revision.to_string());
        Ok(Response::new(ListSecretsResponse { secrets, next_page_token }))
    }

    async fn delete_secret(&self, request: Request<DeleteSecretRequest>) -> Result<Response<()>, Status> {
        let (call, request) = self.authorized(Rpc::DeleteSecret, request, |request| &request.name).await?;
        let name = field("name", name::Secret::parse(&request.name))?;
        Ok(written(call.store.delete_secret(&name).await?, ()))
    }
}
