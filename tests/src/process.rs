//! One process of the binary under test, which can be killed and started again, always the same way.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::clock::Clock;

/// A process, ended when it is dropped. Its log and what it prints go to files, which are shown when a test fails.
pub struct Process {
    /// What it is called in messages.
    pub name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    printed: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Describes a process, without starting it. In `directory` lie its log, `{name}.log`, and what it prints, `{name}.out`.
    pub fn new(name: &str, program: &Path, arguments: &[String], directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            environment: Vec::new(),
            log: directory.join(format!("{name}.log")),
            printed: directory.join(format!("{name}.out")),
            child: None,
        }
    }

    /// Sets an environment variable of the process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// From its next start on it goes by this clock.
    pub fn go_by(&mut self, clock: &Clock) {
        self.environment.extend(clock.environment().map(|(name, value)| (name.to_owned(), value)));
    }

    /// Starts it. What it writes is appended to the log of its earlier lives.
    ///
    /// # Errors
    /// When it runs already or can't be started.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        let open = |file: &Path| OpenOptions::new().create(true).append(true).open(file);
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open(&self.printed)?)
            .stderr(open(&self.log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// `kill -9`, and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Lets it stand still, its connections open (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// SIGTERM, and waits for its end; `kill -9` and an error after `limit`.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        match self.ended(limit).await? {
            Some(status) => Ok(status),
            None => {
                self.kill()?;
                bail!("{} did not end within {limit:?} of SIGTERM", self.name);
            }
        }
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status()?;
        if sent.success() { Ok(()) } else { bail!("cannot signal {}", self.name) }
    }

    /// Waits for its end of itself; `None` if it still runs after `limit`.
    ///
    /// # Errors
    /// When it was not started.
    pub async fn ended(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(Some(status));
            }
            if Instant::now() > end {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Fails with the end of its log if it is no longer running, though nobody ended it.
    ///
    /// # Errors
    /// When it ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(child) = self.child.as_mut()
            && let Some(status) = child.try_wait()?
        {
            self.child = None;
            bail!("{} ended by itself with {status}:\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Lets it have so many open files at a time, those that it has among them; what it may not open fails from now on (`EMFILE`).
    ///
    /// # Errors
    /// When it does not run, or there is no `prlimit`, which Linux distributions have.
    pub fn limit_open_files(&self, limit: u32) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let arguments = [format!("--pid={}", child.id()), format!("--nofile={limit}:")];
        let status = Command::new("prlimit").args(arguments).status().context("prlimit")?;
        if status.success() { Ok(()) } else { bail!("prlimit ended with {status}") }
    }

    /// Its number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started and not ended through this handle.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// What is in its memory that it may write to, each run of pages that are not empty in one piece. `None` where the system
    /// has no `/proc`, or lets nobody look.
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&self) -> Result<Option<Vec<Vec<u8>>>> {
        const PAGE_BYTES: usize = 4096;
        let id = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?.id();
        let (maps, memory) = (fs::read_to_string(format!("/proc/{id}/maps")), File::open(format!("/proc/{id}/mem")));
        let (maps, mut memory) = match (maps, memory) {
            (Ok(maps), Ok(memory)) => (maps, memory),
            (Err(error), _) | (_, Err(error))
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
            {
                return Ok(None);
            }
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        };
        let mut runs = vec![Vec::new()];
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let (from, rest) = line.split_once('-').context("a range has two ends")?;
            let to = rest.split_once(' ').context("a range has an end")?.0;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            for page in (from..to).step_by(PAGE_BYTES) {
                let mut bytes = [0; PAGE_BYTES];
                memory.seek(SeekFrom::Start(page))?;
                // What was mapped a moment ago need not be now.
                let is_used = memory.read_exact(&mut bytes).is_ok() && bytes.iter().any(|byte| *byte != 0);
                match runs.last_mut() {
                    Some(run) if is_used => run.extend_from_slice(&bytes),
                    Some(run) if run.is_empty() => {}
                    _ => runs.push(Vec::new()),
                }
            }
            runs.push(Vec::new());
        }
        Ok(Some(runs))
    }

    /// All that it has written in all of its lives.
    pub fn output(&self) -> String {
        let text = |file: &Path| fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        [&self.printed, &self.log].map(|file| text(file).unwrap_or_default()).concat()
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- the end of what {} wrote ---\n{}\n", self.name, self.tail());
        }
    }
}
