//! What benchmarks share. Each is a binary in `src/bin`, which prints a table for people and a line of JSON for programs.
//!
//! * [`load`]: what is published, and when · [`tenant`]: for whom
//! * [`hosts`]: where recipients are · [`asked`]: as processes of their own
//! * [`progress`]: how far stages have got
//! * [`cpu`]: the time that processes have used · [`memory`]: what they have
//! * [`report`]: figures, as a table and as JSON

pub mod asked;
pub mod cpu;
pub mod hosts;
pub mod load;
pub mod memory;
pub mod progress;
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
