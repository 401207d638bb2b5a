//! `hookwire.v1.SubscriptionService`; its RPCs about secrets are in [`secret`], pings in [`ping`].

use hookwire_proto::name;
use hookwire_proto::v1::enable_subscription_request::Waiting;
use hookwire_proto::v1::subscription_service_server::SubscriptionService;
use hookwire_proto::v1::{
    BatchCreateSubscriptionsRequest, BatchCreateSubscriptionsResponse, BatchUpdateSubscriptionsRequest,
    BatchUpdateSubscriptionsResponse, CreateSecretRequest, CreateSubscriptionRequest, DeleteSecretRequest,
    DeleteSubscriptionRequest, EnableSubscriptionRequest, GetSecretRequest, GetSubscriptionRequest,
    ListPublicKeysRequest, ListPublicKeysResponse, ListSecretsRequest, ListSecretsResponse, ListSubscriptionsRequest,
    ListSubscriptionsResponse, PauseSubscriptionRequest, PingSubscriptionRequest, PingSubscriptionResponse,
    PromoteSecretRequest, RotateSecretRequest, Secret, Subscription, UpdateSubscriptionRequest,
};
use tonic::{Request, Response, Status};

use super::page::Page;
use super::validate::{Violations, field};
use super::{Api, new_subscription, ping, secret, written};
use crate::auth::Rpc;
use crate::store::SubscriptionAt;

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

    async fn batch_create_subscriptions(
        &self,
        request: Request<BatchCreateSubscriptionsRequest>,
    ) -> Result<Response<BatchCreateSubscriptionsResponse>, Status> {
        let (call, request) =
            self.authorized(Rpc::BatchCreateSubscriptions, request, |request| &request.parent).await?;
        let mut violations = Violations::default();
        let store = call.once(&mut violations, &request.request_id, &request);
        let (parent, new) = new_subscription::read_batch(violations, request, &self.egress)?;
        let all = |subscriptions| BatchCreateSubscriptionsResponse { subscriptions };
        let made = store.create_subscriptions(&parent, new, all).await?;
        Ok(written(revision(&made.subscriptions), made))
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

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let (call, request) = self
            .authorized(Rpc::UpdateSubscription, request, |request| {
                request.subscription.as_ref().map_or("", |subscription| &subscription.name)
            })
            .await?;
        let (name, etag) = request.subscription.as_ref().map_or(("", ""), |it| (it.name.as_str(), it.etag.as_str()));
        let name = field("subscription.name", name::Subscription::parse(name))?;
        let which = [SubscriptionAt { id: name.subscription, etag: etag.to_owned() }];
        let change = |current: &[Subscription]| {
            current.iter().map(|current| new_subscription::change(current, &request, &self.egress)).collect()
        };
        let changed = call.store.update_subscriptions(&name::Tenant { tenant: name.tenant }, &which, change).await?;
        Ok(written(revision(&changed), changed.into_iter().next().unwrap_or_default()))
    }

    async fn batch_update_subscriptions(
        &self,
        request: Request<BatchUpdateSubscriptionsRequest>,
    ) -> Result<Response<BatchUpdateSubscriptionsResponse>, Status> {
        let (call, request) =
            self.authorized(Rpc::BatchUpdateSubscriptions, request, |request| &request.parent).await?;
        let (parent, which) = new_subscription::read_updates(&request)?;
        let change = |current: &[Subscription]| new_subscription::change_all(current, &request.requests, &self.egress);
        let subscriptions = call.store.update_subscriptions(&parent, &which, change).await?;
        Ok(written(revision(&subscriptions), BatchUpdateSubscriptionsResponse { subscriptions }))
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

    async fn ping_subscription(
        &self,
        request: Request<PingSubscriptionRequest>,
    ) -> Result<Response<PingSubscriptionResponse>, Status> {
        ping::ping(self, request).await
    }

    async fn list_public_keys(
        &self,
        request: Request<ListPublicKeysRequest>,
    ) -> Result<Response<ListPublicKeysResponse>, Status> {
        secret::list_public_keys(self, request).await
    }
}

/// The revision of a write, which all that it wrote have.
fn revision(written: &[Subscription]) -> i64 {
    written.first().map_or(0, |subscription| subscription.revision)
}
