//! Figures, as a table for people and as JSON for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value};

/// The figures of a benchmark.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
}

impl Report {
    /// A figure: what it is, its name in JSON, its value, its unit.
    pub fn add(&mut self, what: &str, name: &str, value: f64, unit: &str) {
        let digits = match value.abs() {
            value if value >= 100.0 => 0,
            value if value >= 1.0 => 1,
            _ => 3,
        };
        self.rows.push((what.to_owned(), format!("{value:.digits$} {unit}")));
        self.json.insert(name.to_owned(), value.into());
    }

    /// A figure of several runs: its median, and in parentheses the least and the most.
    pub fn spread(&mut self, what: &str, name: &str, values: impl IntoIterator<Item = f64>) {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else { return };
        let median = values[values.len() / 2];
        self.rows.push((what.to_owned(), format!("{median:.2} ({least:.2} to {most:.2})")));
        self.json.insert(name.to_owned(), values.clone().into());
    }

    /// Prints both.
    ///
    /// # Errors
    /// When nobody reads it.
    pub fn print(&self) -> io::Result<()> {
        let width = self.rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
        let mut stdout = io::stdout().lock();
        for (what, value) in &self.rows {
            writeln!(stdout, "{what:width$}  {value:>28}")?;
        }
        writeln!(stdout, "{}", Value::Object(self.json.clone()))?;
        stdout.flush()
    }
}

/// The quantile `q` (0 to 1) of times, which are sorted by this.
pub fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    // Of a few thousand: exact.
    let index = (last as f64 * q).ceil() as usize;
    times.get(index).copied().unwrap_or_default()
}

/// Says what goes on, to whoever waits.
pub fn say(text: &str) {
    // Whoever does not listen misses nothing.
    drop(writeln!(io::stderr(), "{text}"));
}
