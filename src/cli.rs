//! The command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Delivers webhooks: publish an event once, and every subscriber gets a signed HTTP request.
#[derive(Debug, Parser)]
#[command(name = "hookwire", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Settings come from defaults, then the file (TOML), then the environment (HOOKWIRE_SECTION__FIELD), then --set section.field=value.
`hookwire config COMMAND` shows them.

Exit codes: 0 stopped as asked, 1 failed, 2 wrong settings or arguments.";

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process, with one data directory: for trying out and for development
    Dev(Dev),
    /// Run a control plane: the API, and the configuration of the nodes
    ControlPlane(Plane),
    /// Run a data-plane node: publishing, delivering, retrying
    DataPlane(Plane),
    /// Create or check the topics in Kafka
    #[command(subcommand)]
    Topics(Topics),
    /// Move every sealed secret to the newest master key, so that older ones can be taken away
    Reseal(Reseal),
    /// Receive webhooks: print and verify each, and answer as told
    Listen(Listen),
    /// Show the settings that a command would run with, without secrets
    #[command(subcommand)]
    Config(Config),
}

/// Where settings come from.
#[derive(Debug, Clone, Default, Args)]
pub struct Settings {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "HOOKWIRE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one setting, such as `--set telemetry.format=json` (may be repeated)
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    pub set: Vec<String>,
}

/// `hookwire control-plane` and `hookwire data-plane`.
#[derive(Debug, Args)]
pub struct Plane {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// Write the addresses that it listens on to this file, as JSON: for ports that are set to 0
    #[arg(long, value_name = "FILE")]
    pub listening_file: Option<PathBuf>,
}

/// `hookwire dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where everything is kept; made when it is not there
    #[arg(long, value_name = "DIRECTORY", default_value = "./hookwire-data")]
    pub data_dir: PathBuf,
    /// Address to listen on: a loopback address, since what a laptop serves here is not encrypted
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen: IpAddr,
    /// First of five ports (API, publish, push, and two for /livez and /readyz); 0 takes free ones, see DIRECTORY/listening.json
    #[arg(long, default_value_t = 7401)]
    pub port: u16,
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
}

/// `hookwire topics`.
#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Create the topics that are missing and check the others
    Apply(Settings),
    /// Check the topics, change nothing
    Check(Settings),
}

/// `hookwire reseal`.
#[derive(Debug, Args)]
pub struct Reseal {
    /// Only count what is sealed under which master key, change nothing
    #[arg(long)]
    pub check: bool,
    /// Where settings come from: those of the control plane.
    #[command(flatten)]
    pub settings: Settings,
}

/// `hookwire config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Of `hookwire dev`
    Dev(Settings),
    /// Of `hookwire control-plane`, `hookwire topics` and `hookwire reseal`
    ControlPlane(Settings),
    /// Of `hookwire data-plane`
    DataPlane(Settings),
}

/// `hookwire listen`.
#[derive(Debug, Args)]
pub struct Listen {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one and prints it
    #[arg(long, default_value_t = 7400)]
    pub port: u16,
    /// Secret (`whsec_…`) or public key (`whpk_…`) to verify with (may be repeated); others can see a secret in the list of
    /// processes, so better a file
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// File with secrets or public keys to verify with, one on each line
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Fail the first N requests of each message, then succeed
    #[arg(long, value_name = "N")]
    pub fail: Option<u32>,
    /// Status to answer with; with --fail, that of failures (500 by default)
    #[arg(long, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: Option<u16>,
    /// Answer so much later
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    pub delay: Duration,
    /// Answer 429 (or --status) and ask to be left alone for so long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub retry_after: Option<Duration>,
    /// Serve HTTPS with a certificate made for this run; its authority's is written to --ca-out
    #[arg(long, conflicts_with_all = ["cert", "key"])]
    pub tls: bool,
    /// Where --tls writes the certificate of its authority
    #[arg(long, value_name = "FILE", default_value = "hookwire-listen-ca.pem", requires = "tls")]
    pub ca_out: PathBuf,
    /// Serve HTTPS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Append each request to this file, as a line of JSON with all headers and the body in base64
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

impl Listen {
    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
