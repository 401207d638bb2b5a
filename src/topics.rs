//! `hookwire topics`: creates and checks the topics in Kafka, as the control plane's settings have them.

use std::io::{self, Write as _};

use hookwire_log::kafka::topics;
use hookwire_log::{Error, Layout};

use crate::process::{self, WrongSettings};
use crate::{cli, settings};

/// Runs the subcommand.
pub async fn run(args: cli::Topics) -> anyhow::Result<()> {
    let (cli::Topics::Apply(sources) | cli::Topics::Check(sources)) = &args;
    let settings: settings::ControlPlane = process::configure(sources.clone())?;
    let layout = Layout::from(settings.log);
    layout.validate().map_err(classify)?;
    let mut stdout = io::stdout();
    match args {
        cli::Topics::Apply(_) => {
            for report in topics::apply(&settings.kafka, &layout).await.map_err(classify)? {
                writeln!(stdout, "{report}")?;
            }
        }
        cli::Topics::Check(_) => {
            topics::check(&settings.kafka, &layout).await.map_err(classify)?;
            writeln!(stdout, "all {} topics are as the settings say", layout.topics().len())?;
        }
    }
    Ok(())
}

fn classify(error: Error) -> anyhow::Error {
    match error {
        Error::Setting { .. } => WrongSettings::from(error),
        error => error.into(),
    }
}
