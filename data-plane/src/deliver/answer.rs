//! Reading an answer: as much of it as is kept, without anything that was secret in the request.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use hookwire_proto::log::Header;
use http::HeaderMap;
use http::header::RETRY_AFTER;
use reqwest::{Response, Version};
use zeroize::Zeroizing;

use super::attempt::{Answer, RetryAfter};
use super::config::MAX_KEPT_HEADERS;
use crate::sign::{LONGEST_ESCAPE, Secrets};

/// How much of a body is kept.
pub const MAX_BODY_BYTES: usize = 1024;
/// How much of a header's value is kept.
pub const MAX_HEADER_BYTES: usize = 256;
/// A body is read at least so far beyond what is kept: a secret that the cut would leave half of is then still recognized.
const LOOK_AHEAD_BYTES: usize = 3 * 1024;
/// A rest of a body up to this is read, so that the connection can be used again; for more it is closed.
const MAX_DRAINED_BYTES: u64 = 16 * 1024;
/// And no longer than this.
const DRAIN_TIME: Duration = Duration::from_millis(500);

const REDACTED: &[u8] = b"[redacted]";

/// Reads the answer to a request that carried `secrets`.
///
/// # Errors
/// If the connection breaks before as much of the body as is read has come.
pub async fn read(mut response: Response, kept: &[String], secrets: &Secrets) -> Result<Answer, reqwest::Error> {
    let mut body = BytesMut::new();
    let mut complete = false;
    let enough = MAX_BODY_BYTES + LOOK_AHEAD_BYTES.max(LONGEST_ESCAPE * secrets.longest());
    while body.len() < enough && !complete {
        match response.chunk().await? {
            Some(chunk) => body.extend_from_slice(&chunk[..chunk.len().min(enough)]),
            None => complete = true,
        }
    }
    let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
    if !complete {
        drain(response).await;
    }

    let forms = Forms::new(secrets);
    let body = forms.scrub(&body, MAX_BODY_BYTES);
    Ok(Answer {
        status,
        retry_after: retry_after(&headers),
        headers: kept_headers(&headers, kept, &forms),
        body: Bytes::from(body),
    })
}

/// Reads the rest of a body if it is small and there already. An HTTP/2 stream is ended without its connection.
async fn drain(mut response: Response) {
    let small = response.content_length().is_some_and(|length| length <= MAX_DRAINED_BYTES);
    if small && response.version() < Version::HTTP_2 {
        let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
        // What is not there by then costs the connection.
        let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}

/// `retry-after`: seconds or a date; whatever else is there is passed over.
fn retry_after(headers: &HeaderMap) -> Option<RetryAfter> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number of seconds that no integer holds is no less an answer.
        return Some(RetryAfter::Delay(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
    }
    httpdate::parse_http_date(text).ok().map(|time: SystemTime| RetryAfter::At(time))
}

fn kept_headers(headers: &HeaderMap, kept: &[String], forms: &Forms<'_>) -> Vec<Header> {
    let named = kept.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    let header = |(name, value): (&String, &http::HeaderValue)| {
        let mut value = String::from_utf8_lossy(&forms.scrub(value.as_bytes(), MAX_HEADER_BYTES)).into_owned();
        truncate(&mut value, MAX_HEADER_BYTES);
        Header { name: name.clone(), value }
    };
    named.take(MAX_KEPT_HEADERS).map(header).collect()
}

/// Cuts a text to at most `length` bytes, between characters.
pub(super) fn truncate(text: &mut String, length: usize) {
    text.truncate(text.floor_char_boundary(length));
}

/// The forms of the secrets, made when there is something to scrub: most answers are empty.
struct Forms<'a> {
    secrets: &'a Secrets,
    /// By their first byte: at each place of a text only these can begin. The longest first.
    forms: std::cell::OnceCell<Vec<Vec<Zeroizing<Vec<u8>>>>>,
}

impl<'a> Forms<'a> {
    fn new(secrets: &'a Secrets) -> Self {
        Self { secrets, forms: std::cell::OnceCell::new() }
    }

    /// The first `length` bytes of a text, without secrets. One that begins there is recognized beyond.
    fn scrub(&self, text: &[u8], length: usize) -> Vec<u8> {
        // Most answers are a word or nothing.
        if text.len() < self.secrets.shortest() {
            return text[..text.len().min(length)].to_vec();
        }
        let mut clean = Vec::with_capacity(text.len().min(length));
        let mut at = 0;
        while at < text.len().min(length) {
            let rest = &text[at..];
            let form = self.get()[usize::from(rest[0])].iter().find(|form| rest.starts_with(form));
            clean.extend_from_slice(form.map_or(&rest[..1], |_| REDACTED));
            at += form.map_or(1, |form| form.len());
        }
        clean.truncate(length);
        clean
    }

    fn get(&self) -> &[Vec<Zeroizing<Vec<u8>>>] {
        self.forms.get_or_init(|| {
            let mut by_first = vec![Vec::new(); 256];
            for form in self.secrets.forms() {
                by_first[usize::from(form[0])].push(form);
            }
            by_first
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn secrets() -> Secrets {
        Secrets {
            keys: vec![vec![255; 32].into(), vec![1; 24].into()],
            shared_key: Some(HeaderValue::from_static("let/me in")),
            texts: Vec::new(),
            token: "aaa.bbb.ccc".to_owned().into(),
            signature: "v1,c2lnbmF0dXJl v1,YW5vdGhlcg==".to_owned(),
        }
    }

    #[test]
    fn retry_after_comes_in_both_forms() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(parse("120"), Some(RetryAfter::Delay(Duration::from_secs(120))));
        assert_eq!(parse(" 0 "), Some(RetryAfter::Delay(Duration::ZERO)));
        assert_eq!(parse(&"9".repeat(40)), Some(RetryAfter::Delay(Duration::from_secs(u64::MAX))));
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        assert_eq!(parse("Wed, 21 Oct 2015 07:28:00 GMT"), Some(RetryAfter::At(date)));
        for nothing in ["", "-1", "+1", "1.5", "soon", "2015-10-21"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn every_secret_is_scrubbed_and_the_rest_stays() {
        let secrets = secrets();
        let forms = Forms::new(&secrets);
        let text = "key whsec_//////////////////////////////////////////8= token aaa.bbb.ccc, \
                    v1,c2lnbmF0dXJl v1,YW5vdGhlcg== and let/me in or let\\/me in or let%2Fme%20in. ok";
        let clean = String::from_utf8(forms.scrub(text.as_bytes(), 1024)).unwrap();
        assert_eq!(
            clean,
            "key whsec_[redacted] token [redacted], v1,[redacted] v1,[redacted] and [redacted] or [redacted] or \
             [redacted]. ok"
        );
    }

    #[test]
    fn a_short_shared_key_is_found_in_a_short_answer() {
        let with = |shared_key| Secrets { shared_key, ..secrets() };
        let short = with(Some(HeaderValue::from_static("42")));
        assert_eq!(Forms::new(&short).scrub(b"42", 1024), REDACTED);
        assert_eq!(Forms::new(&short).scrub(b"4", 1024), b"4");
        assert_eq!(Forms::new(&with(None)).scrub(b"42", 1), b"4");
    }

    #[test]
    fn what_is_kept_is_short_and_ends_in_no_half_secret() {
        let secrets = secrets();
        let forms = Forms::new(&secrets);
        assert_eq!(forms.scrub(b"--------aaa.bbb.ccc--", 10), b"--------[r");
        assert_eq!(forms.scrub(b"aaa.bbb.cccaaa.bbb.cccaaa.bb", 20), b"[redacted][redacted]");
        assert_eq!(forms.scrub("x".repeat(5000).as_bytes(), 1024).len(), 1024);
    }

    proptest! {
        #[test]
        fn no_form_of_a_secret_is_left(parts in prop::collection::vec((any::<prop::sample::Index>(), "[ -~]{0,6}"), 0..8)) {
            let secrets = secrets();
            let all = secrets.forms();
            let mut text = Vec::new();
            for (index, between) in parts {
                text.extend_from_slice(&all[index.index(all.len())]);
                text.extend_from_slice(between.as_bytes());
            }
            let clean = Forms::new(&secrets).scrub(&text, text.len());
            for form in &all {
                prop_assert!(!clean.windows(form.len()).any(|window| window == form.as_slice()));
            }
        }
    }
}
