//! The data plane.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod attempts;
pub mod cache;
mod dead_letter;
pub mod deliver;
pub mod dispatch;
pub mod outcome;
pub mod retry;
pub mod stage;
#[cfg(test)]
mod support;
