//! Access tokens for recipients who ask for one (OAuth 2, client credentials: RFC 6749, section 4.4): fetched through the
//! egress guard, kept until shortly before they expire, dropped when the recipient does not take one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookwire_proto::config::OAuthClient;
use hookwire_proto::egress::Policy;
use hookwire_proto::seal::MasterKeys;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use moka::Expiry;
use moka::future::Cache;
use moka::ops::compute::Op;
use serde::Deserialize;
use tower::timeout::error::Elapsed;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::attempt::Failure;
use super::failure::{Shared, classify};
use super::sources::Sources;
use crate::cache::settings::Authentication;
use crate::cache::snapshot::Subscription;
use crate::sign::{self, authorization};

/// Tokens that are kept, at most.
const MAX_TOKENS: u64 = 10_000;
/// A longer answer of a token endpoint is none.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// A token is not used for so long before it expires: it is to be good when the recipient looks at it.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a token is kept that doesn't say how long it lives.
const UNSAID: Duration = Duration::from_secs(5 * 60);
/// And every other at most.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a token endpoint may say is wrong (RFC 6749, section 5.2). Whatever else it says is not repeated.
const CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// Why there is no access token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client's secret can't be used.
    #[error("the client's secret can't be used")]
    Secret(#[source] sign::Error),
    /// No answer.
    #[error("the token endpoint: {}", .0.detail)]
    Unanswered(Failure),
    /// Another answer than 200.
    #[error("the token endpoint answered {status}{}", .code.map(|code| format!(", `{code}`")).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: u16,
        /// What is wrong, where the endpoint says so in one of RFC 6749's words.
        code: Option<&'static str>,
    },
    /// An answer that can't be used.
    #[error("the token endpoint's answer {0}")]
    Unusable(&'static str),
}

/// An access token. Clones share it.
#[derive(Clone)]
pub struct Token {
    value: Arc<Zeroizing<String>>,
    kept_for: Duration,
}

impl Token {
    /// What is sent.
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// A subscription at a revision: other settings, another token.
type Key = (Arc<str>, i64);

/// The node's access tokens.
pub struct Tokens {
    http: Sources,
    policy: Arc<Policy>,
    keys: Arc<MasterKeys>,
    kept: Cache<Key, Token>,
}

impl Tokens {
    /// None yet; to be fetched with clients that connect only where the guard lets them.
    pub fn new(http: Sources, policy: Arc<Policy>, keys: Arc<MasterKeys>) -> Self {
        let kept = Cache::builder().max_capacity(MAX_TOKENS).expire_after(Lives).build();
        Self { http, policy, keys, kept }
    }

    /// The token for requests of a subscription, if its recipient asks for one. However many need it at a time, it is fetched
    /// once, within `limit`.
    ///
    /// # Errors
    /// Any [`Error`], the same for all that waited for it. It is not kept: who comes next asks again.
    pub async fn of(&self, subscription: &Subscription, limit: Duration) -> Result<Option<Token>, Shared<Error>> {
        let settings = subscription.settings.as_deref();
        let Some(Authentication::OauthClient(client)) = settings.and_then(|all| all.authentication.as_ref()) else {
            return Ok(None);
        };
        let fetched = async {
            let fetched = tokio::time::timeout(limit, self.fetch(&subscription.name, client));
            fetched.await.unwrap_or_else(|_| Err(Error::Unanswered(classify(&Elapsed::new()))))
        };
        self.kept.try_get_with(key(subscription), fetched).await.map(Some).map_err(Shared)
    }

    /// The recipient does not take this token: it is not used again. One that was fetched since is.
    pub async fn forget(&self, subscription: &Subscription, refused: &Token) {
        let entry = self.kept.entry(key(subscription));
        let is_it = |kept: &Token| Arc::ptr_eq(&kept.value, &refused.value);
        entry
            .and_compute_with(async |kept| match kept {
                Some(kept) if is_it(kept.value()) => Op::Remove,
                _ => Op::Nop,
            })
            .await;
    }

    async fn fetch(&self, subscription: &str, client: &OAuthClient) -> Result<Token, Error> {
        let executed = self.http.execute(self.request(subscription, client)?).await;
        let mut response = executed.map_err(|error| Error::Unanswered(classify(&*error)))?;
        // Wiped, and never moved to where there is more room.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
        while let Some(chunk) = response.chunk().await.map_err(|error| Error::Unanswered(classify(&error)))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::Unusable("is longer than 16 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        read(response.status().as_u16(), &body)
    }

    fn request(&self, subscription: &str, client: &OAuthClient) -> Result<reqwest::Request, Error> {
        let url: Url = client.token_url.parse().map_err(|_| Error::Secret(sign::Error::NoUrl))?;
        self.policy.check_url(&url).map_err(|refusal| Error::Unanswered(classify(&refusal)))?;
        let secret = authorization::client_secret(subscription, client, &self.keys).map_err(Error::Secret)?;
        let unsendable = |_| Error::Secret(sign::Error::Header { name: "authorization" });
        let secret = Zeroizing::new(
            String::from_utf8(secret.to_vec())
                .map_err(|_| Error::Secret(sign::Error::Header { name: "authorization" }))?,
        );

        let mut headers = HeaderMap::new();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !client.scopes.is_empty() {
            form.append_pair("scope", &client.scopes.join(" "));
        }
        if !client.audience.is_empty() {
            form.append_pair("audience", &client.audience);
        }
        if client.in_form {
            form.append_pair("client_id", &client.client_id).append_pair("client_secret", &secret);
        } else {
            // Each is encoded as in a form first (section 2.3.1).
            let encoded = |text: &str| {
                // With room for all of it, or what is outgrown would be left behind.
                let mut encoded = Zeroizing::new(String::with_capacity(3 * text.len()));
                encoded.extend(form_urlencoded::byte_serialize(text.as_bytes()));
                encoded
            };
            let pair = Zeroizing::new(format!("{}:{}", *encoded(&client.client_id), *encoded(&secret)));
            let pair = Zeroizing::new(STANDARD.encode(&*pair));
            let basic = Zeroizing::new(format!("Basic {}", *pair));
            let mut value = HeaderValue::try_from(&**basic).map_err(unsendable)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut request = reqwest::Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(form.finish().into());
        Ok(request)
    }
}

fn key(subscription: &Subscription) -> Key {
    (subscription.name.clone(), subscription.revision)
}

/// Tokens live as long as each says.
struct Lives;

impl Expiry<Key, Token> for Lives {
    fn expire_after_create(&self, _: &Key, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.kept_for)
    }

    fn expire_after_update(&self, _: &Key, token: &Token, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(token.kept_for)
    }
}

/// An answer of a token endpoint (RFC 6749, sections 5.1 and 5.2).
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    /// A number; some write it as a text.
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
}

fn read(status: u16, body: &[u8]) -> Result<Token, Error> {
    let answer = serde_json::from_slice::<Answer>(body);
    if status != 200 {
        let said = answer.ok().and_then(|answer| answer.error);
        let code = CODES.into_iter().find(|code| said.as_deref() == Some(code));
        return Err(Error::Refused { status, code });
    }
    let answer = answer.map_err(|_| Error::Unusable("is not what RFC 6749 says"))?;
    let token = answer.access_token.map(Zeroizing::new).filter(|token| !token.is_empty());
    let token = token.ok_or(Error::Unusable("has no `access_token`"))?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Unusable("has an `access_token` that no header can carry"));
    }
    if !answer.token_type.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(Error::Unusable("has another `token_type` than `Bearer`"));
    }
    let life = answer.expires_in.and_then(|life| life.as_f64().or_else(|| life.as_str()?.parse().ok()));
    Ok(Token { value: Arc::new(token), kept_for: kept_for(life) })
}

/// How long a token is kept that lives for so many seconds: a minute less, or a quarter if that is less.
fn kept_for(life: Option<f64>) -> Duration {
    let Some(life) = life else { return UNSAID };
    let life = Duration::try_from_secs_f64(life.max(0.0)).unwrap_or(LONGEST).min(LONGEST);
    life.saturating_sub(MARGIN.min(life / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Result<(String, Duration), String> {
        let read = read(status, body.as_bytes());
        read.map(|token| (token.value().to_owned(), token.kept_for)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_kept_until_shortly_before_it_expires() {
        for (life, kept) in [
            (Some(3600.0), 3540),
            (Some(240.0), 180),
            (Some(40.0), 30),
            (Some(0.0), 0),
            (Some(-5.0), 0),
            (Some(f64::NAN), 0),
            (Some(1e300), 86_400 - 60),
            (None, 300),
        ] {
            assert_eq!(kept_for(life), Duration::from_secs(kept), "{life:?}");
        }
        let body = |life: &str| format!(r#"{{"access_token":"abc","token_type":"BEARER","expires_in":{life}}}"#);
        for life in ["3600", "\"3600\"", "3600.0"] {
            assert_eq!(answered(200, &body(life)), Ok(("abc".into(), Duration::from_secs(3540))), "{life}");
        }
        assert_eq!(answered(200, &body("null")), Ok(("abc".into(), UNSAID)));
    }

    #[test]
    fn only_known_words_of_a_refusal_are_repeated() {
        let answer = |body| answered(400, body).unwrap_err();
        assert_eq!(answer(r#"{"error":"invalid_scope"}"#), "the token endpoint answered 400, `invalid_scope`");
        for body in [r#"{"error":"secret hunter2"}"#, r#"{"error":7}"#, "<html>", ""] {
            assert_eq!(answer(body), "the token endpoint answered 400", "{body}");
        }
        assert!(answered(302, r#"{"access_token":"abc","token_type":"bearer"}"#).is_err());
    }

    #[test]
    fn an_answer_without_a_usable_token_is_none() {
        for body in [
            "",
            "[]",
            r#"{"token_type":"bearer"}"#,
            r#"{"access_token":"","token_type":"bearer"}"#,
            r#"{"access_token":"a\nb","token_type":"bearer"}"#,
            r#"{"access_token":"abc"}"#,
            r#"{"access_token":"abc","token_type":"mac"}"#,
        ] {
            assert!(!answered(200, body).unwrap_err().contains("abc"), "{body}");
        }
    }
}
