//! What benchmarks share. Each is a binary in `src/bin`, which prints a table for people and a line of JSON for programs.
//!
//! * [`cpu`]: the time that processes have used
//! * [`report`]: figures, as a table and as JSON

pub mod cpu;
pub mod report;

/// URL of the PostgreSQL that `scripts/bench` has started.
///
/// # Errors
/// When something else has started this.
pub fn postgres() -> anyhow::Result<String> {
    use anyhow::Context as _;
    std::env::var("HOOKWIRE_TEST_POSTGRES").context("there is no PostgreSQL: start this by scripts/bench")
}
