//! A client certificate and its private key, in PEM: whether they are what they should be, and belong together.

use hookwire_proto::private_key::PrivateKey;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
const MAX_CERTIFICATES: usize = 8;
const MAX_KEY_BYTES: usize = 8 * 1024;

/// Which part is wrong, and what it must be.
pub(super) type Wrong = (&'static str, &'static str);

/// Checks a certificate with what leads to its authority, and the private key of the first.
pub(super) fn check(certificate: &str, key: &str) -> Result<(), Wrong> {
    const CERTIFICATE: Wrong = (
        "certificate",
        "must be 1 to 8 certificates in PEM (`-----BEGIN CERTIFICATE-----`), at most 16 KiB, the client's first",
    );
    const KEY: Wrong = (
        "private_key",
        "must be a private key in PEM that is not encrypted (`-----BEGIN PRIVATE KEY-----`): RSA, ECDSA or Ed25519, at most 8 KiB",
    );
    if certificate.len() > MAX_CERTIFICATE_BYTES {
        return Err(CERTIFICATE);
    }
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().map_err(|_| CERTIFICATE)?;
    if !(1..=MAX_CERTIFICATES).contains(&certificates.len()) {
        return Err(CERTIFICATE);
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(KEY);
    }
    let key = PrivateKey::from_pem(key.as_bytes()).ok_or(KEY)?;
    let key = any_supported_type(&key.der()).map_err(|_| KEY)?;
    match CertifiedKey::new(certificates, key).keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(Error::InconsistentKeys(_)) => Err(("private_key", "is not the key of the certificate")),
        Err(_) => Err(CERTIFICATE),
    }
}
