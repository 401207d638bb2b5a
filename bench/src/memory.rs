//! The memory that processes have, as Linux counts it, in bytes.

use std::fs;

use anyhow::{Context as _, Result};

/// What a process has resident.
///
/// # Errors
/// When there is no such process.
pub fn resident(process: u32) -> Result<u64> {
    line(process, "VmRSS:")
}

/// The most that it has had resident.
///
/// # Errors
/// When there is no such process.
pub fn peak(process: u32) -> Result<u64> {
    line(process, "VmHWM:")
}

fn line(process: u32, name: &'static str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
