//! Between attempts.

pub mod schedule;
