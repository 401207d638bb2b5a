//! A process of a benchmark's own, which answers what it is asked, a line each: recipients are one, so that what they cost is known and is not
//! that of whoever measures.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// Such a process, ended when this is dropped.
pub struct Asked {
    child: Child,
    lines: Mutex<Lines>,
}

struct Lines {
    to: ChildStdin,
    from: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Asked {
    /// Starts this program again with other arguments; returns its first line, too.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn start(arguments: &[&str]) -> Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("its input")?;
        let mut from = BufReader::new(child.stdout.take().context("its output")?).lines();
        let first = from.next_line().await?.context("it did not start")?;
        Ok((Self { child, lines: Mutex::new(Lines { to, from }) }, first))
    }

    /// Its number.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it, and waits for the answer.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn ask(&self, question: &str) -> Result<String> {
        let mut lines = self.lines.lock().await;
        lines.to.write_all(format!("{question}\n").as_bytes()).await?;
        lines.from.next_line().await?.context("it has ended")
    }
}

/// Is such a process, until nobody asks any more: says `first`, and then what `answer` makes of each question.
///
/// # Errors
/// When nobody listens, or `answer` fails.
pub async fn answer(first: String, mut answer: impl FnMut(&str) -> Result<String>) -> Result<()> {
    let (mut stdout, mut questions) = (tokio::io::stdout(), BufReader::new(tokio::io::stdin()).lines());
    let mut line = first;
    loop {
        stdout.write_all(format!("{line}\n").as_bytes()).await?;
        stdout.flush().await?;
        let Some(question) = questions.next_line().await? else { return Ok(()) };
        line = answer(&question)?;
    }
}
