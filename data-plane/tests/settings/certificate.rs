//! Recipients who let nobody in without a certificate.

use hookwire_proto::config::ClientCertificate;

use super::*;

impl Sender {
    fn showing(&self, certificate: &str, key: &str) -> SubscriptionSettings {
        let private_key = Some(self.keys.seal(&format!("{NAME}{}", seal::CLIENT_KEY), key.as_bytes()));
        let client_certificate = Some(ClientCertificate { certificate: certificate.into(), private_key });
        SubscriptionSettings { client_certificate, ..Default::default() }
    }

    async fn demanding(&self, clients: &Authority) -> Receiver {
        Receiver::answering(self.authority.server_demanding(HOST, H1, clients), OK).await
    }
}

#[tokio::test]
async fn a_recipient_that_demands_a_certificate_gets_the_subscriptions_own() {
    let (sender, clients) = (Sender::new(), Authority::new());
    let receiver = sender.demanding(&clients).await;
    let (certificate, key) = clients.client();
    let with = sender.with_settings(&url(receiver.address), sender.showing(&certificate, &key));
    for _ in 0..3 {
        assert_eq!(answer(&sender.attempter.attempt(with.clone()).await).status, 200);
    }
    assert_eq!(receiver.connections(), 1, "its connections are used again");
    assert_eq!(receiver.arrived().len(), 3);
}

#[tokio::test]
async fn a_request_with_a_certificate_comes_from_a_bound_address_too() {
    let sender = Sender::with(Names::loopback(), |settings| settings.egress.bind = vec![BOUND]);
    let clients = Authority::new();
    let receiver = sender.demanding(&clients).await;
    let (certificate, key) = clients.client();
    let with = sender.with_settings(&url(receiver.address), sender.showing(&certificate, &key));
    assert_eq!(answer(&sender.attempter.attempt(with).await).status, 200);
    assert_eq!(receiver.arrived()[0].source, BOUND);
}

#[tokio::test]
async fn nobody_rides_on_a_connection_with_anothers_certificate() {
    let (sender, clients) = (Sender::new(), Authority::new());
    let receiver = sender.demanding(&clients).await;
    let (certificate, key) = clients.client();
    let with = sender.with_settings(&url(receiver.address), sender.showing(&certificate, &key));
    assert_eq!(answer(&sender.attempter.attempt(with.clone()).await).status, 200);

    let without = sender.attempt(&receiver).await;
    assert_eq!(failure(&without).error, AttemptError::Tls, "{:?}", without.result);
    let (strange, strange_key) = Authority::new().client();
    let mut other = sender.with_settings(&url(receiver.address), sender.showing(&strange, &strange_key));
    // The same subscription, written anew: neither its old client nor its connections are used.
    Arc::get_mut(&mut other.subscription).unwrap().revision = 2;
    let stranger = sender.attempter.attempt(other).await;
    assert_eq!(failure(&stranger).error, AttemptError::Tls, "{:?}", stranger.result);
    assert_eq!(receiver.arrived().len(), 1);
}

#[tokio::test]
async fn a_certificate_that_can_not_be_used_makes_no_request() {
    let (sender, clients) = (Sender::new(), Authority::new());
    let receiver = sender.demanding(&clients).await;
    let ((certificate, _), (_, other_key)) = (clients.client(), clients.client());
    for key in [other_key.as_str(), "no key"] {
        let settings = sender.showing(&certificate, key);
        let finished = sender.attempter.attempt(sender.with_settings(&url(receiver.address), settings)).await;
        assert_eq!(failure(&finished).error, AttemptError::Request);
        assert!(failure(&finished).detail.contains("client certificate"), "{}", failure(&finished).detail);
    }
    assert_eq!(receiver.connections(), 0);
}
