//! For recipients of Hookwire's webhooks.
//!
//! [`verify`] checks that a request comes from the sender who knows the secret, that it is unchanged, and that it is not
//! too old.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod verify;

pub use verify::{Verified, Verifier};
