//! API keys and what their roles may do.

use aws_lc_rs::digest;

/// SHA-256 of a whole key: what is stored of it, and how it is found.
pub fn hash(key: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
