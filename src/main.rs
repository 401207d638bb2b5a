//! The binary `hookwire`: each subcommand is a recipe: configure, build, bind, spawn, wait, drain with a deadline.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;
mod config;
mod control_plane;
mod data_plane;
mod dev;
mod listen;
mod process;
mod reseal;
mod settings;
mod telemetry;
mod topics;
mod traces;

/// A delivery makes and drops hundreds of small pieces of memory, on whichever thread: the system's allocator takes a quarter of a node's time for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // One provider of cryptography for all of TLS, chosen before any of it is used.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nothing has installed a provider before");
    process::exit_code(process::block_on(run(cli)))
}

async fn run(cli: cli::Cli) -> anyhow::Result<()> {
    match cli.command {
        cli::Command::Dev(args) => dev::run(args).await,
        cli::Command::ControlPlane(args) => control_plane::run(args).await,
        cli::Command::DataPlane(args) => data_plane::run(args).await,
        cli::Command::Topics(args) => topics::run(args).await,
        cli::Command::Reseal(args) => reseal::run(args).await,
        cli::Command::Listen(args) => listen::run(args).await,
        cli::Command::Config(args) => settings::show(args),
    }
}
