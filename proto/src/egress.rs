//! Which URLs and addresses requests may be sent to: the one guard for every URL that a tenant can set, the control plane's
//! when it is saved and the data plane's when it is used. Pure: resolving names is the caller's.
//!
//! A URL is checked as text when a tenant writes it ([`Policy::check_text`]), again before each use
//! ([`Policy::check_url`]), and every address that its host resolves to right before connecting to that very address
//! ([`Policy::check_address`]). Only what is known to be public passes; an operator opens more by CIDR.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Position, Url};

/// The longest URL that is taken, in bytes as it is written; one without a path is sent with a `/` more.
pub const MAX_URL_BYTES: usize = 2048;

/// What an operator allows. The default is `https` to public addresses.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow: Vec<IpNet>,
    http: bool,
    own_ports: Vec<u16>,
}

/// Why a URL or an address is refused; the text is for the tenant who set the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`MAX_URL_BYTES`].
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Not an absolute URL.
    #[error("this is not an absolute URL; write it like https://example.com/path")]
    Malformed,
    /// Something other than visible ASCII, or a backslash.
    #[error(
        "the URL holds spaces, control characters, a backslash or non-ASCII characters; percent-encode them, and write an international host name in its xn-- form"
    )]
    Characters,
    /// Neither `https` nor, where that is allowed, `http`.
    #[error("the scheme must be {expected}")]
    Scheme {
        /// What it may be.
        expected: &'static str,
    },
    /// `user:password@`.
    #[error("the URL holds user info (`user@`); leave it out")]
    UserInfo,
    /// `#…`, which is never sent.
    #[error("the URL holds a fragment (`#…`), which is never sent; leave it out")]
    Fragment,
    /// Not a host name or address.
    #[error("the host is not a valid name or address")]
    Host,
    /// `%41` and the like in the host.
    #[error("the host is percent-encoded; write it plainly")]
    EncodedHost,
    /// An IPv4 address in another form than four decimal numbers.
    #[error("the host is an IPv4 address in a decimal, octal, hexadecimal or short form; write four decimal numbers")]
    AddressForm,
    /// An IPv6 address with a zone id.
    #[error("the host is an IPv6 address with a zone id; leave the zone out")]
    ZoneId,
    /// `example.com.`
    #[error("the host ends in a dot; leave it out")]
    TrailingDot,
    /// `localhost` or below.
    #[error("`localhost` is the sender's own machine, which requests are not sent to")]
    Localhost,
    /// Not a port, or one of our own.
    #[error("requests are not sent to this port")]
    Port,
    /// A path or query that would be sent otherwise than it is written.
    #[error(
        "the path or query would not be sent as it is written; resolve `.` and `..` and percent-encode what must be"
    )]
    Rewritten,
    /// An address that is not public.
    #[error("the host's address is in {range} ({what}), which requests are not sent to")]
    Address {
        /// The range that it is in.
        range: IpNet,
        /// What that is.
        what: &'static str,
    },
}

impl Refusal {
    /// The reason for programs, in the form of `google.rpc.ErrorInfo.reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "URL_TOO_LONG",
            Self::Malformed => "URL_MALFORMED",
            Self::Characters => "URL_CHARACTERS",
            Self::Scheme { .. } => "URL_SCHEME",
            Self::UserInfo => "URL_USER_INFO",
            Self::Fragment => "URL_FRAGMENT",
            Self::Host => "URL_HOST",
            Self::EncodedHost => "URL_HOST_ENCODED",
            Self::AddressForm => "URL_ADDRESS_FORM",
            Self::ZoneId => "URL_ZONE_ID",
            Self::TrailingDot => "URL_TRAILING_DOT",
            Self::Localhost => "URL_LOCALHOST",
            Self::Port => "URL_PORT",
            Self::Rewritten => "URL_REWRITTEN",
            Self::Address { .. } => "URL_ADDRESS",
        }
    }
}

impl Policy {
    /// Public addresses and, besides, those in `allow`; `https` only.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow, ..Self::default() }
    }

    /// The same, with `http` allowed or not.
    pub fn with_http(self, http: bool) -> Self {
        Self { http, ..self }
    }

    /// The same, refusing these ports on every host: those that this deployment itself listens on where its own
    /// addresses are within reach.
    pub fn with_own_ports(self, own_ports: Vec<u16>) -> Self {
        Self { own_ports, ..self }
    }

    /// Checks a URL as a tenant wrote it. Refuses, besides what [`check_url`](Self::check_url) refuses, whatever parsing
    /// would silently read as something else, so that what is shown is what is sent.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    pub fn check_text(&self, text: &str) -> Result<Url, Refusal> {
        if text.len() > MAX_URL_BYTES {
            return Err(Refusal::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(Refusal::Characters);
        }
        let (_, after_scheme) = text.split_once("://").ok_or(Refusal::Malformed)?;
        let url = Url::parse(text);
        if let Ok(url) = &url {
            self.check_scheme(url)?;
        }
        let end = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
        let (authority, rest) = after_scheme.split_at(end);
        let host = check_authority(authority)?;
        if rest.contains('#') {
            return Err(Refusal::Fragment);
        }
        let url = url.map_err(|_| Refusal::Malformed)?;
        // Brackets mark an IPv6 address, which may be written in more than one way.
        if !host.starts_with('[') && url.host_str() != Some(host.to_ascii_lowercase().as_str()) {
            return Err(Refusal::Host);
        }
        let sent = &url[Position::BeforePath..];
        if sent != rest && sent.strip_prefix('/') != Some(rest) {
            return Err(Refusal::Rewritten);
        }
        self.check_url(&url)?;
        Ok(url)
    }

    /// Checks a parsed URL: scheme, user info, host, port, and the address if the host is one.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    pub fn check_url(&self, url: &Url) -> Result<(), Refusal> {
        self.check_scheme(url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        match url.host().ok_or(Refusal::Host)? {
            Host::Ipv4(address) => self.check_address(address.into())?,
            Host::Ipv6(address) => self.check_address(address.into())?,
            Host::Domain(name) => self.check_name(name)?,
        }
        match url.port_or_known_default() {
            None | Some(0) => Err(Refusal::Port),
            Some(port) if self.own_ports.contains(&port) => Err(Refusal::Port),
            Some(_) => Ok(()),
        }
    }

    /// Checks an address that a request would be sent to.
    ///
    /// # Errors
    /// [`Refusal::Address`].
    pub fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.allow.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let refused = match address {
            IpAddr::V4(address) => refused_ipv4(address),
            IpAddr::V6(address) => match carried_ipv4(address) {
                _ if is_isatap(address) => Some((IpNet::from(IpAddr::from(address)), "ISATAP")),
                Some(carried) => return self.check_address(carried.into()),
                None => refused_ipv6(address),
            },
        };
        refused.map_or(Ok(()), |(range, what)| Err(Refusal::Address { range, what }))
    }

    fn check_scheme(&self, url: &Url) -> Result<(), Refusal> {
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.http => Ok(()),
            _ => Err(Refusal::Scheme { expected: if self.http { "https or http" } else { "https" } }),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        if name.ends_with('.') {
            return Err(Refusal::TrailingDot);
        }
        let last_label = name.rsplit('.').next().unwrap_or(name);
        if last_label.eq_ignore_ascii_case("localhost") && !self.allows_loopback() {
            return Err(Refusal::Localhost);
        }
        Ok(())
    }

    fn allows_loopback(&self) -> bool {
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .iter()
            .any(|address| self.check_address(*address).is_ok())
    }
}

/// Checks host and port as they are written, and returns the host.
fn check_authority(authority: &str) -> Result<&str, Refusal> {
    if authority.contains('@') {
        return Err(Refusal::UserInfo);
    }
    let (host, port) = match authority.find(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match host.strip_prefix('[').and_then(|address| address.strip_suffix(']')) {
        Some(address) if address.contains('%') => return Err(Refusal::ZoneId),
        Some(address) => drop(address.parse::<Ipv6Addr>().map_err(|_| Refusal::Host)?),
        None => check_host(host)?,
    }
    // Parsing would drop an empty port and zeros before a number.
    let plain = match port.strip_prefix(':') {
        Some(digits) => {
            !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    if plain { Ok(host) } else { Err(Refusal::Port) }
}

/// Checks a host that is not in brackets, as it is written.
fn check_host(host: &str) -> Result<(), Refusal> {
    if host.contains('%') {
        return Err(Refusal::EncodedHost);
    }
    if host.ends_with('.') {
        return Err(Refusal::TrailingDot);
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err(Refusal::Host);
    }
    // What ends in a number is an IPv4 address (WHATWG URL, "ends in a number checker").
    let last = host.rsplit('.').next().unwrap_or(host);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if number && host.parse::<Ipv4Addr>().is_err() {
        return Err(Refusal::AddressForm);
    }
    Ok(())
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

/// IPv4 that is not public (IANA's special-purpose registry, multicast, class E).
const IPV4: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private use"),
    (v4(100, 64, 0, 0, 10), "shared address space"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private use"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relays"),
    (v4(192, 168, 0, 0, 16), "private use"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    // With the broadcast address.
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// IPv6 that is not public, and has a name; the narrower range first.
const IPV6: [(Ipv6Net, &str); 11] = [
    (v6(0x64, 0xff9b, 1, 48), "local NAT64"),
    // Unspecified, loopback, IPv4-mapped, IPv4-compatible, SIIT.
    (v6(0, 0, 0, 8), "special addresses"),
    (v6(0x100, 0, 0, 64), "discard only"),
    (v6(0x2001, 0, 0, 23), "protocol assignments"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
    (v6(0x5f00, 0, 0, 16), "segment routing"),
    (v6(0xfc00, 0, 0, 7), "unique local"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

/// All of IPv6 that IANA hands out as global unicast; nothing public is outside.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);
const ALL_IPV6: Ipv6Net = v6(0, 0, 0, 0);
/// NAT64 (RFC 6052) carries an IPv4 address in its last 32 bits.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
/// 6to4 (RFC 3056) carries an IPv4 address in bits 16 to 47.
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);

fn refused_ipv4(address: Ipv4Addr) -> Option<(IpNet, &'static str)> {
    IPV4.iter().find(|(net, _)| net.contains(&address)).map(|&(net, what)| (net.into(), what))
}

fn refused_ipv6(address: Ipv6Addr) -> Option<(IpNet, &'static str)> {
    let named = IPV6.iter().find(|(net, _)| net.contains(&address)).copied();
    let other = || (!GLOBAL_UNICAST.contains(&address)).then_some((ALL_IPV6, "not global unicast"));
    named.or_else(other).map(|(net, what)| (net.into(), what))
}

fn carried_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    if NAT64.contains(&address) {
        Some(Ipv4Addr::from_bits(bits as u32))
    } else if SIX_TO_FOUR.contains(&address) {
        Some(Ipv4Addr::from_bits((bits >> 80) as u32))
    } else {
        None
    }
}

/// ISATAP (RFC 5214, section 6.1): an interface id of 5efe and an IPv4 address, under any prefix. Two of its bits vary.
fn is_isatap(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[4] & !0x0300 == 0 && segments[5] == 0x5efe
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
