//! What the receiver says of a request: for people on the screen, for tests in a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Received;
use super::answer::Answer;
use super::check::Checks;

/// How much of a body is printed.
const MAX_PRINTED_BYTES: usize = 4 * 1024;

/// A request for people.
pub fn text(received: &Received, checks: &Checks, answer: &Answer, delay: Duration) -> String {
    let header = |name| received.header(name).unwrap_or("(none)");
    let time = humantime::format_rfc3339_millis(received.at);
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail. Control characters could repaint the terminal.
        let value: String = value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    line("message", &format!("{} · attempt {}", header("webhook-id"), header("webhook-attempt")));
    for (name, check) in checks.iter() {
        line(name, &check.to_string());
    }
    for name in ["webhook-replay", "traceparent"] {
        if received.headers.contains_key(name) {
            line(name, header(name));
        }
    }
    let retry_after = answer.retry_after.map(|seconds| format!(", retry-after {seconds}")).unwrap_or_default();
    let delay = if delay.is_zero() { String::new() } else { format!(" after {}", humantime::format_duration(delay)) };
    line("answered", &format!("{}{retry_after}{delay}", answer.status));
    let body = body(&received.body);
    format!("── {time} {} {} from {}\n{text}{body}\n", received.method, received.target, received.from)
}

fn body(body: &[u8]) -> String {
    let pretty = serde_json::from_slice::<serde_json::Value>(body).and_then(|json| serde_json::to_string_pretty(&json));
    let text = match (pretty, std::str::from_utf8(body)) {
        (Ok(json), _) => json,
        (Err(_), Ok(text)) => {
            text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
        }
        (Err(_), Err(_)) => return format!("  ({} bytes that are not text)\n", body.len()),
    };
    let end = text.floor_char_boundary(MAX_PRINTED_BYTES);
    let mut printed: String = text[..end].lines().map(|line| format!("  {line}\n")).collect();
    if end < text.len() {
        let _ = writeln!(printed, "  … ({} bytes in all)", body.len());
    }
    printed
}

/// Appends a request as a line of JSON.
pub fn append(out: &Mutex<File>, received: &Received, checks: &Checks, answer: &Answer) -> io::Result<()> {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &received.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers.entry(name.as_str()).and_modify(|all| *all = format!("{all}, {value}")).or_insert(value.into_owned());
    }
    let checks: BTreeMap<_, _> = checks.iter().map(|(name, check)| (name, check.to_string())).collect();
    let line = json!({
        "time_ms": received.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        "method": received.method,
        "target": received.target,
        "headers": headers,
        "body": STANDARD.encode(&received.body),
        "checks": checks,
        "status": answer.status,
    });
    // One write for each line, so that lines stay whole.
    out.lock().unwrap_or_else(PoisonError::into_inner).write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_printed_readably_and_as_it_is_otherwise() {
        assert_eq!(body(br#"{"b":1,"a":2}"#), "  {\n    \"b\": 1,\n    \"a\": 2\n  }\n");
        assert_eq!(body("h\u{e9}\u{1b}[2J".as_bytes()), "  h\u{e9}\u{fffd}[2J\n");
        assert_eq!(body(&[0xff, 0xfe]), "  (2 bytes that are not text)\n");
        assert_eq!(body(b""), "");
    }

    #[test]
    fn a_long_body_is_cut_between_characters() {
        let printed = body("\u{e9}".repeat(MAX_PRINTED_BYTES).as_bytes());
        assert!(printed.len() < MAX_PRINTED_BYTES + 100 && printed.ends_with("(8192 bytes in all)\n"));
    }
}
