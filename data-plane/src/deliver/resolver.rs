//! Host names to addresses, by asking name servers: whoever's name server is slow, silent or gone keeps nobody else waiting.
//!
//! The operating system's resolver would take a thread for every name that is asked for, until its server answers or the system gives up,
//! which takes longer than an attempt may. Here a lookup is a few packets and a timer, and ends with the attempt.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::Semaphore;

use super::egress::Resolve;

/// Lookups under way at a time: each has a few sockets.
const MAX_LOOKUPS: usize = 512;
/// The same of names below one domain, whose name servers are one owner's.
const MAX_LOOKUPS_OF_DOMAIN: usize = 64;
/// Domains that are remembered without a look at which are still asked about.
const MANY_DOMAINS: usize = 1_024;

/// How long a name server has for an answer before it is asked again, and how often that is done.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
const REPEATS: usize = 2;
/// An answer counts for as long as it says, but no longer than this: recipients move.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);
/// The same for the answer that there is no address.
const LONGEST_DENIAL: Duration = Duration::from_secs(5);

/// Asks the system's name servers, or those that the settings name.
pub struct Dns {
    resolver: TokioResolver,
}

impl Dns {
    /// Asks these name servers, or, if there are none, those of `/etc/resolv.conf` (on this machine, if that names none). `/etc/hosts` goes
    /// before both.
    ///
    /// # Errors
    /// If there can't be a resolver.
    pub fn new(name_servers: &[SocketAddr]) -> io::Result<Self> {
        let provider = TokioRuntimeProvider::default();
        let with = |servers| {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let mut builder = if name_servers.is_empty() {
            TokioResolver::builder(provider).unwrap_or_else(|error| {
                tracing::warn!(%error, "the system names no name server; one on this machine is asked");
                with(vec![server(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)))])
            })
        } else {
            with(name_servers.iter().copied().map(server).collect())
        };
        options(builder.options_mut());
        Ok(Self { resolver: builder.build().map_err(io::Error::other)? })
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    server.connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    server
}

fn options(options: &mut ResolverOpts) {
    options.timeout = ANSWER_TIMEOUT;
    options.attempts = REPEATS;
    options.positive_max_ttl = Some(LONGEST_ANSWER);
    options.negative_max_ttl = Some(LONGEST_DENIAL);
    // Both families, all of what is known: one refused address refuses them all.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.max_active_requests = 4 * MAX_LOOKUPS;
    options.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
}

#[async_trait]
impl Resolve for Dns {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match self.resolver.lookup_ip(host).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(Vec::new()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Lets so many lookups through at a time, and fewer for each domain: those of a domain whose name servers never answer wait for each
/// other, and for nobody else. What is waited for ends with the attempt.
pub struct Bounded<R> {
    resolver: R,
    all: Semaphore,
    of_domain: usize,
    domains: Mutex<Domains>,
}

#[derive(Default)]
struct Domains {
    lookups: HashMap<Box<str>, Weak<Semaphore>>,
    many: usize,
}

impl<R> Bounded<R> {
    /// Bounds a resolver.
    pub fn new(resolver: R) -> Self {
        Self::with(resolver, MAX_LOOKUPS, MAX_LOOKUPS_OF_DOMAIN)
    }

    fn with(resolver: R, all: usize, of_domain: usize) -> Self {
        let domains = Mutex::new(Domains { lookups: HashMap::new(), many: MANY_DOMAINS });
        Self { resolver, all: Semaphore::new(all), of_domain, domains }
    }

    fn domain(&self, host: &str) -> Arc<Semaphore> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = domain(host);
        if let Some(known) = domains.lookups.get(domain).and_then(Weak::upgrade) {
            return known;
        }
        if domains.lookups.len() >= domains.many {
            domains.lookups.retain(|_, lookups| lookups.strong_count() > 0);
            domains.many = (domains.lookups.len() * 2).max(MANY_DOMAINS);
        }
        let lookups = Arc::new(Semaphore::new(self.of_domain));
        domains.lookups.insert(domain.into(), Arc::downgrade(&lookups));
        lookups
    }
}

/// The last two labels of a name: as near as one gets to whose it is without a list of who gives names away.
fn domain(host: &str) -> &str {
    host.rmatch_indices('.').nth(1).map_or(host, |(dot, _)| &host[dot + 1..])
}

#[async_trait]
impl<R: Resolve> Resolve for Bounded<R> {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let domain = self.domain(host);
        // First the turn among its own, so that what waits for that takes no place from others.
        let _own = domain.acquire().await.map_err(io::Error::other)?;
        let _of_all = self.all.acquire().await.map_err(io::Error::other)?;
        self.resolver.resolve(host).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::net::UdpSocket;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// What a name server does with a question about a name's IPv4 address.
    type Answers = fn(name: &str, number: usize) -> Option<Vec<Ipv4Addr>>;

    /// A name server of one's own, which counts the questions.
    struct Server {
        address: SocketAddr,
        asked: Arc<AtomicUsize>,
        task: JoinHandle<()>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Server {
        /// `None`: it never answers; an empty list: there is no address.
        async fn start(ttl: u32, answers: Answers) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let asked = Arc::new(AtomicUsize::new(0));
            let count = asked.clone();
            let task = tokio::spawn(async move {
                let mut buffer = [0; 1_500];
                loop {
                    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                    let (name, end) = question(&buffer[..length]);
                    let is_ipv4 = buffer[end..end + 2] == [0, 1];
                    let number = if is_ipv4 { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
                    let Some(found) = answers(&name, number) else { continue };
                    let found = if is_ipv4 { found } else { Vec::new() };
                    let answer = answer(&buffer[..end + 4], &found, ttl);
                    socket.send_to(&answer, from).await.unwrap();
                }
            });
            Self { address, asked, task }
        }

        fn dns(&self) -> Dns {
            Dns::new(&[self.address]).unwrap()
        }
    }

    /// The name that is asked for in lower case, and where it ends (RFC 1035, section 4.1.2).
    fn question(query: &[u8]) -> (String, usize) {
        let (mut labels, mut at) = (Vec::new(), 12);
        while query[at] != 0 {
            let length = usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
            at += 1 + length;
        }
        (labels.join("."), at + 1)
    }

    fn answer(query: &[u8], addresses: &[Ipv4Addr], ttl: u32) -> Vec<u8> {
        let mut answer = query.to_vec();
        // A response, recursion available; one question, so many answers, nothing else.
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..12].copy_from_slice(&[0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
        for address in addresses {
            // The name of the question, A, IN.
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        answer
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn names_have_the_addresses_that_the_server_says_and_for_as_long() {
        let server = Server::start(300, |name, _| match name {
            "two.example.com" => Some(vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]),
            _ => Some(vec![]),
        })
        .await;
        let dns = server.dns();
        let mut found = dns.resolve("two.example.com").await.unwrap();
        found.sort();
        assert_eq!(found, [ip("192.0.2.1"), ip("192.0.2.2")]);
        assert_eq!(dns.resolve("two.example.com").await.unwrap().len(), 2);
        assert_eq!(server.asked.load(Ordering::SeqCst), 1, "it was said to hold for five minutes");
        assert_eq!(dns.resolve("none.example.com").await.unwrap(), Vec::<IpAddr>::new());
    }

    #[tokio::test]
    async fn an_answer_that_holds_for_no_time_is_asked_for_again() {
        let server = Server::start(0, |_, number| {
            Some(vec![if number == 0 { Ipv4Addr::new(8, 8, 8, 8) } else { Ipv4Addr::LOCALHOST }])
        })
        .await;
        let dns = server.dns();
        assert_eq!(dns.resolve("rebinds.example.com").await.unwrap(), [ip("8.8.8.8")]);
        assert_eq!(dns.resolve("rebinds.example.com").await.unwrap(), [ip("127.0.0.1")], "the guard judges each anew");
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let server = Server::start(0, |_, _| None).await;
        let resolved = timeout(SOON, server.dns().resolve("silent.example.com")).await.expect("it is given up");
        assert!(resolved.is_err());
        assert!(server.asked.load(Ordering::SeqCst) > 1, "but asked again before");
    }

    #[tokio::test]
    async fn what_waits_for_a_silent_domain_keeps_nobody_else_waiting() {
        let server =
            Server::start(0, |name, _| (!name.ends_with("silent.example")).then(|| vec![Ipv4Addr::new(192, 0, 2, 1)]))
                .await;
        let dns = Arc::new(Bounded::with(server.dns(), 16, 8));
        let silent: Vec<_> = (0..200)
            .map(|n| {
                let dns = dns.clone();
                tokio::spawn(async move { dns.resolve(&format!("n{n}.silent.example")).await })
            })
            .collect();
        while server.asked.load(Ordering::SeqCst) < 8 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50).map(|n| format!("n{n}.well.example")).collect();
        let resolved = timeout(SOON, join_all(others.iter().map(|name| dns.resolve(name))))
            .await
            .expect("they wait for none of them");
        assert!(resolved.into_iter().all(|found| found.unwrap() == [ip("192.0.2.1")]));
        assert!(silent.iter().filter(|lookup| !lookup.is_finished()).count() > 100);
        silent.into_iter().for_each(|lookup| lookup.abort());
    }

    #[test]
    fn a_domain_is_two_labels() {
        for (host, expected) in
            [("a.b.example.com", "example.com"), ("example.com", "example.com"), ("localhost", "localhost")]
        {
            assert_eq!(domain(host), expected);
        }
    }

    #[test]
    fn domains_that_nobody_asks_about_are_forgotten() {
        let bounded = Bounded::new(());
        for n in 0..10 * MANY_DOMAINS {
            drop(bounded.domain(&format!("www.n{n}.example")));
        }
        assert!(bounded.domains.lock().unwrap().lookups.len() <= MANY_DOMAINS);
    }
}
