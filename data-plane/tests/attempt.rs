//! Attempts over real TLS to real recipients, good and bad.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hookwire_data_plane::cache::snapshot::Subscription;
use hookwire_data_plane::deliver::attempt::{Answer, Attempt, Failure, Finished, RetryAfter};
use hookwire_data_plane::deliver::config::{Egress, Settings};
use hookwire_data_plane::deliver::egress::Resolve;
use hookwire_data_plane::deliver::{Attempter, client};
use hookwire_proto::config::{Secret, SharedKey};
use hookwire_proto::log::AttemptError;
use hookwire_proto::seal::MasterKeys;
use tempfile::NamedTempFile;

use receiver::{Authority, Connection, Receiver, eventually};

mod proxies;
mod receiver;
mod settings;

const NAME: &str = "tenants/acme/subscriptions/orders";
const HOST: &str = "hooks.example.com";
const KEY: [u8; 32] = [251; 32];
const SHARED: &str = "let/me\"in";
const BODY: &str = r#"{"type":"invoice.paid","data":{"who":"Zoë"}}"#;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const H1: &[&[u8]] = &[b"http/1.1"];

/// Answers with a list of lists, one after the other, the last for ever.
struct Names(Mutex<Vec<Vec<IpAddr>>>);

impl Names {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers.iter().map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect());
        Arc::new(Self(Mutex::new(answers.collect())))
    }

    fn loopback() -> Arc<Self> {
        Self::new(&[&["127.0.0.1"]])
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Ok(answer)
    }
}

/// A sender and the authority that it trusts.
struct Sender {
    authority: Authority,
    keys: Arc<MasterKeys>,
    settings: Settings,
    resolver: Arc<dyn Resolve>,
    attempter: Attempter,
    _ca_file: NamedTempFile,
}

impl Sender {
    fn new() -> Self {
        Self::with(Names::loopback(), |_| ())
    }

    fn with(resolver: Arc<dyn Resolve>, change: impl FnOnce(&mut Settings)) -> Self {
        let authority = Authority::new();
        let ca_file = NamedTempFile::new().unwrap();
        std::fs::write(ca_file.path(), authority.pem()).unwrap();
        let egress = Egress { allow: vec!["127.0.0.0/8".parse().unwrap()], ..Egress::default() };
        let mut settings = Settings { ca_file: Some(ca_file.path().to_owned()), egress, ..Settings::default() };
        change(&mut settings);
        settings.validate().unwrap();
        let keys = Arc::new(MasterKeys::parse(&MasterKeys::generate()).unwrap());
        let attempter = Attempter::with_resolver(&settings, keys.clone(), resolver.clone()).unwrap();
        Self { authority, keys, settings, resolver, attempter, _ca_file: ca_file }
    }

    fn hurried() -> Self {
        Self::with(Names::loopback(), |settings| {
            settings.attempt_timeout = Duration::from_millis(300);
            settings.connect_timeout = Duration::from_millis(300);
        })
    }

    async fn answering(&self, answer: impl Into<Bytes>) -> Receiver {
        Receiver::answering(self.authority.server(HOST, H1), answer).await
    }

    fn to(&self, url: &str) -> Attempt {
        let secret = format!("{NAME}/secrets/first");
        Attempt {
            id: "att_1".into(),
            number: 3,
            subscription: Arc::new(Subscription {
                name: NAME.into(),
                url: Some(url.parse().unwrap()),
                event_types: vec!["*".into()],
                secrets: vec![Secret { key: Some(self.keys.seal(&secret, &KEY)), name: secret, ..Secret::default() }],
                shared_key: Some(SharedKey {
                    header: "x-api-key".into(),
                    value: Some(self.keys.seal(&format!("{NAME}/sharedKey"), SHARED.as_bytes())),
                }),
                max_concurrency: None,
                settings: None,
                waits_since: None,
                revision: 1,
            }),
            message_id: "msg_1".into(),
            body: Bytes::from_static(BODY.as_bytes()),
            content_type: "application/json".into(),
            replay: "tenants/acme/replays/r1".into(),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            tracestate: "vendor=1".into(),
        }
    }

    async fn attempt_at(&self, address: SocketAddr) -> Finished {
        self.attempter.attempt(self.to(&url(address))).await
    }

    async fn attempt(&self, receiver: &Receiver) -> Finished {
        self.attempt_at(receiver.address).await
    }
}

fn url(address: SocketAddr) -> String {
    format!("https://{HOST}:{}/in?a=b", address.port())
}

fn answer(finished: &Finished) -> &Answer {
    finished.result.as_ref().unwrap()
}

fn failure(finished: &Finished) -> &Failure {
    let failure = finished.result.as_ref().unwrap_err();
    assert!(!failure.detail.contains("/in?"), "no URL in {}", failure.detail);
    assert!(failure.detail.len() <= 256);
    failure
}

#[tokio::test]
async fn a_request_carries_everything_and_verifies_with_others_code() {
    carries_everything(&Sender::new()).await;
}

async fn carries_everything(sender: &Sender) {
    let receiver =
        sender.answering("HTTP/1.1 200 OK\r\nserver: me\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\nok").await;
    let before = SystemTime::now();
    let finished = sender.attempt(&receiver).await;

    let kept = answer(&finished);
    assert_eq!((kept.status, &kept.body[..], kept.retry_after), (200, &b"ok"[..], None));
    let names: Vec<_> = kept.headers.iter().map(|header| (header.name.as_str(), header.value.as_str())).collect();
    assert_eq!(names, [("server", "me")], "only named headers are kept");
    assert!(finished.started >= before && finished.duration > Duration::ZERO);

    let arrived = receiver.arrived();
    assert_eq!(arrived.len(), 1);
    let (headers, body) = (&arrived[0].headers, &arrived[0].body);
    assert_eq!(arrived[0].line, "POST /in?a=b HTTP/1.1");
    assert_eq!(body, BODY);
    for (name, value) in [
        ("webhook-id", "msg_1"),
        ("webhook-attempt", "3"),
        ("webhook-replay", "tenants/acme/replays/r1"),
        ("content-type", "application/json"),
        ("x-api-key", SHARED),
        ("tracestate", "vendor=1"),
        ("user-agent", concat!("hookwire/", env!("CARGO_PKG_VERSION"))),
        ("host", &format!("{HOST}:{}", receiver.address.port())),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let traceparent = headers["traceparent"].to_str().unwrap();
    assert!(traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "the same trace");
    assert!(!traceparent.contains("00f067aa0ba902b7"), "a span of its own");
    assert!(!headers.contains_key("accept-encoding") && !headers.contains_key("referer"));

    let webhook = standardwebhooks::Webhook::new(&format!("whsec_{}", STANDARD.encode(KEY))).unwrap();
    webhook.verify(body, headers).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&[format!("https://{HOST}:{}", receiver.address.port())]);
    let token = headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let key = jsonwebtoken::DecodingKey::from_secret(&KEY);
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation).unwrap().claims;
    assert_eq!(claims["webhook_id"], "msg_1");
    assert_eq!(claims["exp"].to_string(), headers["webhook-valid-until"].to_str().unwrap());
}

#[tokio::test]
async fn any_status_is_an_answer_and_a_redirect_is_not_followed() {
    let sender = Sender::new();
    let elsewhere = sender.answering(OK).await;
    for status in [204, 301, 302, 303, 307, 308, 410, 500] {
        let location = format!("https://{HOST}:{}/", elsewhere.address.port());
        let head = format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\n");
        let end = if status == 204 { "\r\n" } else { "content-length: 0\r\n\r\n" };
        let receiver = sender.answering(head + end).await;
        assert_eq!(answer(&sender.attempt(&receiver).await).status, status);
        assert_eq!(receiver.arrived().len(), 1, "{status}");
    }
    assert_eq!(elsewhere.connections(), 0, "nobody went where a redirect pointed");
}

#[tokio::test]
async fn retry_after_is_read_in_both_forms() {
    let sender = Sender::new();
    let seconds = sender.answering("HTTP/1.1 429 X\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n").await;
    let expected = RetryAfter::Delay(Duration::from_secs(120));
    assert_eq!(answer(&sender.attempt(&seconds).await).retry_after, Some(expected));
    let date = "HTTP/1.1 503 X\r\nretry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 0\r\n\r\n";
    let expected = RetryAfter::At(SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480));
    assert_eq!(answer(&sender.attempt(&sender.answering(date).await).await).retry_after, Some(expected));
}

#[tokio::test]
async fn a_large_body_is_cut_and_a_small_rest_keeps_the_connection() {
    let sender = Sender::new();
    for (length, connections) in [(0, 1), (1024, 1), (16 * 1024, 1), (1024 * 1024, 2)] {
        let body = "x".repeat(length);
        let receiver = sender.answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")).await;
        for _ in 0..2 {
            let finished = sender.attempt(&receiver).await;
            assert_eq!(answer(&finished).body, body[..length.min(1024)], "{length}");
        }
        assert_eq!(receiver.connections(), connections, "{length}");
        assert_eq!(receiver.arrived().len(), 2);
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_an_answer_once_enough_of_it_has_come() {
    let sender = Sender::new();
    let receiver = Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while connection.write(format!("400\r\n{}\r\n", "x".repeat(1024))).await {}
    })
    .await;
    let finished = sender.attempt(&receiver).await;
    assert_eq!((answer(&finished).status, answer(&finished).body.len()), (200, 1024));
}

#[tokio::test]
async fn one_timeout_covers_connecting_headers_and_body() {
    let sender = Sender::hurried();
    let tls = || sender.authority.server(HOST, H1);
    let no_headers = Receiver::start(tls(), |mut connection: Connection| async move { connection.hang().await }).await;
    let slow_headers = Receiver::start(tls(), |mut connection: Connection| async move {
        connection.request().await;
        for byte in "HTTP/1.1 200 OK\r\nserver: slow and slower\r\n".bytes() {
            connection.write([byte]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let slow_body = Receiver::start(tls(), |mut connection: Connection| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
        while connection.write("x").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for (what, receiver) in [("no headers", &no_headers), ("slow headers", &slow_headers), ("slow body", &slow_body)] {
        let finished = sender.attempt(receiver).await;
        assert_eq!(failure(&finished).error, AttemptError::Timeout, "{what}");
        assert!(finished.duration < Duration::from_secs(5), "{what} took {:?}", finished.duration);
    }

    // Accepts TCP and says nothing, so that TLS never comes about.
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let finished = sender.attempt_at(silent.local_addr().unwrap()).await;
    assert_eq!(failure(&finished).error, AttemptError::Timeout);
}

#[tokio::test]
async fn resolving_counts_too() {
    struct Never;
    #[async_trait]
    impl Resolve for Never {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            std::future::pending().await
        }
    }
    let sender = Sender::with(Arc::new(Never), |settings| {
        settings.connect_timeout = Duration::from_millis(200);
    });
    let began = Instant::now();
    let finished = sender.attempter.attempt(sender.to("https://hooks.example.com/")).await;
    assert_eq!(failure(&finished).error, AttemptError::Timeout);
    assert_eq!(failure(&finished).detail, "no connection in time");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn failures_are_told_apart() {
    let sender = Sender::new();
    let tls = || sender.authority.server(HOST, H1);

    let refused = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let finished = sender.attempt_at(refused).await;
    assert_eq!(failure(&finished).error, AttemptError::Connect);
    assert!(failure(&finished).detail.contains("refused"), "{}", failure(&finished).detail);

    for (server, error, detail) in [
        (Authority::new().server(HOST, H1), AttemptError::CertificateUntrusted, "from no authority that is trusted"),
        (sender.authority.server("other.example.com", H1), AttemptError::CertificateName, "for another name"),
        (sender.authority.server_expired(HOST, H1), AttemptError::CertificateExpired, "has expired"),
    ] {
        let stranger = Receiver::answering(server, OK).await;
        let finished = sender.attempt(&stranger).await;
        assert_eq!(failure(&finished).error, error);
        assert!(failure(&finished).detail.contains(detail), "{}", failure(&finished).detail);
        assert!(stranger.arrived().is_empty(), "nothing is sent to a stranger");
    }

    let reset = Receiver::start(tls(), |mut connection: Connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    assert_eq!(failure(&sender.attempt(&reset).await).error, AttemptError::Broken);
    assert_eq!(reset.arrived().len(), 1);

    let half = Receiver::start(tls(), |mut connection: Connection| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    })
    .await;
    assert_eq!(failure(&sender.attempt(&half).await).error, AttemptError::Broken);

    let not_http = sender.answering("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    assert_eq!(failure(&sender.attempt(&not_http).await).error, AttemptError::Protocol);

    let not_tls = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = not_tls.local_addr().unwrap();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = not_tls.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    });
    assert_eq!(failure(&sender.attempt_at(address).await).error, AttemptError::Tls);
    server.abort();
}

#[tokio::test]
async fn nothing_older_than_tls_1_2_is_offered() {
    use tokio::io::AsyncReadExt as _;
    let sender = Sender::hurried();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let hello = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        hello
    });
    sender.attempt_at(address).await;
    let hello = hello.await.unwrap();
    // RFC 8446, sections 4.1.2 and 4.2.1: after type, length, version and random come session id, cipher suites, compression, extensions.
    let mut at = 4 + 2 + 32;
    let skip = |width: usize, at: &mut usize| {
        let length = hello[*at..*at + width].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        *at += width + length;
    };
    skip(1, &mut at);
    skip(2, &mut at);
    skip(1, &mut at);
    at += 2;
    let versions = loop {
        let (kind, length) = (&hello[at..at + 2], usize::from(u16::from_be_bytes([hello[at + 2], hello[at + 3]])));
        if kind == [0, 43] {
            break hello[at + 5..at + 4 + length].to_vec();
        }
        at += 4 + length;
    };
    assert_eq!(versions, [3, 4, 3, 3], "1.3 and 1.2");
}

#[tokio::test]
async fn an_answer_of_endless_headers_ends() {
    let sender = Sender::new();
    let receiver = Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\n").await;
        while connection.write(format!("x-padding: {}\r\n", "x".repeat(1_000))).await {}
    })
    .await;
    let finished = sender.attempt(&receiver).await;
    assert_eq!(failure(&finished).error, AttemptError::Protocol, "{}", failure(&finished).detail);
}

#[tokio::test]
async fn a_secret_that_does_not_open_is_said_and_nothing_is_sent() {
    let sender = Sender::new();
    let receiver = sender.answering(OK).await;
    let stranger = Sender::new();
    let finished = sender.attempter.attempt(stranger.to(&url(receiver.address))).await;
    assert_eq!(failure(&finished).error, AttemptError::Request);
    assert!(failure(&finished).detail.contains("master key"), "{}", failure(&finished).detail);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn the_guard_refuses_names_and_literals_before_connecting() {
    // Only 127.0.0.1 is allowed, and the recipient is there: what is refused is so by the guard, not by chance.
    let narrow = |settings: &mut Settings| settings.egress.allow = vec!["127.0.0.1/32".parse().unwrap()];
    for addresses in [
        &["127.0.0.2"][..],
        &["127.0.0.1", "10.0.0.1"],
        &["10.0.0.1", "127.0.0.1"],
        &["::ffff:127.0.0.1"],
        &["::1"],
        &["127.0.0.1", "::1"],
    ] {
        let sender = Sender::with(Names::new(&[addresses]), narrow);
        let receiver = sender.answering(OK).await;
        let finished = sender.attempt(&receiver).await;
        assert_eq!(failure(&finished).error, AttemptError::Egress, "{addresses:?}");
        assert_eq!(receiver.connections(), 0, "{addresses:?}");
    }
    let sender = Sender::with(Names::loopback(), narrow);
    let receiver = sender.answering(OK).await;
    let port = receiver.address.port();
    for host in ["127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "0x7f000002"] {
        let finished = sender.attempter.attempt(sender.to(&format!("https://{host}:{port}/"))).await;
        assert_eq!(failure(&finished).error, AttemptError::Egress, "{host}");
    }
    let finished = sender.attempter.attempt(sender.to(&format!("http://{HOST}:{port}/"))).await;
    assert_eq!(failure(&finished).error, AttemptError::Egress);
    assert_eq!(receiver.connections(), 0);
    assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
}

#[tokio::test]
async fn a_name_that_turns_private_is_refused_the_next_time_it_is_resolved() {
    let names = Names::new(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let sender = Sender::with(names, |settings| settings.max_idle_connections = 0);
    let receiver = sender.answering(OK).await;
    assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
    let finished = sender.attempt(&receiver).await;
    assert_eq!(failure(&finished).error, AttemptError::Egress);
    assert!(failure(&finished).detail.contains("10.0.0.0/8"), "{}", failure(&finished).detail);
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    struct Unknown;
    #[async_trait]
    impl Resolve for Unknown {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no such host"))
        }
    }
    for resolver in [Arc::new(Unknown) as Arc<dyn Resolve>, Names::new(&[&[]])] {
        let sender = Sender::with(resolver, |_| ());
        let finished = sender.attempter.attempt(sender.to("https://hooks.example.com/")).await;
        assert_eq!(failure(&finished).error, AttemptError::Dns);
    }
}

#[tokio::test]
async fn an_echo_of_every_secret_is_scrubbed_also_where_it_is_cut() {
    let sender = Sender::new();
    let receiver = Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        let request = connection.request().await.unwrap();
        let header = |name: &str| request.headers[name].to_str().unwrap().to_owned();
        let whsec = format!("whsec_{}", STANDARD.encode(KEY));
        let echo = format!(
            "{whsec} {} {} {} {} {}",
            header("webhook-signature"),
            header("authorization"),
            header("x-api-key"),
            header("x-api-key").replace('"', "\\\""),
            hex::encode(KEY)
        );
        // The second lies across the end of what is kept.
        let body = format!("{}{echo}{}{echo}", "-".repeat(100), "-".repeat(1024 - 100 - echo.len() - 200));
        let head = format!(
            "HTTP/1.1 200 OK\r\nserver: {whsec}\r\nx-request-id: {}{}\r\ncontent-length: {}\r\n\r\n",
            "-".repeat(220),
            header("authorization"),
            body.len()
        );
        connection.write(head + &body).await;
        connection.hang().await;
    })
    .await;
    let finished = sender.attempt(&receiver).await;
    let kept = answer(&finished);
    let arrived = &receiver.arrived()[0].headers;
    let token = arrived["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let signature = arrived["webhook-signature"].to_str().unwrap().strip_prefix("v1,").unwrap();
    let everything = format!("{kept:?} {}", String::from_utf8_lossy(&kept.body));
    for secret in [token, signature, &STANDARD.encode(KEY), SHARED, &hex::encode(KEY)] {
        assert!(!everything.contains(&secret[..secret.len().min(8)]), "{everything}");
    }
    assert!(kept.body.starts_with(&[b'-'; 100]));
    assert!(kept.body.ends_with(b"[redacted]"), "what begins within the first KiB is recognized to its end");
    assert!(kept.headers.iter().all(|header| header.value.len() <= 256));
    assert!(everything.contains("whsec_[redacted]"));
}

#[tokio::test]
async fn http2_is_spoken_where_the_recipient_does() {
    use http_body_util::{BodyExt as _, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let sender = Sender::new();
    let tls = sender.authority.server(HOST, &[b"h2", b"http/1.1"]);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let all = bodies.clone();
    let server = tokio::spawn(async move {
        // One connection is all that there may be.
        let (tcp, _) = listener.accept().await.unwrap();
        let stream = TokioIo::new(tls.accept(tcp).await.unwrap());
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let all = all.clone();
            async move {
                let version = request.version();
                let body = request.into_body().collect().await?.to_bytes();
                all.lock().unwrap().push((version, body));
                // Larger than is kept: the stream is ended, the connection is not.
                let answer = Full::new(Bytes::from("x".repeat(100_000)));
                Ok::<_, hyper::Error>(hyper::Response::new(answer))
            }
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
    });
    for _ in 0..3 {
        let finished = sender.attempt_at(address).await;
        assert_eq!((answer(&finished).status, answer(&finished).body.len()), (200, 1024));
    }
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|(version, body)| *version == http::Version::HTTP_2 && body == BODY));
    server.abort();
}

#[tokio::test]
async fn a_reused_connection_that_is_reset_takes_one_request_and_no_second() {
    let sender = Sender::new();
    let receiver = Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        // Answers the first, resets on the second.
        connection.request().await;
        connection.write(OK).await;
        connection.request().await;
        connection.reset();
    })
    .await;
    assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
    assert_eq!(failure(&sender.attempt(&receiver).await).error, AttemptError::Broken);
    let arrived = receiver.arrived();
    assert_eq!(
        arrived.iter().map(|request| request.connection).collect::<Vec<_>>(),
        [1, 1],
        "one request each, reused"
    );
    // A hidden second request would come over a connection of its own.
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn an_http2_stream_that_is_refused_is_not_sent_again() {
    let sender = Sender::new();
    let tls = sender.authority.server(HOST, &[b"h2"]);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(0));
    let count = requests.clone();
    let server = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(tls.accept(tcp).await.unwrap()).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                *count.lock().unwrap() += 1;
                // By HTTP/2 this one could be sent again safely; it would still be a request without a record.
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        }
    });
    let finished = sender.attempt_at(address).await;
    assert_eq!(failure(&finished).error, AttemptError::Broken);
    assert_eq!(*requests.lock().unwrap(), 1);
    server.abort();
}

#[tokio::test]
async fn names_at_one_address_share_no_connection_though_the_certificate_is_for_both() {
    let sender = Sender::new();
    let tls = sender.authority.server("*.example.com", &[b"h2"]);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let all = asked.clone();
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        for number in 1.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let (tls, asked) = (tls.clone(), all.clone());
            connections.spawn(async move {
                let mut connection = h2::server::handshake(tls.accept(tcp).await.unwrap()).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    asked.lock().unwrap().push((number, request.uri().host().unwrap().to_owned()));
                    respond.send_response(http::Response::new(()), true).unwrap();
                }
            });
        }
    });
    for host in ["a.example.com", "b.example.com", "a.example.com"] {
        let finished = sender.attempter.attempt(sender.to(&format!("https://{host}:{}/", address.port()))).await;
        assert_eq!(answer(&finished).status, 200);
    }
    // Each name is judged by itself: a connection that another has brought about is no way around that.
    let expected = [(1, "a.example.com"), (2, "b.example.com"), (1, "a.example.com")];
    assert_eq!(*asked.lock().unwrap(), expected.map(|(connection, host)| (connection, host.to_owned())));
    server.abort();
}

#[tokio::test]
async fn an_attempt_that_is_dropped_ends_its_request() {
    let sender = Sender::new();
    let ended = Arc::new(tokio::sync::Notify::new());
    let told = ended.clone();
    let receiver = Receiver::start(sender.authority.server(HOST, H1), move |mut connection: Connection| {
        let told = told.clone();
        async move {
            connection.request().await;
            connection.hang().await;
            told.notify_one();
        }
    })
    .await;
    let attempter = sender.attempter.clone();
    let attempt = sender.to(&url(receiver.address));
    let task = tokio::spawn(async move { attempter.attempt(attempt).await });
    eventually("the request arrived", || receiver.arrived().len() == 1).await;
    task.abort();
    tokio::time::timeout(Duration::from_secs(5), ended.notified()).await.expect("the connection is closed");
}

#[tokio::test]
async fn what_an_operator_allows_on_a_laptop_works_with_the_systems_resolver() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(BODY.as_bytes()) {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(OK.replace("200 OK", "200 OK\r\nconnection: close").as_bytes()).await.unwrap();
        }
    });
    let sender = Sender::new();
    let to_localhost = sender.to(&format!("http://localhost:{port}/"));
    let allow = ["127.0.0.0/8", "::1/128"].map(|range| range.parse().unwrap()).to_vec();
    let mut settings = sender.settings.clone();
    settings.egress = Egress { allow, allow_http: true, ..Egress::default() };
    let attempter = Attempter::new(&settings, sender.keys.clone()).unwrap();
    assert_eq!(answer(&attempter.attempt(to_localhost.clone()).await).status, 200);

    settings.egress.refuse_ports = vec![port];
    let attempter = Attempter::new(&settings, sender.keys.clone()).unwrap();
    assert_eq!(failure(&attempter.attempt(to_localhost.clone()).await).error, AttemptError::Egress);

    settings.egress = Egress { allow_http: true, ..Egress::default() };
    let attempter = Attempter::new(&settings, sender.keys.clone()).unwrap();
    let finished = attempter.attempt(to_localhost).await;
    assert_eq!(failure(&finished).error, AttemptError::Egress);
    assert!(failure(&finished).detail.contains("localhost"), "{}", failure(&finished).detail);
    server.abort();
}

#[tokio::test]
async fn requests_come_from_the_bound_addresses_in_turn_and_from_no_other() {
    let bound = ["127.0.0.2", "127.0.0.3"].map(|address| address.parse::<IpAddr>().unwrap());
    let sender = Sender::with(Names::loopback(), |settings| settings.egress.bind = bound.to_vec());
    let receiver = sender.answering(OK).await;
    for _ in 0..6 {
        assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
    }
    let sources: Vec<_> = receiver.arrived().iter().map(|arrived| arrived.source).collect();
    assert_eq!(sources, bound.repeat(3));

    // A recipient that has no address of their family is not reached, rather than reached from another address.
    let sender = Sender::with(Names::new(&[&["::1"]]), |settings| {
        settings.egress.allow.push("::1/128".parse().unwrap());
        settings.egress.bind = bound.to_vec();
    });
    let finished = sender.attempt(&receiver).await;
    assert_eq!(failure(&finished).error, AttemptError::Connect, "{:?}", finished.result);
}

#[tokio::test]
async fn with_addresses_of_both_families_the_one_that_fits_is_taken() {
    let bound = ["::1", "127.0.0.2", "127.0.0.3"].map(|address| address.parse::<IpAddr>().unwrap());
    let sender = Sender::with(Names::loopback(), |settings| {
        settings.egress.allow.push("::1/128".parse().unwrap());
        settings.egress.bind = bound.to_vec();
    });
    let receiver = sender.answering(OK).await;
    for _ in 0..6 {
        assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
    }
    let sources: std::collections::BTreeSet<_> = receiver.arrived().iter().map(|arrived| arrived.source).collect();
    assert_eq!(sources, bound[1..].iter().copied().collect());
}

#[test]
fn a_file_of_authorities_that_is_none_is_refused_by_name() {
    let sender = Sender::new();
    let broken = NamedTempFile::new().unwrap();
    std::fs::write(broken.path(), "nothing").unwrap();
    for path in [broken.path().to_owned(), "/does/not/exist".into()] {
        let settings = Settings { ca_file: Some(path), ..sender.settings.clone() };
        let error = Attempter::with_resolver(&settings, sender.keys.clone(), sender.resolver.clone()).err().unwrap();
        assert!(matches!(error, client::Error::CaFile { .. }));
        assert!(error.to_string().starts_with("deliver.ca_file: "), "{error}");
    }
}
