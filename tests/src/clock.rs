//! A clock that is moved under a running process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::machine::root;

/// The time of day of one process, which a test may move.
pub struct Clock {
    library: PathBuf,
    seconds: PathBuf,
}

impl Clock {
    /// A clock that is right; its files lie in `directory`.
    ///
    /// # Errors
    /// When there is no C compiler, which `scripts/test` installs.
    pub fn new(directory: &Path) -> Result<Self> {
        let clock = Self { library: directory.join("clock.so"), seconds: directory.join("clock-seconds") };
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&clock.library)
            .arg(root().join("tests/src/clock.c"))
            .output()
            .context("cc")?;
        if !output.status.success() {
            bail!("cc: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::fs::write(&clock.seconds, 0_i64.to_ne_bytes())?;
        Ok(clock)
    }

    /// What a process has in its environment that goes by it.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD", text(&self.library)), ("HOOKWIRE_TEST_CLOCK", text(&self.seconds))]
    }

    /// From now on it is ahead by so many seconds, or behind.
    ///
    /// # Errors
    /// When its file can't be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        use std::io::Write as _;
        // Not truncated: the process has it mapped.
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.seconds)?;
        Ok(file.write_all(&seconds.to_ne_bytes())?)
    }
}
