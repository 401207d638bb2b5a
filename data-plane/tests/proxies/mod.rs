//! Attempts through the operator's proxy, of either kind: the guard decides as it does without one.

use hookwire_data_plane::deliver::config::Proxy as Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;

const KINDS: [Kind; 2] = [Kind::Connect, Kind::Socks5];
const USER: &str = "node";
const PASSWORD: &str = "let: me/through";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Socks5,
}

/// A proxy that demands a user and a password, connects to whatever it is asked for, and writes down what that was.
struct Proxy {
    kind: Kind,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    sources: Arc<Mutex<Vec<IpAddr>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, sources) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (all_asked, all_sources) = (asked.clone(), sources.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, source)) = listener.accept().await {
                all_sources.lock().unwrap().push(source.ip());
                let asked = all_asked.clone();
                connections.spawn(async move {
                    // Whatever goes wrong between the two ends the connection.
                    let _ = match kind {
                        Kind::Connect => connect(client, &asked).await,
                        Kind::Socks5 => socks5(client, &asked).await,
                    };
                });
            }
        });
        Self { kind, address, asked, sources, _tasks: tasks }
    }

    /// Sends requests through it.
    fn sender(&self, resolver: Arc<dyn Resolve>, password: &str, change: impl FnOnce(&mut super::Settings)) -> Sender {
        let password_file = NamedTempFile::new().unwrap();
        std::fs::write(password_file.path(), format!("{password}\n")).unwrap();
        // It is read while the sender is made.
        Sender::with(resolver, |settings| {
            settings.egress.proxy = Some(Settings {
                url: url_of(self.kind, self.address),
                user: USER.into(),
                password_file: Some(password_file.path().to_owned()),
            });
            change(settings);
        })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn url_of(kind: Kind, address: SocketAddr) -> String {
    match kind {
        Kind::Connect => format!("http://{address}"),
        Kind::Socks5 => format!("socks5://{address}"),
    }
}

/// HTTP CONNECT, RFC 9110, section 9.3.6.
async fn connect(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let to = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
    let expected = format!("Proxy-Authorization: Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if !head.lines().any(|line| line == expected) {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
    }
    asked.lock().unwrap().push(to.clone());
    match TcpStream::connect(to).await {
        Ok(mut server) => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 test\r\n\r\n").await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Err(_) => client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await,
    }
}

/// SOCKS5, RFC 1928, with a user's name and password, RFC 1929.
async fn socks5(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    assert_eq!(client.read_u8().await?, 5);
    let mut methods = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&2) {
        return client.write_all(&[5, 0xff]).await;
    }
    client.write_all(&[5, 2]).await?;
    assert_eq!(client.read_u8().await?, 1);
    let mut pair = Vec::new();
    for _ in 0..2 {
        let mut text = vec![0; usize::from(client.read_u8().await?)];
        client.read_exact(&mut text).await?;
        pair.push(text);
    }
    if pair != [USER.as_bytes(), PASSWORD.as_bytes()] {
        return client.write_all(&[1, 1]).await;
    }
    client.write_all(&[1, 0]).await?;
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    assert_eq!(request[..3], [5, 1, 0]);
    let host = match request[3] {
        1 => IpAddr::from(client.read_u32().await?.to_be_bytes()).to_string(),
        4 => format!("[{}]", IpAddr::from(client.read_u128().await?.to_be_bytes())),
        _ => "a name".to_owned(),
    };
    let to = format!("{host}:{}", client.read_u16().await?);
    asked.lock().unwrap().push(to.clone());
    match TcpStream::connect(to).await {
        Ok(mut server) => {
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Err(_) => client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await,
    }
}

#[tokio::test]
async fn a_request_is_the_same_and_the_proxy_is_told_an_address() {
    for kind in KINDS {
        let proxy = Proxy::start(kind).await;
        let sender = proxy.sender(Names::loopback(), PASSWORD, |_| ());
        carries_everything(&sender).await;
        let receiver = sender.answering(OK).await;
        for _ in 0..3 {
            assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
        }
        let asked = proxy.asked();
        assert_eq!(asked[1..], [receiver.address.to_string()], "{kind:?}: once, for a connection that is used again");
        assert!(asked[0].starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn what_the_guard_refuses_the_proxy_is_not_asked_for() {
    for kind in KINDS {
        let proxy = Proxy::start(kind).await;
        // Allowed is 127.0.0.0/8.
        for addresses in [&["10.0.0.1"], &["169.254.169.254"], &["::1"]] {
            let names = Names::new(&[addresses]);
            let finished = proxy.sender(names, PASSWORD, |_| ()).attempt_at(([127, 0, 0, 1], 1).into()).await;
            assert_eq!(failure(&finished).error, AttemptError::Egress, "{kind:?}: {addresses:?}");
        }
        // A name that leads elsewhere a moment later.
        let sender = proxy.sender(Names::new(&[&["127.0.0.1"], &["10.0.0.1"]]), PASSWORD, |_| ());
        let receiver = sender.answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(answer(&sender.attempt(&receiver).await).status, 200);
        assert_eq!(failure(&sender.attempt(&receiver).await).error, AttemptError::Egress, "{kind:?}");
        assert_eq!(proxy.asked(), [receiver.address.to_string()]);
        for host in ["10.0.0.1", "[::ffff:127.0.0.1]"] {
            let finished = sender.attempter.attempt(sender.to(&format!("https://{host}/in?a=b"))).await;
            assert_eq!(failure(&finished).error, AttemptError::Egress, "{kind:?}: {host}");
        }
        assert_eq!(proxy.asked().len(), 1);
    }
}

#[tokio::test]
async fn an_address_that_the_proxy_does_not_get_through_to_is_followed_by_the_next() {
    for kind in KINDS {
        let proxy = Proxy::start(kind).await;
        // Nobody listens at the first.
        let sender = proxy.sender(Names::new(&[&["127.0.0.9", "127.0.0.1"]]), PASSWORD, |_| ());
        let receiver = sender.answering(OK).await;
        assert_eq!(answer(&sender.attempt(&receiver).await).status, 200, "{kind:?}");
        let port = receiver.address.port();
        assert_eq!(proxy.asked(), [format!("127.0.0.9:{port}"), format!("127.0.0.1:{port}")]);
    }
}

#[tokio::test]
async fn a_proxys_failures_are_told_from_the_recipients() {
    for kind in KINDS {
        let proxy = Proxy::start(kind).await;
        let sender = proxy.sender(Names::loopback(), PASSWORD, |_| ());
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let finished = sender.attempt_at(nobody).await;
        assert_eq!(failure(&finished).error, AttemptError::Connect, "{kind:?}");
        assert!(failure(&finished).detail.starts_with("no connection through the proxy: "), "{finished:?}");

        let stranger = Receiver::answering(Authority::new().server(HOST, H1), OK).await;
        let finished = sender.attempt(&stranger).await;
        assert_eq!(failure(&finished).error, AttemptError::CertificateUntrusted, "{kind:?}");
        let other = Receiver::answering(sender.authority.server("other.example.com", H1), OK).await;
        assert_eq!(failure(&sender.attempt(&other).await).error, AttemptError::CertificateName, "{kind:?}");

        let unknown = proxy.sender(Names::loopback(), "another", |_| ());
        let receiver = unknown.answering(OK).await;
        let finished = unknown.attempt(&receiver).await;
        assert_eq!(failure(&finished).error, AttemptError::Connect, "{kind:?}");
        assert!(failure(&finished).detail.starts_with("no connection through the proxy: "), "{finished:?}");
        assert!(receiver.arrived().is_empty());

        let gone = Proxy { address: nobody, ..proxy };
        let finished = gone.sender(Names::loopback(), PASSWORD, |_| ()).attempt(&receiver).await;
        let expected = Failure { error: AttemptError::Proxy, detail: "the sender's proxy can't be reached".into() };
        assert_eq!(*failure(&finished), expected, "{kind:?}");

        // It takes connections and says nothing.
        let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let silent = Proxy { address: mute.local_addr().unwrap(), ..gone };
        let hurried = silent.sender(Names::loopback(), PASSWORD, |settings| {
            settings.connect_timeout = Duration::from_millis(200);
        });
        let expected = Failure { error: AttemptError::Timeout, detail: "no connection in time".into() };
        assert_eq!(*failure(&hurried.attempt(&receiver).await), expected, "{kind:?}");
    }
}

#[tokio::test]
async fn the_proxy_is_connected_to_from_the_bound_address_and_http_goes_through_it_too() {
    for kind in KINDS {
        let proxy = Proxy::start(kind).await;
        let bound = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let sender = proxy.sender(Names::loopback(), PASSWORD, |settings| {
            settings.egress.bind = vec![bound];
            settings.egress.allow_http = true;
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, from) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(BODY.as_bytes()) {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            (String::from_utf8(request).unwrap(), from.ip())
        });
        let finished = sender.attempter.attempt(sender.to(&format!("http://{HOST}:{}/in?a=b", address.port()))).await;
        assert_eq!(answer(&finished).status, 200, "{kind:?}");
        let (request, from) = server.await.unwrap();
        assert!(request.starts_with("POST /in?a=b HTTP/1.1\r\n"), "{request}");
        assert_eq!((from, proxy.sources.lock().unwrap()[0]), (Ipv4Addr::LOCALHOST.into(), bound), "{kind:?}");
    }
}

#[test]
fn a_password_that_is_not_there_is_refused_by_name() {
    let sender = Sender::new();
    let proxy = Settings { url: "http://127.0.0.1:1".into(), user: USER.into(), password_file: Some("/none".into()) };
    let mut settings = sender.settings.clone();
    settings.egress.proxy = Some(proxy);
    let error = Attempter::with_resolver(&settings, sender.keys.clone(), sender.resolver.clone()).err().unwrap();
    assert!(error.to_string().starts_with("deliver.egress.proxy.password_file: /none: "), "{error}");
}
