//! The calls that tests make, with a key.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hookwire_proto::v1::api_key_service_client::ApiKeyServiceClient;
use hookwire_proto::v1::attempt_service_client::AttemptServiceClient;
use hookwire_proto::v1::egress_service_client::EgressServiceClient;
use hookwire_proto::v1::event_type_service_client::EventTypeServiceClient;
use hookwire_proto::v1::node_service_client::NodeServiceClient;
use hookwire_proto::v1::publish_service_client::PublishServiceClient;
use hookwire_proto::v1::replay_service_client::ReplayServiceClient;
use hookwire_proto::v1::subscription_service_client::SubscriptionServiceClient;
use hookwire_proto::v1::tenant_service_client::TenantServiceClient;
use hookwire_proto::v1::{
    CreateEventTypeRequest, CreateSubscriptionRequest, CreateTenantRequest, NewMessage, PublishMessagesRequest,
    PublishResult, Subscription, Tenant, new_message::Payload,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

/// A connection with a key.
pub type Connection = InterceptedService<Channel, Key>;

/// Adds the key to each call.
#[derive(Clone)]
pub struct Key(Option<MetadataValue<Ascii>>);

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// One server, called with one key.
#[derive(Clone)]
pub struct Api {
    channel: Channel,
    key: Key,
}

impl Api {
    /// A server at `url`, which need not run yet. `authority` is trusted for `https`.
    ///
    /// # Errors
    /// When the URL or the key can't be used.
    pub fn new(url: &str, authority: Option<&Path>, key: &str) -> Result<Self> {
        // A server that is restarted is tried again at once, so that a test sees when it is back.
        let mut endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(30));
        if let Some(authority) = authority {
            let authority = Certificate::from_pem(std::fs::read(authority)?);
            endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(authority))?;
        }
        let api = Self { channel: endpoint.connect_lazy(), key: Key(None) };
        api.with_key(key)
    }

    /// The same server with another key; "" sends none.
    ///
    /// # Errors
    /// When the key is no text for a header.
    pub fn with_key(&self, key: &str) -> Result<Self> {
        let key = match key {
            "" => None,
            key => Some(format!("Bearer {key}").parse().context("a key is visible ASCII")?),
        };
        Ok(Self { channel: self.channel.clone(), key: Key(key) })
    }

    /// The connection, for a client of any service.
    pub fn connection(&self) -> Connection {
        InterceptedService::new(self.channel.clone(), self.key.clone())
    }

    /// `TenantService`.
    pub fn tenants(&self) -> TenantServiceClient<Connection> {
        TenantServiceClient::new(self.connection())
    }

    /// `EventTypeService`.
    pub fn event_types(&self) -> EventTypeServiceClient<Connection> {
        EventTypeServiceClient::new(self.connection())
    }

    /// `SubscriptionService`.
    pub fn subscriptions(&self) -> SubscriptionServiceClient<Connection> {
        SubscriptionServiceClient::new(self.connection())
    }

    /// `ApiKeyService`.
    pub fn api_keys(&self) -> ApiKeyServiceClient<Connection> {
        ApiKeyServiceClient::new(self.connection())
    }

    /// `NodeService`.
    pub fn nodes(&self) -> NodeServiceClient<Connection> {
        NodeServiceClient::new(self.connection())
    }

    /// `EgressService`.
    pub fn egress(&self) -> EgressServiceClient<Connection> {
        EgressServiceClient::new(self.connection())
    }

    /// `AttemptService`.
    pub fn attempts(&self) -> AttemptServiceClient<Connection> {
        AttemptServiceClient::new(self.connection())
    }

    /// `ReplayService`.
    pub fn replays(&self) -> ReplayServiceClient<Connection> {
        ReplayServiceClient::new(self.connection())
    }

    /// `PublishService`.
    pub fn publishing(&self) -> PublishServiceClient<Connection> {
        PublishServiceClient::new(self.connection())
    }

    /// Creates a tenant that no other test has, with event types.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn new_tenant(&self, event_types: &[&str]) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("t-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let request =
            CreateTenantRequest { tenant_id: id, tenant: Some(Tenant::default()), ..CreateTenantRequest::default() };
        let tenant = self.tenants().create_tenant(request).await?.into_inner().name;
        for id in event_types {
            self.new_event_type(&tenant, id).await?;
        }
        Ok(tenant)
    }

    /// Registers an event type.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn new_event_type(&self, tenant: &str, id: &str) -> Result<()> {
        let request = CreateEventTypeRequest {
            parent: tenant.to_owned(),
            event_type_id: id.to_owned(),
            event_type: None,
            ..CreateEventTypeRequest::default()
        };
        self.event_types().create_event_type(request).await?;
        Ok(())
    }

    /// Creates a subscription, whose answer has the secret and the revision.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn subscribe(&self, tenant: &str, url: &str, event_types: &[&str]) -> Result<Subscription> {
        let event_types = event_types.iter().map(|&event_type| event_type.to_owned()).collect();
        self.subscribe_as(tenant, Subscription { url: url.to_owned(), event_types, ..Subscription::default() }).await
    }

    /// Creates a subscription as it is given.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn subscribe_as(&self, tenant: &str, subscription: Subscription) -> Result<Subscription> {
        let request = CreateSubscriptionRequest {
            parent: tenant.to_owned(),
            subscription_id: String::new(),
            subscription: Some(subscription),
            ..CreateSubscriptionRequest::default()
        };
        Ok(self.subscriptions().create_subscription(request).await?.into_inner())
    }

    /// Publishes a batch to be matched under `min_revision` at least.
    ///
    /// # Errors
    /// What the server answers for the whole batch.
    pub async fn publish(
        &self,
        tenant: &str,
        messages: Vec<NewMessage>,
        min_revision: i64,
    ) -> Result<Vec<PublishResult>, Status> {
        let request = PublishMessagesRequest { parent: tenant.to_owned(), messages, min_revision };
        Ok(self.publishing().publish_messages(request).await?.into_inner().results)
    }

    /// Publishes one message and returns its id.
    ///
    /// # Errors
    /// When it was not made durable.
    pub async fn publish_one(&self, tenant: &str, event_type: &str, data: &str, min_revision: i64) -> Result<String> {
        let results = self.publish(tenant, vec![message(event_type, data.to_owned())], min_revision).await?;
        let result = results.into_iter().next().context("one result for one message")?;
        match result.error {
            Some(error) => anyhow::bail!("{}: {}", error.code, error.message),
            None => Ok(id_of(&result.name).to_owned()),
        }
    }
}

/// A message whose id the server makes.
pub fn message(event_type: &str, data: impl Into<bytes::Bytes>) -> NewMessage {
    NewMessage { event_type: event_type.to_owned(), payload: Some(Payload::Data(data.into())), ..NewMessage::default() }
}

/// The last part of a resource name.
pub fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The key of a subscription's first secret, which the answer to its creation has.
///
/// # Errors
/// When the answer has none.
pub fn secret_of(subscription: &Subscription) -> Result<String> {
    let secret = subscription.initial_secret.as_ref().context("a new subscription has a secret")?;
    Ok(secret.key.clone())
}
