//! What benchmarks share. Each is a binary in `src/bin`, which prints a table for people and a line of JSON for programs.
//!
//! * [`load`]: what is published, and when · [`tenant`]: for whom · [`asked`]: recipients, as processes of their own
//! * [`cpu`]: the time that processes have used
//! * [`report`]: figures, as a table and as JSON

pub mod asked;
pub mod cpu;
pub mod load;
pub mod report;
pub mod tenant;

/// URL of the PostgreSQL that `scripts/bench` has started.
///
/// # Errors
/// When something else has started this.
pub fn postgres() -> anyhow::Result<String> {
    use anyhow::Context as _;
    std::env::var("HOOKWIRE_TEST_POSTGRES").context("there is no PostgreSQL: start this by scripts/bench")
}
