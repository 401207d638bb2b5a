//! A process whose clock is off.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::machine::root;

/// The variable that says by how many seconds.
pub const SECONDS: &str = "HOOKWIRE_TEST_CLOCK_SECONDS";

/// The library that does it, to be preloaded: compiled when it is needed.
///
/// # Errors
/// When there is no C compiler, which `scripts/test` installs.
pub fn library() -> Result<PathBuf> {
    let (source, target) = (root().join("tests/src/clock.c"), root().join("target/tmp"));
    std::fs::create_dir_all(&target)?;
    // Tests may do this at the same time: each has a file of its own.
    let library = target.join(format!("clock-{}.so", std::process::id()));
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(source)
        .output();
    let output = output.context("cc")?;
    if !output.status.success() {
        bail!("cc: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(library)
}
