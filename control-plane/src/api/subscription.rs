//! `hookwire.v1.SubscriptionService`; its RPCs about secrets are in [`secret`].

use hookwire_proto::name;
use hookwire_proto::v1::enable_subscription_request::Waiting;
use hookwire_proto::v1::subscription_service_server::SubscriptionService;
use hookwire_proto::v1::{
    CreateSecretRequest, CreateSubscriptionRequest, DeleteSecretRequest, DeleteSubscriptionRequest,
    EnableSubscriptionRequest, GetSecretRequest, PauseSubscriptionRequest,
    GetSubscriptionRequest, ListPublicKeysRequest, ListPublicKeysResponse, ListSecretsRequest, ListSecretsResponse,
    ListSubscriptionsRequest, ListSubscriptionsResponse, PromoteSecretRequest, RotateSecretRequest, Secret,
    Subscription,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, new_subscription, secret, written};
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

    async fn pause_subscription(
        &self,
        request: Request<PauseSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let (call, request) = self.authorized(Rpc::PauseSubscription, request, |request| &request.name).await?;
        let mut violations = Violations::default();
        let name = violations.check("name", name::Subscription::parse(&request.name));
        violations.description("reason", &request.reason);
        let name = violations.finish_with(name)?;
        let subscription = call.store.pause_subscription(&name, &request.etag, &request.reason).await?;
        Ok(written(subscription.revision, subscription))
    }

    async fn enable_subscription(
        &self,
        request: Request<EnableSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let (call, request) = self.authorized(Rpc::EnableSubscription, request, |request| &request.name).await?;
        let mut violations = Violations::default();
        let name = violations.check("name", name::Subscription::parse(&request.name));
        let waiting = Waiting::try_from(request.waiting).map_err(|_| "must be WAITING_DELIVER or WAITING_DROP");
        let waiting = violations.check("waiting", waiting);
        violations.description("reason", &request.reason);
        let (name, waiting) = violations.finish_with(name.zip(waiting))?;
        let subscription = call.store.enable_subscription(&name, &request.etag, &request.reason, waiting).await?;
        Ok(written(subscription.revision, subscription))
    }

    async fn create_secret(&self, request: Request<CreateSecretRequest>) -> Result<Response<Secret>, Status> {
        secret::create(self, request).await
    }

    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<Secret>, Status> {
        secret::get(self, request).await
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        secret::list(self, request).await
    }

    async fn delete_secret(&self, request: Request<DeleteSecretRequest>) -> Result<Response<()>, Status> {
        secret::delete(self, request).await
    }

    async fn rotate_secret(&self, request: Request<RotateSecretRequest>) -> Result<Response<Secret>, Status> {
        secret::rotate(self, request).await
    }

    async fn promote_secret(&self, request: Request<PromoteSecretRequest>) -> Result<Response<Secret>, Status> {
        secret::promote(self, request).await
    }

    async fn list_public_keys(
        &self,
        request: Request<ListPublicKeysRequest>,
    ) -> Result<Response<ListPublicKeysResponse>, Status> {
        secret::list_public_keys(self, request).await
    }
}
