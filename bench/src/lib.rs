//! What benchmarks share. Each is a binary in `src/bin`, which prints a table for people and a line of JSON for programs.
//!
//! * [`cpu`]: the time that processes have used
//! * [`report`]: figures, as a table and as JSON

pub mod cpu;
pub mod report;
