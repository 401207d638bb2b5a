use super::*;
use proptest::prelude::*;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The ranges again, as the registries write them: the code's own tables must not be their own proof.
const RANGES: [&str; 26] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/8",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The range that an address is refused for.
fn refused_for(address: IpAddr) -> Option<IpNet> {
    match Policy::default().check_address(address) {
        Ok(()) => None,
        Err(Refusal::Address { range, .. }) => Some(range),
        Err(other) => panic!("{address}: {other}"),
    }
}

fn step(address: IpAddr, by: i128) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::try_from(i128::from(a.to_bits()) + by).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(a) if by < 0 => a.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[test]
fn each_range_is_refused_from_its_first_to_its_last_address_and_no_further() {
    for text in RANGES {
        let range: IpNet = text.parse().expect("a range");
        let (first, last) = match range {
            IpNet::V4(net) => (IpAddr::from(net.network()), IpAddr::from(net.broadcast())),
            IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
        };
        assert_eq!(refused_for(first), Some(range), "first of {text}");
        assert_eq!(refused_for(last), Some(range), "last of {text}");
        for neighbour in [step(first, -1), step(last, 1)].into_iter().flatten() {
            assert_ne!(refused_for(neighbour), Some(range), "{neighbour} beside {text}");
            let in_another = RANGES.iter().any(|other| other.parse::<IpNet>().expect("a range").contains(&neighbour));
            let unassigned = neighbour.is_ipv6() && (neighbour < address("2000::") || neighbour >= address("4000::"));
            assert_eq!(refused_for(neighbour).is_some(), in_another || unassigned, "{neighbour} beside {text}");
        }
    }
}

#[test]
fn public_addresses_pass() {
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "223.255.255.255",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "3ffe:ffff::1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ] {
        assert_eq!(refused_for(address(public)), None, "{public}");
    }
}

#[test]
fn hidden_addresses_are_refused() {
    for hidden in [
        "255.255.255.255",
        "169.254.169.254",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::8.8.8.8",
        "::ffff:0:10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::0:0",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b:0:0:0:1::",
        "2001::1",
        "2001:20::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2002:c0a8:101::",
        "fd00:ec2::254",
        "2606:4700::5efe:808:808",
        "2606:4700::200:5efe:a00:1",
        "2606:4700::100:5efe:a00:1",
        "2002:808:808:0:0:5efe:a00:1",
        "4000::1",
        "64:ff9a:ffff:ffff::",
    ] {
        assert!(refused_for(address(hidden)).is_some(), "{hidden}");
    }
}

#[test]
fn an_operator_opens_what_a_cidr_says_and_no_more() {
    let policy = Policy::new(vec!["10.1.0.0/16".parse().expect("a range"), "::1/128".parse().expect("a range")]);
    for open in ["10.1.0.0", "10.1.255.255", "::1", "64:ff9b::10.1.0.1"] {
        assert_eq!(policy.check_address(address(open)), Ok(()), "{open}");
    }
    for closed in ["10.0.255.255", "10.2.0.0", "127.0.0.1", "::", "::2", "::ffff:10.1.0.1"] {
        assert!(policy.check_address(address(closed)).is_err(), "{closed}");
    }
}

#[test]
fn plain_urls_pass_as_they_are_written() {
    let policy = Policy::default();
    for (text, sent) in [
        ("https://example.com", "https://example.com/"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com/hook?a=b&c=%2F", "https://example.com/hook?a=b&c=%2F"),
        ("HTTPS://Example.COM:443/Hook", "https://example.com/Hook"),
        ("https://a_b.example.com:8443/", "https://a_b.example.com:8443/"),
        ("https://xn--mnchen-3ya.example/", "https://xn--mnchen-3ya.example/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:0::1111]:8443/x", "https://[2606:4700::1111]:8443/x"),
        ("https://example.com/a@b:c//d", "https://example.com/a@b:c//d"),
    ] {
        assert_eq!(policy.check_text(text).map(String::from), Ok(sent.to_owned()), "{text}");
    }
}

#[test]
fn urls_that_parsing_would_read_otherwise_are_refused() {
    let scheme = || Refusal::Scheme { expected: "https" };
    for (text, refusal) in [
        ("", Refusal::Malformed),
        ("example.com", Refusal::Malformed),
        ("//example.com/", Refusal::Malformed),
        ("https:example.com", Refusal::Malformed),
        ("https:/example.com", Refusal::Malformed),
        ("https://", Refusal::Host),
        ("https:///example.com", Refusal::Host),
        ("https://?example.com", Refusal::Host),
        ("http://example.com/", scheme()),
        ("ftp://example.com/", scheme()),
        ("file:///etc/passwd", scheme()),
        ("gopher://example.com/", scheme()),
        ("data:https://example.com/", scheme()),
        (" https://example.com/", Refusal::Characters),
        ("https://example.com/ ", Refusal::Characters),
        ("https://exa\tmple.com/", Refusal::Characters),
        ("https://exa\nmple.com/", Refusal::Characters),
        ("https://example.com/\u{0}", Refusal::Characters),
        ("https:\\\\example.com\\", Refusal::Characters),
        ("https://example.com\\@127.0.0.1/", Refusal::Characters),
        ("https://bücher.example/", Refusal::Characters),
        ("https://127。0。0。1/", Refusal::Characters),
        ("https://①②⑦.0.0.1/", Refusal::Characters),
        ("https://loc\u{ad}alhost/", Refusal::Characters),
        ("https://user@example.com/", Refusal::UserInfo),
        ("https://user:pass@example.com/", Refusal::UserInfo),
        ("https://@example.com/", Refusal::UserInfo),
        ("https://example.com@127.0.0.1/", Refusal::UserInfo),
        ("https://example.com:443@127.0.0.1/", Refusal::UserInfo),
        ("https://example.com/#a", Refusal::Fragment),
        ("https://example.com#@127.0.0.1/", Refusal::Fragment),
        ("https://2130706433/", Refusal::AddressForm),
        ("https://017700000001/", Refusal::AddressForm),
        ("https://0x7f000001/", Refusal::AddressForm),
        ("https://0X7F.1/", Refusal::AddressForm),
        ("https://0x/", Refusal::AddressForm),
        ("https://127.1/", Refusal::AddressForm),
        ("https://127.0.1/", Refusal::AddressForm),
        ("https://0177.0.0.1/", Refusal::AddressForm),
        ("https://127.0.0.01/", Refusal::AddressForm),
        ("https://8.8.8.010/", Refusal::AddressForm),
        ("https://0x8.8.8.8/", Refusal::AddressForm),
        ("https://256.1.1.1/", Refusal::AddressForm),
        ("https://example.1/", Refusal::AddressForm),
        ("https://%31%32%37.0.0.1/", Refusal::EncodedHost),
        ("https://%6cocalhost/", Refusal::EncodedHost),
        ("https://example.com%2f@127.0.0.1/", Refusal::UserInfo),
        ("https://example.com./", Refusal::TrailingDot),
        ("https://localhost./", Refusal::TrailingDot),
        ("https://127.0.0.1./", Refusal::TrailingDot),
        ("https://[fe80::1%25eth0]/", Refusal::ZoneId),
        ("https://[fe80::1%eth0]/", Refusal::ZoneId),
        ("https://[::1/", Refusal::Host),
        ("https://::1/", Refusal::Host),
        ("https://[127.0.0.1]/", Refusal::Host),
        ("https://a..b/", Refusal::Host),
        ("https://.example.com/", Refusal::Host),
        ("https://exa!mple.com/", Refusal::Host),
        ("https://localhost/", Refusal::Localhost),
        ("https://LOCALHOST:8443/", Refusal::Localhost),
        ("https://a.b.localhost/", Refusal::Localhost),
        ("https://example.com:/", Refusal::Port),
        ("https://example.com:0/", Refusal::Port),
        ("https://example.com:0443/", Refusal::Port),
        ("https://example.com:65536/", Refusal::Port),
        ("https://example.com:+443/", Refusal::Port),
        ("https://example.com:443:80/", Refusal::Port),
        ("https://[2606:4700::1111]443/", Refusal::Port),
        ("https://example.com/a/../b", Refusal::Rewritten),
        ("https://example.com/./b", Refusal::Rewritten),
        ("https://example.com/%2e%2e/b", Refusal::Rewritten),
        ("https://example.com/<b>", Refusal::Rewritten),
    ] {
        assert_eq!(Policy::default().check_text(text), Err(refusal), "{text}");
    }
    let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
    assert_eq!(Policy::default().check_text(&long), Err(Refusal::TooLong));
}

#[test]
fn literal_addresses_are_judged_like_resolved_ones() {
    for host in
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"]
    {
        let text = format!("https://{host}/");
        let refusal = Policy::default().check_text(&text).expect_err(&text);
        assert_eq!(refusal.reason(), "URL_ADDRESS", "{text}");
        let url = Url::parse(&text).expect("a URL");
        assert_eq!(Policy::default().check_url(&url), Err(refusal), "{text}");
    }
}

#[test]
fn a_parsed_url_is_refused_for_what_parsing_has_hidden() {
    for text in ["https://2130706433/", "https://0x7f.1/", "https://%31%32%37.0.0.1/", "https://①②⑦.0.0.1/"] {
        let url = Url::parse(text).expect("a URL");
        assert_eq!(Policy::default().check_url(&url).map_err(|refusal| refusal.reason()), Err("URL_ADDRESS"), "{text}");
    }
}

#[test]
fn http_and_loopback_and_own_ports_are_the_operators_to_say() {
    let loopback: Vec<IpNet> = vec!["127.0.0.0/8".parse().expect("a range"), "::1/128".parse().expect("a range")];
    let policy = Policy::new(loopback).with_http(true).with_own_ports(vec![50051]);
    for text in ["http://localhost:8080/", "https://a.localhost/", "http://127.0.0.1/", "https://[::1]:8443/"] {
        assert!(policy.check_text(text).is_ok(), "{text}");
    }
    assert_eq!(policy.check_text("https://127.0.0.1:50051/"), Err(Refusal::Port));
    assert_eq!(policy.check_text("ftp://localhost/"), Err(Refusal::Scheme { expected: "https or http" }));
    assert_eq!(policy.check_text("https://10.0.0.1/").map_err(|refusal| refusal.reason()), Err("URL_ADDRESS"));
}

proptest! {
    #[test]
    fn what_passes_as_text_passes_as_url_and_again(text in "https?://[a-z0-9.:@%\\[\\]x-]{0,30}(/[ -~]{0,10})?") {
        let policy = Policy::default();
        if let Ok(url) = policy.check_text(&text) {
            prop_assert_eq!(policy.check_url(&url), Ok(()));
            prop_assert_eq!(policy.check_text(url.as_str()), Ok(url.clone()));
        }
    }

    /// Whatever resolvers and clients read as an address that is not written as one (inet_aton, WHATWG URL): it is refused, public or not.
    #[test]
    fn an_address_in_disguise_never_passes(bits in any::<u32>(), hex in any::<bool>(), port in prop::option::of(1..65_536u32)) {
        let [a, b, c, d] = bits.to_be_bytes();
        let number = |number: u32| if hex { format!("0x{number:x}") } else { format!("0{number:o}") };
        let plain = Ipv4Addr::from(bits);
        let first = plain.to_string().as_bytes()[0];
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        for disguise in [
            bits.to_string(),
            number(bits),
            number(bits).to_uppercase(),
            format!("{a}.{}", bits & 0x00ff_ffff),
            format!("{a}.{b}.{}", bits & 0xffff),
            format!("{a}.{}", number(bits & 0x00ff_ffff)),
            format!("{}.{b}.{c}.{d}", number(a.into())),
            format!("{a}.{b}.{c}.{}", number(d.into())),
            format!("{plain}."),
            format!("%{first:x}{}", &plain.to_string()[1..]),
            format!("user@{plain}"),
            format!("[::ffff:{plain}]"),
            format!("[::{plain}]"),
            format!("[fe80::1%25{plain}]"),
        ] {
            let url = format!("https://{disguise}{port}/");
            prop_assert!(Policy::default().check_text(&url).is_err(), "{url}");
        }
        let is_public = Policy::default().check_address(plain.into()).is_ok();
        prop_assert_eq!(Policy::default().check_text(&format!("https://{plain}{port}/")).is_ok(), is_public);
    }

    #[test]
    fn an_address_inside_ipv6_is_judged_as_itself(bits in any::<u32>()) {
        let inner = Ipv4Addr::from_bits(bits);
        let expected = refused_for(inner.into());
        let nat64 = Ipv6Addr::from_bits(0x0064_ff9b_u128 << 96 | u128::from(bits));
        prop_assert_eq!(refused_for(nat64.into()), expected);
        let six_to_four = Ipv6Addr::from_bits(0x2002_u128 << 112 | u128::from(bits) << 80 | 1);
        prop_assert_eq!(refused_for(six_to_four.into()), expected);
        prop_assert!(refused_for(inner.to_ipv6_mapped().into()).is_some());
    }
}
