//! The control plane.

pub mod push;
pub mod store;
