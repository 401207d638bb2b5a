//! The data plane.

pub mod cache;
pub mod deliver;
