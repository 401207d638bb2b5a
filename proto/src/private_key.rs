//! Private keys as they are written down: PEM (RFC 7468), decoded without leaving copies of them in memory, as decoders that are made for
//! certificates do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

/// A private key, wiped when it is dropped.
pub struct PrivateKey {
    format: Format,
    der: Zeroizing<Vec<u8>>,
}

/// How it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// PKCS #8 (RFC 5958).
    Pkcs8,
    /// RSA's own (RFC 8017).
    Pkcs1,
    /// That of elliptic curves (RFC 5915).
    Sec1,
}

const FORMATS: [(&str, Format); 3] =
    [("PRIVATE KEY", Format::Pkcs8), ("RSA PRIVATE KEY", Format::Pkcs1), ("EC PRIVATE KEY", Format::Sec1)];

impl PrivateKey {
    /// The first private key in a text, whatever else is in it. `None` if there is none, or it is encrypted.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let pem = std::str::from_utf8(pem).ok()?;
        let found = FORMATS.iter().filter_map(|&(label, format)| {
            let begin = format!("-----BEGIN {label}-----");
            let at = pem.find(&begin)?;
            let rest = &pem[at + begin.len()..];
            Some((at, format, &rest[..rest.find(&format!("-----END {label}-----"))?]))
        });
        let (_, format, lines) = found.min_by_key(|(at, ..)| *at)?;
        // In one piece from the beginning: what a growing vector leaves behind is not wiped.
        let mut text = Zeroizing::new(Vec::with_capacity(lines.len()));
        text.extend(lines.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = STANDARD.decode_slice(&*text, &mut der).ok()?;
        der.truncate(length);
        Some(Self { format, der })
    }

    /// Its bytes, as TLS takes them.
    pub fn der(&self) -> PrivateKeyDer<'_> {
        match self.format {
            Format::Pkcs8 => PrivatePkcs8KeyDer::from(&self.der[..]).into(),
            Format::Pkcs1 => PrivatePkcs1KeyDer::from(&self.der[..]).into(),
            Format::Sec1 => PrivateSec1KeyDer::from(&self.der[..]).into(),
        }
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").field("format", &self.format).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    fn pem(label: &str, der: &[u8], end: &str) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----{end}{}{end}-----END {label}-----{end}", lines.join(end))
    }

    #[test]
    fn every_format_is_read_as_the_library_for_certificates_reads_it() {
        let der: Vec<u8> = (0..=255).cycle().take(1_191).collect();
        for (label, format) in FORMATS {
            for end in ["\n", "\r\n"] {
                let text =
                    pem("CERTIFICATE", b"some", end) + &pem(label, &der, end) + &pem("PRIVATE KEY", b"next", end);
                let key = PrivateKey::from_pem(text.as_bytes()).unwrap();
                assert_eq!((key.format, &key.der[..]), (format, &der[..]));
                assert_eq!(key.der(), PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap());
            }
        }
    }

    #[test]
    fn what_is_none_is_none() {
        let whole = pem("PRIVATE KEY", &[7; 48], "\n");
        for text in [
            "",
            "PRIVATE KEY",
            "-----BEGIN PRIVATE KEY-----",
            &pem("CERTIFICATE", b"some", "\n"),
            &pem("ENCRYPTED PRIVATE KEY", b"some", "\n"),
            &whole.replacen("Bw", "B*", 1),
            &whole.replace("-----END PRIVATE KEY-----", "-----END EC PRIVATE KEY-----"),
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nBwcH\n-----END RSA PRIVATE KEY-----\n",
        ] {
            assert!(PrivateKey::from_pem(text.as_bytes()).is_none(), "{text}");
        }
        assert!(PrivateKey::from_pem(&[0xff, 0xfe]).is_none());
        assert!(!format!("{:?}", PrivateKey::from_pem(whole.as_bytes())).contains('7'));
    }
}
