//! The HTTP client: one request, one answer, nothing on its own account. A subscription that shows a certificate has clients,
//! and connections, of its own.

use std::fs;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hookwire_proto::config::ClientCertificate;
use hookwire_proto::private_key::PrivateKey;
use hookwire_proto::seal::MasterKeys;
use moka::sync::Cache;
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, InconsistentKeys, RootCertStore};
use tower::{BoxError, Service};

use super::answer;
use super::attempt::Answer;
use super::config::{self, Settings};
use super::egress::Guard;
use super::failure::Shared;
use super::request::Request;
use super::sources::Sources;
use crate::cache::snapshot::Subscription;
use crate::sign::{self, authorization};

/// Subscriptions with a certificate whose clients are kept, at most.
const MAX_OWN: u64 = 1_000;
/// For so long without a request.
const OWN_IDLE: Duration = Duration::from_secs(10 * 60);

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of authorities.
    #[error("deliver.ca_file: {path}: {detail}; write the path of a PEM file with certificates")]
    CaFile {
        /// Its path.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    /// Names can't be resolved at all.
    #[error("deliver.egress.name_servers: names can't be resolved")]
    Resolver(#[source] io::Error),
    /// HTTP can't be set up.
    #[error("the HTTP client can't be set up")]
    Http(#[from] reqwest::Error),
    /// A setting can't be used after all.
    #[error(transparent)]
    Setting(#[from] config::Error),
}

/// Sends requests. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    settings: Settings,
    guard: Guard,
    keys: Arc<MasterKeys>,
    roots: Arc<RootCertStore>,
    /// For all who show no certificate.
    shared: Sources,
    /// By subscription and revision: with other settings, others.
    own: Cache<(Arc<str>, i64), Sources>,
    kept_headers: Arc<[String]>,
}

impl Client {
    /// A client that connects to what the guard lets through, with certificates whose keys open under `keys`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn new(settings: &Settings, guard: Guard, keys: Arc<MasterKeys>) -> Result<Self, Error> {
        let roots = Arc::new(roots(settings)?);
        let shared = Sources::new(settings, &guard, &tls(&roots)?.with_no_client_auth())?;
        Ok(Self(Arc::new(Inner {
            settings: settings.clone(),
            guard,
            keys,
            roots,
            shared,
            own: Cache::builder().max_capacity(MAX_OWN).time_to_idle(OWN_IDLE).build(),
            kept_headers: settings.kept_headers.clone().into(),
        })))
    }

    /// What sends requests that show no certificate.
    pub fn shared(&self) -> &Sources {
        &self.0.shared
    }
}

impl Inner {
    /// What sends the requests of a subscription.
    fn of(&self, subscription: &Subscription) -> Result<Sources, Shared<sign::Error>> {
        let settings = subscription.settings.as_deref();
        let Some(certificate) = settings.and_then(|settings| settings.client_certificate.as_ref()) else {
            return Ok(self.shared.clone());
        };
        let key = (subscription.name.clone(), subscription.revision);
        self.own.try_get_with(key, || self.showing(&subscription.name, certificate)).map_err(Shared)
    }

    fn showing(&self, subscription: &str, certificate: &ClientCertificate) -> Result<Sources, sign::Error> {
        let unusable = || sign::Error::Certificate;
        let key = authorization::private_key(subscription, certificate, &self.keys)?;
        let key = PrivateKey::from_pem(&key).ok_or_else(unusable)?;
        // Not by `with_client_auth_cert`, which takes the key as its own and does not wipe it.
        let key = any_supported_type(&key.der()).map_err(|_| unusable())?;
        let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes());
        let shown = CertifiedKey::new(chain.collect::<Result<_, _>>().map_err(|_| unusable())?, key);
        // Of some keys, what is public can't be told.
        match shown.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(unusable()),
        }
        let tls = tls(&self.roots).map_err(|_| unusable())?;
        let tls = tls.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        Sources::new(&self.settings, &self.guard, &tls).map_err(|_| unusable())
    }
}

impl Service<Request> for Client {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The lane has decided; the client never makes an attempt wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let sent = inner.of(&request.subscription)?.execute(request.http).await?;
            Ok(answer::read(sent, &inner.kept_headers, &request.secrets).await?)
        })
    }
}

/// The system's authorities and the configured ones.
fn roots(settings: &Settings) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "the system's certificate authorities could not be read in full");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = &settings.ca_file {
        let wrong = |detail: String| Error::CaFile { path: path.display().to_string(), detail };
        let pem = fs::read(path).map_err(|error: io::Error| wrong(error.to_string()))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(format!("not PEM ({error})")))?;
        if certificates.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        tracing::warn!(
            "no certificate authority is known: every https request will fail; install the system's ca-certificates or \
             set deliver.ca_file"
        );
    }
    Ok(roots)
}

/// TLS with recipients that these authorities know.
fn tls(roots: &Arc<RootCertStore>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots.clone()))
}
