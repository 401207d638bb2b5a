//! control-plane

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod push;
