//! The egress guard where names become addresses: only what was checked here is connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use hookwire_proto::egress::{Policy, Refusal};
use reqwest::dns::{Addrs, Name, Resolving};

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is refused; then all of them are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The name has no address.
    #[error("the host name has no address")]
    NoAddress,
    /// It could not be resolved.
    #[error("the host name could not be resolved")]
    Unresolved(#[source] io::Error),
}

/// Resolves host names.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name.
    ///
    /// # Errors
    /// Whatever keeps it from being resolved.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Checks every answer of a resolver. The client connects to what this returns and resolves nothing itself, so that an
/// answer that changes a moment later changes nothing.
#[derive(Clone)]
pub struct Guard {
    policy: Arc<Policy>,
    resolver: Arc<dyn Resolve>,
}

impl Guard {
    /// A guard over a resolver.
    pub fn new(policy: Arc<Policy>, resolver: Arc<dyn Resolve>) -> Self {
        Self { policy, resolver }
    }

    /// The addresses of a name, or the one that is written. If one is refused, all are: whoever mixes public and private answers
    /// waits for the client to choose the private one.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        let addresses = match host.trim_matches(['[', ']']).parse() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(host).await.map_err(Error::Unresolved)?,
        };
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        for address in &addresses {
            self.policy.check_address(*address)?;
        }
        Ok(addresses)
    }
}

impl reqwest::dns::Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = guard.addresses(name.as_str()).await?;
            // Port 0 stands for the URL's.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Answers from a list, one after the other.
    struct Scripted(Mutex<Vec<io::Result<Vec<IpAddr>>>>);

    #[async_trait]
    impl Resolve for Scripted {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            self.0.lock().unwrap().remove(0)
        }
    }

    fn guard(answers: Vec<io::Result<Vec<IpAddr>>>) -> Guard {
        Guard::new(Arc::new(Policy::default()), Arc::new(Scripted(Mutex::new(answers))))
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn public_answers_pass() {
        let public = addresses(&["8.8.8.8", "2606:4700::1111"]);
        assert_eq!(guard(vec![Ok(public.clone())]).addresses("a.example").await.unwrap(), public);
    }

    #[tokio::test]
    async fn one_private_answer_refuses_all_of_them() {
        for mixed in [["8.8.8.8", "10.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["8.8.8.8", "::ffff:8.8.8.8"]] {
            let refused = guard(vec![Ok(addresses(&mixed))]).addresses("a.example").await;
            assert!(matches!(refused, Err(Error::Refused(Refusal::Address { .. }))), "{mixed:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn an_address_is_judged_and_nobody_is_asked_for_it() {
        for (host, passes) in [("8.8.8.8", true), ("[2606:4700::1111]", true), ("10.0.0.1", false), ("[::1]", false)] {
            assert_eq!(guard(vec![]).addresses(host).await.is_ok(), passes, "{host}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_changes_is_judged_anew() {
        let guard = guard(vec![Ok(addresses(&["8.8.8.8"])), Ok(addresses(&["169.254.169.254"]))]);
        assert!(guard.addresses("a.example").await.is_ok());
        assert!(matches!(guard.addresses("a.example").await, Err(Error::Refused(_))));
    }

    #[tokio::test]
    async fn no_answer_is_told_from_a_refused_one() {
        let guard = guard(vec![Ok(vec![]), Err(io::Error::other("no"))]);
        assert!(matches!(guard.addresses("a.example").await, Err(Error::NoAddress)));
        assert!(matches!(guard.addresses("a.example").await, Err(Error::Unresolved(_))));
    }
}
