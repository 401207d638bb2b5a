//! Recipients who ask for an access token, and the endpoints that give it out.

use std::sync::atomic::{AtomicUsize, Ordering};

use hookwire_proto::config::OAuthClient;

use super::*;

const CLIENT_SECRET: &str = "client secret: 3/4 & more";

/// A token endpoint that answers every request with another token, `token-1` first.
async fn endpoint(sender: &Sender, expires_in: u32) -> Receiver {
    let issued = Arc::new(AtomicUsize::new(0));
    Receiver::start(sender.authority.server(HOST, H1), move |mut connection: Connection| {
        let issued = issued.clone();
        async move {
            while connection.request().await.is_some() {
                let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
                let body =
                    format!(r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":{expires_in}}}"#);
                connection.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
            }
        }
    })
    .await
}

fn token_url(endpoint: &Receiver) -> String {
    format!("https://{HOST}:{}/token?tenant=7", endpoint.address.port())
}

impl Sender {
    fn client(&self, token_url: String) -> OAuthClient {
        let client_secret = Some(self.keys.seal(&format!("{NAME}{}", seal::OAUTH), CLIENT_SECRET.as_bytes()));
        OAuthClient { token_url, client_id: "me & you".into(), client_secret, ..Default::default() }
    }

    fn asking(&self, receiver: SocketAddr, client: OAuthClient) -> Attempt {
        let authentication = Some(Authentication::OauthClient(client));
        self.with_settings(&url(receiver), SubscriptionSettings { authentication, ..Default::default() })
    }
}

fn bearers(receiver: &Receiver) -> Vec<String> {
    let of = |arrived: &Arrived| arrived.headers["authorization"].to_str().unwrap().to_owned();
    receiver.arrived().iter().map(of).collect()
}

fn form(arrived: &Arrived) -> Vec<(String, String)> {
    assert_eq!(arrived.headers["content-type"], "application/x-www-form-urlencoded");
    url::form_urlencoded::parse(&arrived.body).into_owned().collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all_who_need_it() {
    let sender = Sender::new();
    let (endpoint, receiver) = (endpoint(&sender, 3600).await, sender.answering(OK).await);
    let client = OAuthClient {
        scopes: vec!["write".into(), "read:all".into()],
        audience: "their-system".into(),
        ..sender.client(token_url(&endpoint))
    };
    let attempt = sender.asking(receiver.address, client);
    let attempts = (0..10).map(|_| sender.attempter.attempt(attempt.clone()));
    for finished in futures::future::join_all(attempts).await {
        assert_eq!(answer(&finished).status, 200);
    }
    assert_eq!(bearers(&receiver), vec!["Bearer token-1"; 10]);
    assert!(receiver.arrived().iter().all(|arrived| arrived.headers.contains_key("webhook-token")));

    let asked = endpoint.arrived();
    assert_eq!((asked.len(), asked[0].line.as_str()), (1, "POST /token?tenant=7 HTTP/1.1"));
    // Encoded as in a form, and then in base64 (RFC 6749, section 2.3.1).
    let pair = STANDARD.encode("me+%26+you:client+secret%3A+3%2F4+%26+more");
    assert_eq!(asked[0].headers["authorization"], format!("Basic {pair}"));
    assert_eq!(asked[0].headers["accept"], "application/json");
    let expected = [("grant_type", "client_credentials"), ("scope", "write read:all"), ("audience", "their-system")];
    assert_eq!(form(&asked[0]), pairs(&expected));
}

#[tokio::test]
async fn a_token_is_asked_for_from_a_bound_address_too() {
    let sender = Sender::with(Names::loopback(), |settings| settings.egress.bind = vec![BOUND]);
    let (endpoint, receiver) = (endpoint(&sender, 3600).await, sender.answering(OK).await);
    let attempt = sender.asking(receiver.address, sender.client(token_url(&endpoint)));
    assert_eq!(answer(&sender.attempter.attempt(attempt).await).status, 200);
    assert_eq!([endpoint.arrived()[0].source, receiver.arrived()[0].source], [BOUND; 2]);
}

#[tokio::test]
async fn id_and_secret_go_into_the_form_where_the_endpoint_wants_them_there() {
    let sender = Sender::new();
    let (endpoint, receiver) = (endpoint(&sender, 3600).await, sender.answering(OK).await);
    let client = OAuthClient { in_form: true, ..sender.client(token_url(&endpoint)) };
    let finished = sender.attempter.attempt(sender.asking(receiver.address, client)).await;
    assert_eq!(answer(&finished).status, 200);
    let asked = &endpoint.arrived()[0];
    assert!(!asked.headers.contains_key("authorization"));
    let expected = [("grant_type", "client_credentials"), ("client_id", "me & you"), ("client_secret", CLIENT_SECRET)];
    assert_eq!(form(asked), pairs(&expected));
}

#[tokio::test]
async fn a_token_that_the_recipient_does_not_take_is_dropped_and_no_second_request_is_made() {
    let sender = Sender::new();
    let endpoint = endpoint(&sender, 3600).await;
    let receiver = Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        while let Some(request) = connection.request().await {
            let is_known = request.headers["authorization"] != "Bearer token-1";
            let status = if is_known { "200 OK" } else { "401 Unauthorized" };
            connection.write(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
        }
    })
    .await;
    let attempt = sender.asking(receiver.address, sender.client(token_url(&endpoint)));
    let mut statuses = Vec::new();
    for made in 1..=3 {
        statuses.push(answer(&sender.attempter.attempt(attempt.clone()).await).status);
        assert_eq!(receiver.arrived().len(), made, "every request is an attempt");
    }
    assert_eq!(statuses, [401, 200, 200]);
    assert_eq!(bearers(&receiver), ["Bearer token-1", "Bearer token-2", "Bearer token-2"]);
}

#[tokio::test]
async fn a_token_that_has_expired_or_belongs_to_other_settings_is_not_used() {
    let sender = Sender::new();
    let (expired, lasting) = (endpoint(&sender, 0).await, endpoint(&sender, 3600).await);
    let receiver = sender.answering(OK).await;
    let of_expired = sender.asking(receiver.address, sender.client(token_url(&expired)));
    for _ in 0..2 {
        assert_eq!(answer(&sender.attempter.attempt(of_expired.clone()).await).status, 200);
    }
    assert_eq!(bearers(&receiver), ["Bearer token-1", "Bearer token-2"]);

    let receiver = sender.answering(OK).await;
    for revision in [2, 2, 3] {
        let mut attempt = sender.asking(receiver.address, sender.client(token_url(&lasting)));
        Arc::get_mut(&mut attempt.subscription).unwrap().revision = revision;
        assert_eq!(answer(&sender.attempter.attempt(attempt).await).status, 200);
    }
    assert_eq!(bearers(&receiver), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_attempt_says_why() {
    let sender = Sender::with(Names::loopback(), |settings| settings.attempt_timeout = Duration::from_secs(5));
    let receiver = sender.answering(OK).await;
    let tls = || sender.authority.server(HOST, H1);
    // Some repeat what they were sent.
    let body = format!(r#"{{"error":"invalid_client","error_description":"{CLIENT_SECRET}"}}"#);
    let head = format!("HTTP/1.1 401 X\r\ncontent-length: {}\r\n\r\n", body.len());
    let refuses = Receiver::answering(tls(), head + &body).await;
    let location = url(receiver.address);
    let moved = format!("HTTP/1.1 307 X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let redirects = Receiver::answering(tls(), moved).await;
    let no_token = Receiver::answering(tls(), OK).await;
    let endless = Receiver::start(tls(), |mut connection: Connection| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while connection.write(format!("400\r\n{}\r\n", "x".repeat(1024))).await {}
    })
    .await;
    let hangs = Receiver::start(tls(), |mut connection: Connection| async move { connection.hang().await }).await;
    let stranger = Receiver::answering(Authority::new().server(HOST, H1), OK).await;
    let cases = [
        (token_url(&refuses), "answered 401, `invalid_client`"),
        (token_url(&redirects), "answered 307"),
        (token_url(&no_token), "is not what RFC 6749 says"),
        (token_url(&endless), "is longer than 16 KiB"),
        (token_url(&hangs), "no complete answer in time"),
        (token_url(&stranger), "from no authority that is trusted"),
        ("https://10.0.0.1/token".to_owned(), "refused before connecting"),
        (format!("http://{HOST}/token"), "refused before connecting"),
    ];
    for (token_url, said) in cases {
        let finished = sender.attempter.attempt(sender.asking(receiver.address, sender.client(token_url))).await;
        let Failure { error, detail } = failure(&finished);
        assert_eq!(*error, AttemptError::Token, "{detail}");
        assert!(detail.starts_with("no access token: ") && detail.contains(said), "{detail}");
        assert!(!detail.contains("client secret: 3") && !detail.contains("/token"), "{detail}");
        assert!(finished.duration < Duration::from_secs(5), "the endpoint has half of the time");
    }
    assert_eq!(receiver.connections(), 0);
    let asked: usize = [&refuses, &redirects, &no_token].iter().map(|endpoint| endpoint.arrived().len()).sum();
    assert_eq!(asked, 3, "one request each");
}

#[tokio::test]
async fn a_token_endpoint_with_a_private_address_is_refused_by_the_guard() {
    // The recipient's name is resolved after the endpoint's; both lead to what is refused.
    let sender = Sender::with(Names::new(&[&["10.0.0.1"]]), |_| ());
    let receiver = sender.answering(OK).await;
    let client = sender.client(format!("https://{HOST}/token"));
    let finished = sender.attempter.attempt(sender.asking(receiver.address, client)).await;
    assert_eq!(failure(&finished).error, AttemptError::Token);
    assert!(failure(&finished).detail.contains("10.0.0.0/8"), "{}", failure(&finished).detail);
}

#[tokio::test]
async fn tokens_and_the_clients_secret_are_scrubbed_from_answers() {
    let sender = Sender::new();
    let endpoint = endpoint(&sender, 3600).await;
    let receiver = Receiver::start(sender.authority.server(HOST, H1), |mut connection: Connection| async move {
        let request = connection.request().await.unwrap();
        let authorization = request.headers["authorization"].to_str().unwrap().to_owned();
        let body = format!("{authorization}|{CLIENT_SECRET}|end");
        connection.write(format!("HTTP/1.1 403 X\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        connection.hang().await;
    })
    .await;
    let attempt = sender.asking(receiver.address, sender.client(token_url(&endpoint)));
    let finished = sender.attempter.attempt(attempt).await;
    assert_eq!(answer(&finished).body, "Bearer [redacted]|[redacted]|end");
}
