//! Logs, by `tracing`, to standard error: what the program says of itself. Standard output is for what it was asked for.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// What is logged by default.
const QUIET: &str = "info,fjall=warn,lsm_tree=warn,sea_orm_migration=warn,sqlx=warn";

/// How the program logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `text` for people, `json` (one object on each line) for machines. `text` by default.
    pub format: Format,
    /// What is logged, as directives of `tracing`; by default `info`, and of the libraries that talk much `warn`. Such as
    /// `info,hookwire_data_plane=debug` for more of one part.
    pub filter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, filter: QUIET.into() }
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A line of text.
    Text,
    /// A JSON object on a line.
    Json,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is none.
    #[error(
        "telemetry.filter: `{filter}` is no filter ({source}); write a level such as `info`, or `info,hookwire_data_plane=debug`"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Why it is none.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// It is set up already.
    #[error(transparent)]
    Again(#[from] TryInitError),
}

/// Sets the process's log up, once.
///
/// # Errors
/// [`Error::Filter`] for a wrong setting.
pub fn init(settings: &Settings) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|source| Error::Filter { filter: settings.filter.clone(), source })?;
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        Format::Text => {
            let colours = io::stderr().is_terminal();
            registry.with(tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours)).try_init()?;
        }
        Format::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(layer).try_init()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_with_what_to_write() {
        let settings = Settings { filter: "loud=[".into(), ..Settings::default() };
        let error = init(&settings).expect_err("no filter").to_string();
        assert!(error.starts_with("telemetry.filter: `loud=[`") && error.contains("`info`"), "{error}");
    }
}
