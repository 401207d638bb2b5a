//! URLs and addresses that requests may go to ([`hookwire_proto::egress`]): what passes is sent as it is written, to where it says, and nowhere
//! near this machine or its network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hookwire_proto::egress::{MAX_URL_BYTES, Policy};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Position, Url};

use crate::Target;

/// The input is a URL; its first bytes are also addresses.
pub const TARGET: Target = Target {
    name: "urls",
    check,
    dictionary: &[
        "https://",
        "http://",
        "HTTPS://",
        "//",
        "/",
        "/hook",
        "?",
        "?a=b",
        "#",
        "@",
        "user:password@",
        ":",
        ":443",
        ":0443",
        ":80",
        ":0",
        ":65535",
        "[",
        "]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%25eth0]",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "10.0.0.1",
        "93.184.216.34",
        "[2606:2800:220:1::1]",
        "localhost",
        "localhost.",
        ".",
        "..",
        "/../",
        "example.com",
        "xn--bcher-kva.example",
        "a_b.example",
        "%31",
        "%2e",
        "%",
        "\\",
        " ",
        "\t",
        "\n",
        "é",
        "。",
        "①",
        "\0",
        "[2002:7f00:1::]",
        "[2001:db8::5efe:a00:1]",
        "*",
        "'",
        "<",
        "{",
        "|",
        "^",
        "`",
    ],
};

/// Checks a URL with three policies, and addresses.
///
/// # Panics
/// If something passes that must not, or would be sent otherwise than it is written.
pub fn check(data: &[u8]) {
    let everything: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
    let usual = Policy::default();
    let plain = Policy::default().with_http(true);
    let open = Policy::new(everything.to_vec()).with_http(true);
    let text = &*String::from_utf8_lossy(data);
    if let Ok(url) = usual.check_text(text) {
        assert_eq!(url.scheme(), "https");
        assert_eq!(plain.check_text(text).as_ref(), Ok(&url), "{text:?} passes only while http is refused");
    }
    if let Ok(url) = plain.check_text(text) {
        assert_eq!(open.check_text(text).as_ref(), Ok(&url), "{text:?} passes only while less is allowed");
        match url.host().expect("it has one") {
            Host::Ipv4(address) => assert!(is_far(address.into()), "{text:?} is near"),
            Host::Ipv6(address) => assert!(is_far(address.into()), "{text:?} is near"),
            Host::Domain(host) => assert!(!format!(".{host}").ends_with(".localhost"), "{text:?} is near"),
        }
    }
    for policy in [usual, plain, open] {
        if let Ok(url) = policy.check_text(text) {
            assert_eq!(policy.check_url(&url), Ok(()), "{text:?} is refused when it is used");
            // What is as long as can be may be written without the `/` of an empty path.
            if url.as_str().len() <= MAX_URL_BYTES {
                assert_eq!(policy.check_text(url.as_str()), Ok(url.clone()), "{url} is refused though {text:?} passes");
            }
            sent(text, &url);
        }
        addresses(&policy, data);
    }
}

/// What is sent is what is written, and every library reads it so.
fn sent(text: &str, url: &Url) {
    assert!(text.len() <= MAX_URL_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic()));
    let (scheme, rest) = text.split_once("://").expect("an absolute URL");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    assert!(!authority.contains('@') && !text.contains(['#', '\\']), "{text:?} hides something");
    assert_eq!(scheme.to_ascii_lowercase(), url.scheme());
    let sent = &url[Position::BeforePath..];
    assert!(sent == path || sent.strip_prefix('/') == Some(path), "{path:?} is sent as {sent:?}");
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().expect("a number"),
        _ => {
            if url.scheme() == "https" {
                443
            } else {
                80
            }
        }
    };
    assert_eq!(url.port_or_known_default(), Some(port), "of {text:?}");
    // What is asked for is what hyper is told, whose own parser is another.
    for written in [text, url.as_str()] {
        let uri: http::Uri = written.parse().unwrap_or_else(|error| panic!("{written:?} is no URI: {error}"));
        let host = uri.host().expect("it has one").to_ascii_lowercase();
        match url.host().expect("it has one") {
            Host::Domain(name) => assert_eq!(name, host, "of {written:?}"),
            Host::Ipv4(address) => assert_eq!(host.parse(), Ok(address), "of {written:?}"),
            Host::Ipv6(address) => assert_eq!(host.trim_matches(['[', ']']).parse(), Ok(address), "of {written:?}"),
        }
        assert_eq!(uri.port_u16().unwrap_or(port), port, "of {written:?}");
    }
}

/// The first bytes as addresses: one that carries another is judged as that.
fn addresses(policy: &Policy, data: &[u8]) {
    let mut bytes = [0; 16];
    let count = data.len().min(16);
    bytes[..count].copy_from_slice(&data[..count]);
    let v6 = Ipv6Addr::from(bytes);
    let v4 = Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]);
    let passes = |address: IpAddr| policy.check_address(address).is_ok();
    for address in [v6.into(), v4.into()] {
        let allowed = passes(IpAddr::from(Ipv6Addr::LOCALHOST));
        assert!(allowed || !passes(address) || is_far(address), "{address} passes");
    }
    let [a, b] = [u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])];
    assert_eq!(passes(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b).into()), passes(v4.into()), "{v4} in NAT64");
    assert_eq!(passes(Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1).into()), passes(v4.into()), "{v4} in 6to4");
    assert!(passes(v4.into()) || !passes(v4.to_ipv6_mapped().into()), "{v4} passes in IPv6");
}

/// By what the standard library knows of addresses: less than the registries, but from another hand.
fn is_far(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let near =
                v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.octets()[0] == 0;
            !near && !v4.is_broadcast() && !v4.is_documentation() && !v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            let near = v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local();
            !near && !v6.is_multicast() && v6.to_ipv4_mapped().is_none_or(|v4| is_far(v4.into()))
        }
    }
}
