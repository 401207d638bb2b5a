//! A fresh database and a control plane for each test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hookwire_control_plane::config::Settings;
use hookwire_control_plane::store::{Store, StoreSettings};
use hookwire_control_plane::{ControlPlane, Error, Listeners};
use hookwire_log::{Layout, Log, OpenLog};
use hookwire_proto::seal::MasterKeys;
use hookwire_proto::v1::api_key_service_client::ApiKeyServiceClient;
use hookwire_proto::v1::attempt_service_client::AttemptServiceClient;
use hookwire_proto::v1::audit_service_client::AuditServiceClient;
use hookwire_proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use hookwire_proto::v1::delivery_service_client::DeliveryServiceClient;
use hookwire_proto::v1::egress_service_client::EgressServiceClient;
use hookwire_proto::v1::event_type_service_client::EventTypeServiceClient;
use hookwire_proto::v1::message_service_client::MessageServiceClient;
use hookwire_proto::v1::node_service_client::NodeServiceClient;
use hookwire_proto::v1::replay_service_client::ReplayServiceClient;
use hookwire_proto::v1::subscription_service_client::SubscriptionServiceClient;
use hookwire_proto::v1::tenant_service_client::TenantServiceClient;
use hookwire_proto::v1::{
    ApiKey, CreateApiKeyRequest, CreateEventTypeRequest, CreateSubscriptionRequest, CreateTenantRequest, Subscription,
    Tenant, api_key::Role,
};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;
use url::Url;

/// Runs each test body on both databases, as tests of their own.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::support::Database::sqlite()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(database) = $crate::support::Database::postgres().await {
                        let url = database.url.clone();
                        super::$test(database).await;
                        $crate::support::drop_postgres(&url).await;
                    }
                }
            )+
        }
    };
}
pub(crate) use on_both;

/// The key that every test's control plane begins with.
pub const ADMIN_KEY: &str = "hwk_bootstrap_0123456789abcdef0123456789abcdef";

/// An empty database of this test's own.
pub struct Database {
    pub url: String,
    pub master_keys: String,
    pub directory: TempDir,
}

impl Database {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/store.db?mode=rwc", directory.path().display());
        Self { url, master_keys: MasterKeys::generate().to_string(), directory }
    }

    /// `None` where there is no server to test with.
    pub async fn postgres() -> Option<Self> {
        let Ok(server) = std::env::var("HOOKWIRE_TEST_POSTGRES") else {
            #[allow(clippy::print_stderr, reason = "whoever runs the tests should know")]
            {
                eprintln!("not run: HOOKWIRE_TEST_POSTGRES is not set");
            }
            return None;
        };
        let name = format!("control_{}", uuid::Uuid::new_v4().simple());
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        let mut url = Url::parse(&server).unwrap();
        url.set_path(&name);
        Some(Self { url: url.into(), ..Self::sqlite() })
    }

    pub fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite")
    }

    /// Carries out statements behind the store's back.
    pub async fn execute(&self, sql: &str) {
        if !self.is_sqlite() {
            return execute(&self.url, sql).await;
        }
        let connection = sea_orm::Database::connect(&self.url).await.unwrap();
        connection.execute_unprepared(sql).await.unwrap();
        connection.close().await.unwrap();
    }

    pub fn settings(&self) -> StoreSettings {
        StoreSettings { url: self.url.clone(), max_connections: 8, ..Default::default() }
    }

    pub fn keys(&self) -> Arc<MasterKeys> {
        Arc::new(MasterKeys::parse(&self.master_keys).unwrap())
    }

    pub async fn store(&self) -> Store {
        self.store_with(self.settings()).await
    }

    pub async fn store_with(&self, settings: StoreSettings) -> Store {
        Store::open(&settings, self.keys()).await.unwrap()
    }

    /// Everything that is in the database: SQLite's files, or every row of PostgreSQL as text, bytes in hexadecimal.
    pub async fn contents(&self) -> Vec<u8> {
        if self.is_sqlite() {
            let files = std::fs::read_dir(self.directory.path()).unwrap().map(|file| file.unwrap().path());
            let files = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("store.db"));
            return files.flat_map(|path| std::fs::read(path).unwrap()).collect();
        }
        let connection = connect(&self.url).await;
        let rows = async |sql: &str| -> Vec<String> {
            let statement = Statement::from_string(DbBackend::Postgres, sql);
            let rows = connection.query_all_raw(statement).await.unwrap();
            rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
        };
        let mut contents = Vec::new();
        for table in rows("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'").await {
            for row in rows(&format!("SELECT t::text FROM \"{table}\" t")).await {
                contents.extend_from_slice(row.as_bytes());
            }
        }
        connection.close().await.unwrap();
        contents
    }

    /// The first column of what SQL selects, as text; for what the store does not show.
    pub async fn query(&self, sql: &str) -> Vec<String> {
        let connection = sea_orm::Database::connect(&self.url).await.unwrap();
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        let rows = connection.query_all_raw(statement).await.unwrap();
        let texts = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
        connection.close().await.unwrap();
        texts
    }

    /// Settings of a control plane over this database, on free ports of the loopback.
    pub fn control_plane(&self) -> Settings {
        let key_file = self.directory.path().join("admin-key");
        std::fs::write(&key_file, ADMIN_KEY).unwrap();
        let mut settings = Settings::default();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        (settings.api.listen, settings.push.listen, settings.ops.listen) = (any, any, any);
        settings.api.bootstrap_admin_key_file = Some(key_file);
        settings.store = self.settings();
        settings.secrets.master_keys = Some(self.master_keys.clone().into());
        settings
    }
}

/// Deletes a test's database, whoever is still connected. That of a test that failed stays, to be looked at.
pub async fn drop_postgres(url: &str) {
    let server = std::env::var("HOOKWIRE_TEST_POSTGRES").unwrap();
    let name = Url::parse(url).unwrap().path().trim_start_matches('/').to_owned();
    execute(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

async fn connect(server: &str) -> DatabaseConnection {
    let options = PgConnectOptions::from_str(server).unwrap();
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    sea_orm::SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
}

async fn execute(server: &str, sql: &str) {
    let connection = connect(server).await;
    connection.execute_unprepared(sql).await.unwrap();
    connection.close().await.unwrap();
}

/// A control plane that runs in this process, and stops with this.
pub struct Plane {
    pub api: SocketAddr,
    pub push: SocketAddr,
    pub ops: SocketAddr,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Result<(), Error>>,
    pub store: Store,
    _stop: DropGuard,
}

/// One whose log is away: configuration does not need it.
pub async fn start(settings: Settings) -> Plane {
    start_with(settings, no_log()).await
}

/// A log that can't be reached.
pub fn no_log() -> OpenLog {
    Arc::new(|_| async { Err(hookwire_log::Error::Unavailable { detail: "not in this test".into() }) }.boxed())
}

/// An embedded log in a directory, and what opens it for control planes: the same one, which none of them closes.
pub async fn embedded_log(directory: &std::path::Path) -> (Arc<dyn Log>, OpenLog) {
    let open = hookwire_log::embedded::shared(directory.join("log"));
    (open(Layout::default()).await.unwrap(), open)
}

pub async fn start_with(settings: Settings, open_log: OpenLog) -> Plane {
    let listeners = Listeners::bind(&settings).await.unwrap();
    let address = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap();
    let (api, push, ops) = (address(&listeners.api), address(&listeners.push), address(&listeners.ops));
    let plane = ControlPlane::open(settings, open_log).await.unwrap();
    let store = plane.store().clone();
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(plane.serve(listeners, shutdown.clone()));
    Plane { api, push, ops, served, store, _stop: shutdown.clone().drop_guard(), shutdown }
}

impl Plane {
    pub async fn client(&self, key: &str) -> Client {
        let channel = Channel::from_shared(format!("http://{}", self.api)).unwrap().connect().await.unwrap();
        Client::new(channel, key)
    }

    /// What a path of its port for HTTP answers: status line, headers and body.
    pub async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.ops).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub async fn admin(&self) -> Client {
        self.client(ADMIN_KEY).await
    }
}

/// Sends the key with each call.
#[derive(Clone)]
pub struct WithKey(Option<MetadataValue<Ascii>>);

impl Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, WithKey>;

/// Clients of all services with one key.
#[derive(Clone)]
pub struct Client {
    pub tenants: TenantServiceClient<Authorized>,
    pub event_types: EventTypeServiceClient<Authorized>,
    pub subscriptions: SubscriptionServiceClient<Authorized>,
    pub api_keys: ApiKeyServiceClient<Authorized>,
    pub messages: MessageServiceClient<Authorized>,
    pub deliveries: DeliveryServiceClient<Authorized>,
    pub attempts: AttemptServiceClient<Authorized>,
    pub dead_letters: DeadLetterServiceClient<Authorized>,
    pub audit: AuditServiceClient<Authorized>,
    pub nodes: NodeServiceClient<Authorized>,
    pub egress: EgressServiceClient<Authorized>,
    pub replays: ReplayServiceClient<Authorized>,
}

impl Client {
    /// An empty key sends none.
    pub fn new(channel: Channel, key: &str) -> Self {
        let with_key = WithKey((!key.is_empty()).then(|| format!("Bearer {key}").parse().unwrap()));
        Self {
            tenants: TenantServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            event_types: EventTypeServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            subscriptions: SubscriptionServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            messages: MessageServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            deliveries: DeliveryServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            attempts: AttemptServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            dead_letters: DeadLetterServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            replays: ReplayServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            api_keys: ApiKeyServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            audit: AuditServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            nodes: NodeServiceClient::with_interceptor(channel.clone(), with_key.clone()),
            egress: EgressServiceClient::with_interceptor(channel, with_key),
        }
    }

    pub async fn create_tenant(&mut self, id: &str) -> Tenant {
        let request = CreateTenantRequest {
            tenant_id: id.into(),
            tenant: Some(Tenant::default()),
            ..CreateTenantRequest::default()
        };
        self.tenants.create_tenant(request).await.unwrap().into_inner()
    }

    pub async fn create_event_type(&mut self, tenant: &str, event_type: &str) {
        let request = CreateEventTypeRequest {
            parent: format!("tenants/{tenant}"),
            event_type_id: event_type.into(),
            event_type: None,
            ..CreateEventTypeRequest::default()
        };
        self.event_types.create_event_type(request).await.unwrap();
    }

    pub async fn create_subscription(&mut self, tenant: &str, id: &str) -> Subscription {
        self.subscriptions.create_subscription(new_subscription(tenant, id)).await.unwrap().into_inner()
    }

    pub async fn create_api_key(&mut self, role: Role, tenant: &str) -> ApiKey {
        let tenant = if tenant.is_empty() { String::new() } else { format!("tenants/{tenant}") };
        let api_key = Some(ApiKey { role: role.into(), tenant, ..Default::default() });
        self.api_keys
            .create_api_key(CreateApiKeyRequest { api_key, ..CreateApiKeyRequest::default() })
            .await
            .unwrap()
            .into_inner()
    }
}

/// A valid request.
pub fn new_subscription(tenant: &str, id: &str) -> CreateSubscriptionRequest {
    CreateSubscriptionRequest {
        parent: format!("tenants/{tenant}"),
        subscription_id: id.into(),
        subscription: Some(Subscription {
            url: "https://example.com/hooks".into(),
            event_types: vec!["*".into()],
            ..Default::default()
        }),
        ..CreateSubscriptionRequest::default()
    }
}

/// A refusal: its code, reason and the fields that are wrong, after checking what every refusal must have.
pub fn refusal<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> (Code, String, BTreeSet<String>) {
    let status = result.expect_err("a refusal");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.domain, "hookwire");
    assert!(!status.message().is_empty());
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    assert!(violations.iter().all(|violation| !violation.description.is_empty()));
    (status.code(), info.reason, violations.into_iter().map(|violation| violation.field).collect())
}

/// What [`refusal`] gives for wrong fields.
pub fn invalid<const N: usize>(fields: [&str; N]) -> (Code, String, BTreeSet<String>) {
    (Code::InvalidArgument, "INVALID_ARGUMENT".into(), fields.map(Into::into).into())
}

/// What [`refusal`] gives for other refusals.
pub fn refused(code: Code, reason: &str) -> (Code, String, BTreeSet<String>) {
    (code, reason.into(), BTreeSet::new())
}

const HOLDS_WITHIN: Duration = Duration::from_secs(30);

/// Waits until something holds.
///
/// # Panics
/// When it does not in time.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + HOLDS_WITHIN;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {HOLDS_WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
