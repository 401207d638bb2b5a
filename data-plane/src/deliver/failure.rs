//! Why there is no answer, told from the types of the errors along `source()`, never from their text.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use hookwire_proto::egress::Refusal;
use hookwire_proto::log::AttemptError;
use hyper_util::client::legacy;
use tower::timeout::error::Elapsed;

use super::answer::truncate;
use super::attempt::Failure;
use super::{egress, oauth, proxy};
use crate::sign;

/// How long a detail may be, in bytes.
const MAX_DETAIL_BYTES: usize = 256;

/// An error that several attempts share.
#[derive(Debug)]
pub struct Shared<E>(pub Arc<E>);

impl<E: StdError> fmt::Display for Shared<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: StdError + 'static> StdError for Shared<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // An `Arc` is an error too, but not the one that is looked for.
        Some(&*self.0)
    }
}

/// What an error of the stack means.
pub fn classify(error: &(dyn StdError + Send + Sync + 'static)) -> Failure {
    let chain: Vec<&(dyn StdError + 'static)> = chain(error).collect();
    let kind = kind(&chain);
    let (what, cause) = match kind {
        AttemptError::Request => ("no request was made", true),
        AttemptError::Egress => ("refused before connecting", true),
        AttemptError::Dns => ("the host name could not be resolved", false),
        AttemptError::Timeout if is_connect(&chain) => ("no connection in time", false),
        AttemptError::Timeout => ("no complete answer in time", false),
        AttemptError::Tls => ("no secure connection", true),
        AttemptError::CertificateExpired => ("the certificate has expired, or is not valid yet", false),
        AttemptError::CertificateName => ("the certificate is for another name", true),
        AttemptError::CertificateUntrusted => ("the certificate comes from no authority that is trusted", true),
        AttemptError::Token => ("no access token", true),
        AttemptError::Proxy => ("the sender's proxy can't be reached", false),
        AttemptError::Connect if has::<proxy::Error>(&chain).is_some() => ("no connection through the proxy", true),
        AttemptError::Connect => ("no connection", true),
        AttemptError::Protocol => ("the answer was not HTTP", true),
        _ => ("the connection broke before the answer was complete", true),
    };
    // The innermost is the most exact, and the only one that can't hold the URL.
    let mut detail = match chain.last() {
        Some(innermost) if cause => format!("{what}: {innermost}"),
        _ => what.to_owned(),
    };
    truncate(&mut detail, MAX_DETAIL_BYTES);
    Failure { error: kind, detail }
}

fn kind(chain: &[&(dyn StdError + 'static)]) -> AttemptError {
    if has::<sign::Error>(chain).is_some() {
        return AttemptError::Request;
    }
    if has::<oauth::Error>(chain).is_some() {
        return AttemptError::Token;
    }
    if has::<Refusal>(chain).is_some() {
        return AttemptError::Egress;
    }
    match has::<egress::Error>(chain) {
        Some(egress::Error::Refused(_)) => return AttemptError::Egress,
        Some(egress::Error::NoAddress | egress::Error::Unresolved(_)) => return AttemptError::Dns,
        None => {}
    }
    let timed_out = |io: &io::Error| io.kind() == io::ErrorKind::TimedOut;
    if has::<Elapsed>(chain).is_some()
        || has::<reqwest::Error>(chain).is_some_and(reqwest::Error::is_timeout)
        || has::<io::Error>(chain).is_some_and(timed_out)
    {
        return AttemptError::Timeout;
    }
    if let Some(error) = has::<rustls::Error>(chain) {
        return tls(error);
    }
    if let Some(proxy::Error::Unreachable(_)) = has(chain) {
        return AttemptError::Proxy;
    }
    if is_connect(chain) {
        return AttemptError::Connect;
    }
    match has::<hyper::Error>(chain) {
        Some(error) if error.is_parse() => AttemptError::Protocol,
        // The request was not one after all: nothing has been sent.
        _ if has::<reqwest::Error>(chain).is_some_and(reqwest::Error::is_builder) => AttemptError::Request,
        _ => AttemptError::Broken,
    }
}

fn tls(error: &rustls::Error) -> AttemptError {
    use rustls::CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(certificate) = error else { return AttemptError::Tls };
    match certificate {
        Certificate::Expired
        | Certificate::ExpiredContext { .. }
        | Certificate::NotValidYet
        | Certificate::NotValidYetContext { .. } => AttemptError::CertificateExpired,
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => AttemptError::CertificateName,
        _ => AttemptError::CertificateUntrusted,
    }
}

fn is_connect(chain: &[&(dyn StdError + 'static)]) -> bool {
    has::<reqwest::Error>(chain).is_some_and(reqwest::Error::is_connect)
        || has::<legacy::Error>(chain).is_some_and(legacy::Error::is_connect)
}

/// The outermost error of a type.
fn has<'a, E: StdError + 'static>(chain: &[&'a (dyn StdError + 'static)]) -> Option<&'a E> {
    chain.iter().find_map(|error| error.downcast_ref())
}

/// An error and everything that it came from.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

/// What an `io::Error` wraps is not its `source()`, but belongs here.
fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
