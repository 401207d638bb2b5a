//! The data plane.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cache;
pub mod deliver;
pub mod outcome;
pub mod retry;
pub mod sign;
