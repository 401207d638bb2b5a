//! The binary.

mod config;
mod telemetry;

fn main() {}
