//! The data plane.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auth;
pub mod cache;
pub mod deliver;
pub mod error;
pub mod publish;
pub mod trace;
