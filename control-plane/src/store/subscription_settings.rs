//! What else a subscription has: one column, encoded as nodes get it (`config.v1.SubscriptionSettings`), secrets sealed.

use std::collections::BTreeMap;
use std::time::Duration;

use hookwire_proto::config::{Sealed, SubscriptionSettings, custom_header, subscription_settings as config_oneof};
use hookwire_proto::seal::{self, MasterKeys};
use hookwire_proto::v1::{self, o_auth_client::AuthStyle, signing::Scheme, subscription as v1_oneof};
use hookwire_proto::{config, name};
use prost::Message as _;
use zeroize::Zeroizing;

use super::Error;
use super::entity::subscription::Model;

/// Settings that have been validated, their secrets beside them.
#[derive(Debug, Default)]
pub struct NewSettings {
    /// All but the secrets: each sealed value is the default.
    pub settings: SubscriptionSettings,
    /// The secrets that are new, by what [`seal::visit`] says of them. One that is not here stays what it was.
    pub secrets: BTreeMap<String, Zeroizing<String>>,
}

impl NewSettings {
    /// The settings with every secret sealed, new ones and those of `current`.
    pub(super) fn seal(
        self,
        keys: &MasterKeys,
        subscription: &name::Subscription,
        current: Option<SubscriptionSettings>,
    ) -> Result<SubscriptionSettings, Error> {
        let (mut kept, mut missing) = (BTreeMap::new(), None);
        seal::visit(&mut current.unwrap_or_default(), |part, sealed| {
            kept.insert(part.to_owned(), std::mem::take(sealed));
        });
        let Self { mut settings, secrets } = self;
        seal::visit(&mut settings, |part, sealed| {
            match secrets.get(part) {
                Some(secret) => *sealed = keys.seal(&format!("{subscription}{part}"), secret.as_bytes()),
                None => match kept.remove(part) {
                    Some(before) => *sealed = before,
                    None => missing = Some(format!("{subscription}{part} has no secret to keep")),
                },
            };
        });
        match missing {
            Some(detail) => Err(Error::Corrupt { detail }),
            None => Ok(settings),
        }
    }
}

impl Model {
    /// The settings, secrets sealed; `None` if nothing is set.
    pub(super) fn settings(&self) -> Result<Option<SubscriptionSettings>, Error> {
        let Some(bytes) = &self.settings else { return Ok(None) };
        let decoded = SubscriptionSettings::decode(bytes.as_slice());
        decoded.map(Some).map_err(|error| self.corrupt("the settings", error))
    }

    /// Stores settings whose secrets are sealed.
    pub(super) fn set_settings(&mut self, settings: &SubscriptionSettings) {
        self.settings = (*settings != SubscriptionSettings::default()).then(|| settings.encode_to_vec());
    }

    /// Lets each sealed value of the row but its signing secrets be changed: whoever seals anew gets the name that it is
    /// sealed for. The row is to be written by the caller.
    pub(super) fn visit_sealed(&mut self, mut visitor: impl FnMut(&str, &mut Sealed)) -> Result<(), Error> {
        let name = self.name();
        if let Some(value) = &self.shared_key_value {
            let mut sealed = super::seal::decode(value, &name)?;
            visitor(&format!("{name}/sharedKey"), &mut sealed);
            self.shared_key_value = Some(sealed.encode_to_vec());
        }
        if let Some(mut settings) = self.settings()? {
            seal::visit(&mut settings, |part, sealed| visitor(&format!("{name}{part}"), sealed));
            self.set_settings(&settings);
        }
        Ok(())
    }

    /// The labels.
    pub(super) fn labels(&self) -> Result<BTreeMap<String, String>, Error> {
        serde_json::from_str(&self.labels).map_err(|error| self.corrupt("the labels", error))
    }

    fn corrupt(&self, what: &str, error: impl std::fmt::Display) -> Error {
        Error::Corrupt { detail: format!("{what} of {}: {error}", self.name()) }
    }
}

/// Fills the settings into what is shown of a subscription: without secrets.
pub(super) fn show(settings: SubscriptionSettings, shown: &mut v1::Subscription) {
    shown.headers = settings.headers.into_iter().map(header).collect();
    shown.content_type = settings.content_type;
    shown.rate_limit = settings
        .rate_limit
        .map(|limit| v1::RateLimit { requests_per_second: limit.requests_per_second, burst: limit.burst });
    shown.attempt_timeout = duration_ms(settings.attempt_timeout_ms);
    shown.retry_schedule = settings.retry_schedule.map(|schedule| v1::RetrySchedule {
        delays: schedule.delays_ms.iter().map(|delay| duration_ms(*delay).unwrap_or_default()).collect(),
        deadline: duration_ms(schedule.deadline_ms),
    });
    shown.signing = settings.signing.map(signing);
    shown.authentication = settings.authentication.map(|authentication| match authentication {
        config_oneof::Authentication::BasicAuth(basic) => {
            v1_oneof::Authentication::BasicAuth(v1::BasicAuth { username: basic.username, password: String::new() })
        }
        config_oneof::Authentication::OauthClient(client) => v1_oneof::Authentication::OauthClient(v1::OAuthClient {
            token_url: client.token_url,
            client_id: client.client_id,
            client_secret: String::new(),
            scopes: client.scopes,
            audience: client.audience,
            auth_style: if client.in_form { AuthStyle::Form } else { AuthStyle::Basic }.into(),
        }),
    });
    shown.ordered = settings.ordered;
    shown.client_certificate = settings
        .client_certificate
        .map(|certificate| v1::ClientCertificate { certificate: certificate.certificate, private_key: String::new() });
}

fn header(header: config::CustomHeader) -> v1::CustomHeader {
    let (value, has_secret_value) = match header.content {
        Some(custom_header::Content::SecretValue(_)) => (String::new(), true),
        Some(custom_header::Content::Value(value)) => (value, false),
        None => (String::new(), false),
    };
    v1::CustomHeader { name: header.name, value, has_secret_value, secret_value: String::new() }
}

fn signing(signing: config::Signing) -> v1::Signing {
    let schemes: &[Scheme] = match (signing.no_standard_webhooks, signing.no_jwt) {
        (false, false) => &[],
        (false, true) => &[Scheme::StandardWebhooks],
        (true, false) => &[Scheme::Jwt],
        (true, true) => &[Scheme::None],
    };
    let jwt = v1::Jwt {
        life: duration_ms(signing.jwt_life_s.saturating_mul(1_000)),
        header: signing.jwt_header,
        audience: signing.jwt_audience,
        claims: signing.jwt_claims,
    };
    v1::Signing {
        schemes: schemes.iter().map(|scheme| (*scheme).into()).collect(),
        jwt: (jwt != v1::Jwt::default()).then_some(jwt),
    }
}

/// `None` for 0, which stands for what is usual.
fn duration_ms(ms: i64) -> Option<prost_types::Duration> {
    let ms = u64::try_from(ms).ok().filter(|ms| *ms > 0)?;
    prost_types::Duration::try_from(Duration::from_millis(ms)).ok()
}
