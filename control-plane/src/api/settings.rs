//! What the settings of a subscription must be: each by itself, and all together. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hookwire_proto::config::{self, custom_header::Content, subscription_settings};
use hookwire_proto::egress::Policy;
use hookwire_proto::seal;
use hookwire_proto::v1::subscription::Authentication;
use hookwire_proto::v1::{
    BasicAuth, ClientCertificate, CustomHeader, Jwt, OAuthClient, RateLimit, RetrySchedule, Signing, Subscription,
    o_auth_client::AuthStyle, signing::Scheme,
};
use zeroize::Zeroizing;

use super::validate::Violations;
use crate::store::NewSettings;

mod certificate;
#[cfg(test)]
mod tests;

const MAX_HEADERS: usize = 16;
const MAX_HEADER_NAME_BYTES: usize = 64;
const MAX_SECRET_BYTES: usize = 1_024;
const MAX_NAME_BYTES: usize = 256;
const MAX_CONTENT_TYPE_CHARS: usize = 128;
const MAX_RATE: f64 = 10_000.0;
const MIN_RATE: f64 = 0.01;
const MAX_BURST: i32 = 10_000;
const MAX_ATTEMPTS: usize = 50;
/// What the log keeps messages for at the least, so that none outlives its body.
const MAX_LIFE: Duration = Duration::from_secs(7 * 86_400);
const MAX_CLAIMS: usize = 16;
const MAX_SCOPES: usize = 20;
const MAX_SCOPE_BYTES: usize = 128;

const AUTHORIZATION: &str = "authorization";
const WEBHOOK_TOKEN: &str = "webhook-token";

/// Headers that Hookwire or HTTP sets, which no other may stand in for.
pub(super) const RESERVED_HEADERS: [&str; 21] = [
    "accept",
    "accept-encoding",
    AUTHORIZATION,
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Claims that are set already, or that verifiers take for more than they say.
const RESERVED_CLAIMS: [&str; 9] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "webhook_id", "body_sha256"];

/// The pre-shared key of a subscription: its header, and its value unless that stays what it was.
pub(super) type SharedKey = (String, Option<Zeroizing<String>>);

/// What is read of one subscription, and which headers it has so far.
struct Reader<'a> {
    violations: &'a mut Violations,
    /// What there was before, with an update.
    current: Option<&'a Subscription>,
    /// An update lets requests go to another origin: secrets that were meant for the one before are to be given anew, or who
    /// may write a subscription could have them sent to themselves.
    is_elsewhere: bool,
    /// Which field sets a header.
    headers: HashMap<String, String>,
    read: NewSettings,
    /// Something besides signatures tells a recipient who calls.
    is_known: bool,
}

/// Takes the settings and the pre-shared key out of a subscription. A secret may be left out where `current` has one and
/// sends it to the same origin.
pub(super) fn read(
    violations: &mut Violations,
    new: &mut Subscription,
    current: Option<&Subscription>,
    egress: &Policy,
) -> (NewSettings, Option<SharedKey>) {
    let read = NewSettings::default();
    let is_elsewhere = current.is_some_and(|current| origin(&current.url) != origin(&new.url));
    let mut reader = Reader { violations, current, is_elsewhere, headers: HashMap::new(), read, is_known: false };
    let shared_key = new.shared_key.take().map(|key| reader.shared_key(key));
    reader.headers(std::mem::take(&mut new.headers));
    reader.content_type(std::mem::take(&mut new.content_type));
    if let Some(limit) = new.rate_limit {
        reader.rate_limit(limit);
    }
    reader.read.settings.ordered = new.ordered;
    if let Some(timeout) = &new.attempt_timeout {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let timeout = reader.violations.duration("subscription.attempt_timeout", timeout, min, max);
        reader.read.settings.attempt_timeout_ms = ms(timeout);
    }
    if let Some(schedule) = new.retry_schedule.take() {
        reader.retry_schedule(&schedule);
    }
    let takes_authorization = new.authentication.is_some();
    match new.authentication.take() {
        Some(Authentication::BasicAuth(basic)) => reader.basic_auth(basic),
        Some(Authentication::OauthClient(client)) => reader.oauth_client(client, egress),
        None => {}
    }
    if let Some(certificate) = new.client_certificate.take() {
        reader.client_certificate(certificate);
    }
    if let Some(signing) = new.signing.take() {
        reader.signing(signing, takes_authorization);
    }
    (reader.read, shared_key)
}

impl Reader<'_> {
    fn add(&mut self, field: impl Into<String>, description: impl std::fmt::Display) {
        self.violations.add(field, description);
    }

    /// A secret that was given, or nothing where the one that there is stays.
    fn secret(&mut self, field: &str, value: String, is_kept: bool) -> Option<Zeroizing<String>> {
        let value = Zeroizing::new(value);
        if value.is_empty() && is_kept {
            self.stays(field, "subscription.url", self.is_elsewhere);
            return None;
        }
        if !is_printable(&value, MAX_SECRET_BYTES) {
            self.add(field, format!("must be {}", printable(MAX_SECRET_BYTES)));
        }
        Some(value)
    }

    /// Refuses that a secret is left out where it would be sent to another origin than before.
    fn stays(&mut self, field: &str, url: &str, is_elsewhere: bool) {
        if is_elsewhere {
            self.add(field, format!("must be given anew: {url} has another origin than the one that it was given for"));
        }
    }

    /// The name of a header that no other field sets, in lower case.
    fn header_name(&mut self, field: &str, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !(1..=MAX_HEADER_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_token) {
            self.add(
                field,
                format!(
                    "must be the name of a header, at most {MAX_HEADER_NAME_BYTES} characters, such as `x-api-key`"
                ),
            );
        } else if RESERVED_HEADERS.contains(&&*name) || name.starts_with("webhook-") {
            self.add(field, format!("`{name}` is set by Hookwire or HTTP itself; choose another, such as `x-api-key`"));
        } else {
            self.only_header(field, &name);
        }
        name
    }

    fn only_header(&mut self, field: &str, name: &str) {
        if let Some(other) = self.headers.insert(name.to_owned(), field.to_owned()) {
            self.add(field, format!("`{name}` is set by {other} too; a header is set once"));
        }
    }

    fn shared_key(&mut self, key: hookwire_proto::v1::SharedKey) -> SharedKey {
        self.is_known = true;
        let header = self.header_name("subscription.shared_key.header", &key.header);
        let value = Zeroizing::new(key.value);
        if value.is_empty() && self.current.is_some_and(|current| current.shared_key.is_some()) {
            self.stays("subscription.shared_key.value", "subscription.url", self.is_elsewhere);
            return (header, None);
        }
        if !(1..=MAX_SECRET_BYTES).contains(&value.len()) || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.add(
                "subscription.shared_key.value",
                format!("must be 1 to {MAX_SECRET_BYTES} visible ASCII characters"),
            );
        }
        (header, Some(value))
    }

    fn headers(&mut self, headers: Vec<CustomHeader>) {
        const FIELD: &str = "subscription.headers";
        if headers.len() > MAX_HEADERS {
            return self.add(FIELD, format!("must be at most {MAX_HEADERS}"));
        }
        for (at, header) in headers.into_iter().enumerate() {
            let field = format!("{FIELD}[{at}]");
            let name = self.header_name(&format!("{field}.name"), &header.name);
            let had_secret = |current: &Subscription| {
                current.headers.iter().any(|header| header.name == name && header.has_secret_value)
            };
            let is_kept = self.current.is_some_and(had_secret);
            let content = match (header.value.is_empty(), header.secret_value.is_empty()) {
                (false, true) => {
                    if !is_printable(&header.value, MAX_SECRET_BYTES) {
                        self.add(format!("{field}.value"), format!("must be {}", printable(MAX_SECRET_BYTES)));
                    }
                    Content::Value(header.value)
                }
                (false, false) => {
                    self.add(&field, "has both `value` and `secret_value`; set one");
                    continue;
                }
                (true, true) if !is_kept => {
                    self.add(&field, "has no value; set `value`, or `secret_value` if nobody is to read it");
                    continue;
                }
                (true, _) => {
                    self.is_known = true;
                    let secret = self.secret(&format!("{field}.secret_value"), header.secret_value, is_kept);
                    self.keep_secret(&format!("/headers/{name}"), secret);
                    Content::SecretValue(config::Sealed::default())
                }
            };
            self.read.settings.headers.push(config::CustomHeader { name, content: Some(content) });
        }
    }

    fn keep_secret(&mut self, part: &str, secret: Option<Zeroizing<String>>) {
        if let Some(secret) = secret {
            self.read.secrets.insert(part.to_owned(), secret);
        }
    }

    fn content_type(&mut self, content_type: String) {
        let essence = content_type.split(';').next().unwrap_or_default().trim_end();
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
        };
        let is_media_type = essence.split_once('/').is_some_and(|(kind, sub)| is_part(kind) && is_part(sub))
            && is_printable(&content_type, MAX_CONTENT_TYPE_CHARS);
        if !content_type.is_empty() && !is_media_type {
            self.add(
                "subscription.content_type",
                format!("must be a media type such as `application/json`, at most {MAX_CONTENT_TYPE_CHARS} characters"),
            );
        }
        self.read.settings.content_type = content_type;
    }

    fn rate_limit(&mut self, limit: RateLimit) {
        // Not a number is in no range.
        if !(MIN_RATE..=MAX_RATE).contains(&limit.requests_per_second) {
            let detail = format!("must be {MIN_RATE} to {MAX_RATE}");
            self.add("subscription.rate_limit.requests_per_second", detail);
        }
        if !(0..=MAX_BURST).contains(&limit.burst) {
            let detail = format!("must be 1 to {MAX_BURST}, or 0 for what comes in one second");
            self.add("subscription.rate_limit.burst", detail);
        }
        let RateLimit { requests_per_second, burst } = limit;
        self.read.settings.rate_limit = Some(config::RateLimit { requests_per_second, burst });
    }

    fn retry_schedule(&mut self, schedule: &RetrySchedule) {
        const FIELD: &str = "subscription.retry_schedule.delays";
        if !(1..=MAX_ATTEMPTS).contains(&schedule.delays.len()) {
            return self
                .add(FIELD, format!("must be 1 to {MAX_ATTEMPTS}, one for each attempt, such as `0s`, `5s`, `300s`"));
        }
        let delays: Vec<_> = (schedule.delays.iter().enumerate())
            .map(|(at, delay)| self.violations.duration(&format!("{FIELD}[{at}]"), delay, Duration::ZERO, MAX_LIFE))
            .collect();
        // Each may come a tenth later.
        let total = delays.iter().sum::<Duration>();
        let total = total + total / 10;
        if total > MAX_LIFE {
            self.add(
                FIELD,
                "are more than 7 days together, each a tenth longer for jitter: the log does not keep messages for longer; \
                 use fewer or shorter delays",
            );
        }
        let deadline = schedule.deadline.as_ref().map(|deadline| {
            let field = "subscription.retry_schedule.deadline";
            let deadline = self.violations.duration(field, deadline, Duration::ZERO, MAX_LIFE);
            if deadline < total && total <= MAX_LIFE {
                let seconds = total.as_secs_f64().ceil();
                self.add(field, format!("must be at least all delays and a tenth for jitter, {seconds}s, or left out"));
            }
            deadline
        });
        self.read.settings.retry_schedule = Some(config::RetrySchedule {
            delays_ms: delays.into_iter().map(ms).collect(),
            deadline_ms: deadline.map_or(0, ms),
        });
    }

    fn basic_auth(&mut self, basic: BasicAuth) {
        self.is_known = true;
        if !is_printable(&basic.username, MAX_NAME_BYTES) || basic.username.contains(':') {
            let detail = format!("must be {}, without a colon", printable(MAX_NAME_BYTES));
            self.add("subscription.basic_auth.username", detail);
        }
        let is_kept = matches!(self.authentication(), Some(Authentication::BasicAuth(_)));
        let password = self.secret("subscription.basic_auth.password", basic.password, is_kept);
        self.keep_secret(seal::BASIC, password);
        let basic = config::BasicAuth { username: basic.username, password: Some(config::Sealed::default()) };
        self.read.settings.authentication = Some(subscription_settings::Authentication::BasicAuth(basic));
    }

    fn authentication(&self) -> Option<&Authentication> {
        self.current?.authentication.as_ref()
    }

    fn oauth_client(&mut self, client: OAuthClient, egress: &Policy) {
        const SECRET: &str = "subscription.oauth_client.client_secret";
        self.is_known = true;
        self.violations.check("subscription.oauth_client.token_url", egress.check_text(&client.token_url));
        if !is_printable(&client.client_id, MAX_NAME_BYTES) {
            self.add("subscription.oauth_client.client_id", format!("must be {}", printable(MAX_NAME_BYTES)));
        }
        let before = match self.authentication() {
            Some(Authentication::OauthClient(before)) => Some(origin(&before.token_url)),
            _ => None,
        };
        if client.client_secret.is_empty() && before.as_ref().is_some_and(|before| *before != origin(&client.token_url))
        {
            self.stays(SECRET, "subscription.oauth_client.token_url", true);
        }
        let secret = self.secret(SECRET, client.client_secret, before.is_some());
        self.keep_secret(seal::OAUTH, secret);
        if client.scopes.len() > MAX_SCOPES {
            self.add("subscription.oauth_client.scopes", format!("must be at most {MAX_SCOPES}"));
        }
        let mut seen = HashSet::new();
        let in_scope = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        for (at, scope) in client.scopes.iter().take(MAX_SCOPES).enumerate() {
            let field = format!("subscription.oauth_client.scopes[{at}]");
            if !(1..=MAX_SCOPE_BYTES).contains(&scope.len()) || !scope.bytes().all(in_scope) {
                let detail = format!("must be 1 to {MAX_SCOPE_BYTES} visible ASCII characters without `\"` and `\\`");
                self.add(field, detail);
            } else if !seen.insert(scope) {
                self.add(field, "is there already; leave it out");
            }
        }
        if !client.audience.is_empty() && !is_printable(&client.audience, MAX_NAME_BYTES) {
            self.add("subscription.oauth_client.audience", format!("must be {}", printable(MAX_NAME_BYTES)));
        }
        let style = AuthStyle::try_from(client.auth_style);
        self.violations.check("subscription.oauth_client.auth_style", style.map_err(|_| "is not one of its values"));
        let client = config::OAuthClient {
            token_url: client.token_url,
            client_id: client.client_id,
            client_secret: Some(config::Sealed::default()),
            scopes: client.scopes,
            audience: client.audience,
            in_form: style == Ok(AuthStyle::Form),
        };
        self.read.settings.authentication = Some(subscription_settings::Authentication::OauthClient(client));
    }

    fn client_certificate(&mut self, given: ClientCertificate) {
        const FIELD: &str = "subscription.client_certificate";
        self.is_known = true;
        let key = Zeroizing::new(given.private_key);
        let before = self.current.and_then(|current| current.client_certificate.as_ref());
        let is_kept = key.is_empty() && before.is_some_and(|before| before.certificate == given.certificate);
        if !is_kept {
            if key.is_empty() && before.is_some() {
                self.add(format!("{FIELD}.private_key"), "is required with another certificate");
            } else if let Err((part, detail)) = certificate::check(&given.certificate, &key) {
                self.add(format!("{FIELD}.{part}"), detail);
            }
        }
        self.keep_secret(seal::CLIENT_KEY, (!is_kept).then_some(key));
        self.read.settings.client_certificate = Some(config::ClientCertificate {
            certificate: given.certificate,
            private_key: Some(config::Sealed::default()),
        });
    }

    fn signing(&mut self, signing: Signing, takes_authorization: bool) {
        const FIELD: &str = "subscription.signing";
        let known = |number: &i32| Scheme::try_from(*number).unwrap_or_default();
        let schemes: Vec<_> = signing.schemes.iter().map(known).collect();
        for (at, scheme) in schemes.iter().enumerate() {
            let field = format!("{FIELD}.schemes[{at}]");
            if *scheme == Scheme::Unspecified {
                self.add(field, "must be SCHEME_STANDARD_WEBHOOKS, SCHEME_JWT or SCHEME_NONE");
            } else if schemes[..at].contains(scheme) {
                self.add(field, "is there already; leave it out");
            }
        }
        if schemes.contains(&Scheme::None) {
            if schemes.len() > 1 {
                self.add(format!("{FIELD}.schemes"), "must have nothing beside SCHEME_NONE");
            }
            if !self.is_known {
                self.add(
                    format!("{FIELD}.schemes"),
                    "leaves a recipient no way to tell who calls; set a pre-shared key, a secret header, authentication or a \
                     client certificate beside SCHEME_NONE",
                );
            }
        }
        let has = |scheme| schemes.is_empty() || schemes.contains(&scheme);
        let mut read = config::Signing {
            no_standard_webhooks: !has(Scheme::StandardWebhooks),
            no_jwt: !has(Scheme::Jwt),
            ..Default::default()
        };
        if let Some(jwt) = signing.jwt {
            if read.no_jwt {
                self.add(format!("{FIELD}.jwt"), "is set, but no token is sent; leave it out, or add SCHEME_JWT");
            }
            self.jwt(jwt, takes_authorization, &mut read);
        }
        if read != config::Signing::default() {
            self.read.settings.signing = Some(read);
        }
    }

    fn jwt(&mut self, jwt: Jwt, takes_authorization: bool, read: &mut config::Signing) {
        const FIELD: &str = "subscription.signing.jwt";
        if let Some(life) = &jwt.life {
            let field = format!("{FIELD}.life");
            let (min, max) = (Duration::from_secs(10), Duration::from_secs(300));
            let life = self.violations.duration(&field, life, min, max);
            if life.subsec_nanos() > 0 {
                self.add(field, "must be whole seconds");
            }
            read.jwt_life_s = ms(life) / 1_000;
        }
        let field = format!("{FIELD}.header");
        read.jwt_header = match jwt.header.to_ascii_lowercase() {
            header if header == AUTHORIZATION && takes_authorization => {
                self.add(field, "is taken by `authentication`; leave it out to use `webhook-token`, or choose another");
                header
            }
            header if header.is_empty() || header == AUTHORIZATION || header == WEBHOOK_TOKEN => header,
            header => self.header_name(&field, &header),
        };
        if !jwt.audience.is_empty() && !is_printable(&jwt.audience, MAX_NAME_BYTES) {
            self.add(format!("{FIELD}.audience"), format!("must be {}", printable(MAX_NAME_BYTES)));
        }
        read.jwt_audience = jwt.audience;
        if jwt.claims.len() > MAX_CLAIMS {
            self.add(format!("{FIELD}.claims"), format!("must be at most {MAX_CLAIMS}"));
        }
        for (name, value) in jwt.claims.iter().take(MAX_CLAIMS) {
            let field = format!("{FIELD}.claims[{name:?}]");
            let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_:/.-".contains(&byte);
            if !(1..=64).contains(&name.len()) || !name.bytes().all(in_name) {
                self.add(field, "must have a name of 1 to 64 of `[a-zA-Z0-9_:/.-]`");
            } else if RESERVED_CLAIMS.contains(&name.as_str()) {
                self.add(field, "is a claim that Hookwire sets or that is registered; choose another name");
            } else if value.chars().count() > MAX_NAME_BYTES {
                self.add(field, format!("must have a value of at most {MAX_NAME_BYTES} characters"));
            }
        }
        read.jwt_claims = jwt.claims;
    }
}

/// Whom a URL speaks to; `None` for what is none, which is refused anyway.
fn origin(url: &str) -> Option<url::Origin> {
    url::Url::parse(url).ok().map(|url| url.origin())
}

/// What a header can carry: printable ASCII without a space at either end.
fn is_printable(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && text.trim() == text
}

fn printable(max: usize) -> String {
    format!("1 to {max} printable ASCII characters, no space at either end")
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
