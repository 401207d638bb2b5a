//! The receiver as it runs, in this process.

use std::io;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Certificate;

use super::*;

const BODY: &str = r#"{"type":"invoice.paid"}"#;
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// What is printed, as it is printed.
struct Screen(mpsc::Sender<String>);

impl Write for Screen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A receiver's URL, and what it prints. It ends with the test.
async fn start(plan: Plan, out: Option<File>) -> (String, mpsc::Receiver<String>) {
    let (screen, printed) = mpsc::channel();
    let keys = Keys::new(&[SECRET.into()]).expect("a secret");
    let receiver = Receiver::new(plan, keys, out, Box::new(Screen(screen)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hooks?a=b", listener.local_addr().expect("an address"));
    tokio::spawn(serve(listener, receiver, CancellationToken::new()));
    (url, printed)
}

fn request(client: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    client
        .post(url)
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", now)
        .header("webhook-attempt", "1")
        .header("webhook-signature", "v1,bm90IGEgc2lnbmF0dXJlIGF0IGFsbCwgcmVhbGx5IG4=")
        .body(BODY)
}

#[tokio::test]
async fn says_why_a_check_fails_and_what_it_got() {
    let (url, printed) = start(Plan::default(), None).await;
    let answer = request(&reqwest::Client::new(), &url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let text = printed.recv().expect("printed");
    assert!(text.contains("POST /hooks?a=b from 127.0.0.1"), "{text}");
    assert!(text.contains("msg_1 · attempt 1"), "{text}");
    assert!(text.contains("signature    FAILED: no v1 signature fits"), "{text}");
    assert!(text.contains("token        not checked"), "{text}");
    assert!(text.contains(r#""type": "invoice.paid""#), "{text}");
}

#[tokio::test]
async fn fails_as_told_and_counts_each_message_for_itself() {
    let plan = Plan { fail: Some(1), retry_after: Some(Duration::from_secs(5)), ..Plan::default() };
    let (url, _printed) = start(plan, None).await;
    let client = reqwest::Client::new();
    let first = request(&client, &url).send().await.expect("an answer");
    assert_eq!((first.status().as_u16(), first.headers()["retry-after"].as_bytes()), (429, &b"5"[..]));
    assert_eq!(request(&client, &url).send().await.expect("an answer").status(), 200);
    let other = client.post(&url).header("webhook-id", "msg_2").send().await.expect("an answer");
    assert_eq!(other.status(), 429);
}

#[tokio::test]
async fn each_request_is_a_line_before_it_is_answered() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (url, _printed) = start(Plan::default(), Some(file.reopen().expect("open"))).await;
    request(&reqwest::Client::new(), &url).send().await.expect("an answer");
    let lines = std::fs::read_to_string(file.path()).expect("readable");
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["status"], &line["headers"]["webhook-id"]), (&200.into(), &"msg_1".into()));
    assert_eq!(line["body"], "eyJ0eXBlIjoiaW52b2ljZS5wYWlkIn0=");
}

#[tokio::test]
async fn its_certificate_is_trusted_through_its_authority_only() {
    // As main does.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (acceptor, authority) = tls::made().expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let receiver = Receiver::new(Plan::default(), Keys::new(&[]).expect("none"), None, Box::new(io::sink()));
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(tls::Tls::new(listener, acceptor).expect("TLS"), receiver, shutdown.clone()));

    let authority = Certificate::from_pem(authority.as_bytes()).expect("PEM");
    let trusting = reqwest::Client::builder().tls_certs_merge([authority]).build().expect("a client");
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{}/", address.port());
        assert_eq!(request(&trusting, &url).send().await.expect("an answer").status(), 200);
    }
    let url = format!("https://{address}/");
    let error = request(&reqwest::Client::new(), &url).send().await.expect_err("a stranger's certificate");
    assert!(error.is_connect(), "{error:?}");
    shutdown.cancel();
    served.await.expect("no panic").expect("ended well");
}
