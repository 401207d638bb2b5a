//! The README's steps as they are written there, by the tools that they name.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hookwire_tests::cluster::{self, Cluster, Options, Shape};
use hookwire_tests::machine::{free_ports, hookwire, root, tool};
use hookwire_tests::process::Process;
use hookwire_tests::wait_until;

/// Runs a command line with the tools that `scripts/test` installed.
fn shell(command: &str, directory: &Path) -> Result<String> {
    let tools = tool("bin")?;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-euc", command])
        .current_dir(directory)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command}\nended with {}: {error}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Every command that `text` shows and that begins with `program`, over as many lines as its quotes are open.
fn commands(text: &str, program: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if !line.trim_start().starts_with(program) {
            continue;
        }
        let mut command = line.trim_start().to_owned();
        while command.matches('\'').count() % 2 == 1 || command.ends_with('\\') {
            let Some(next) = lines.next() else { break };
            command = format!("{command}\n{next}");
        }
        commands.push(command);
    }
    commands
}

/// The README's blocks of commands.
fn blocks() -> Result<String> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    Ok(readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_readme_names_the_two_commands() -> Result<()> {
    let blocks = blocks()?;
    let mut lines = blocks.lines();
    ensure!(lines.next() == Some("cargo run --release -- dev"), "the first command is how to run it: {blocks}");
    ensure!(lines.any(|line| line == "scripts/test"), "and scripts/test is how to test it: {blocks}");
    Ok(())
}

/// What `dev` prints is what the README tells to do next: a subscription and an event, for the receiver that it names.
async fn steps(cluster: &mut Cluster) -> Result<()> {
    let output = cluster.output();
    let listen = commands(&output, "")
        .into_iter()
        .find(|line| line.contains(" listen --secret-file"))
        .context("dev says how to receive")?;
    let grpcurl = commands(&output, "grpcurl");
    ensure!(grpcurl.len() == 2, "dev shows a subscription and an event: {grpcurl:?}");

    // On a port of our own, for whatever stands at the one that it names.
    let port = free_ports(1);
    let secret_file = listen.split_whitespace().last().context("the file with the secret")?;
    let directory = cluster.directory.path().to_owned();
    let arguments = ["listen", "--secret-file", secret_file, "--port", &port.to_string()].map(str::to_owned);
    let mut receiver = Process::new("listen", &hookwire()?, &arguments, &directory);
    receiver.start()?;
    wait_until("the receiver listens", Duration::from_secs(10), async || {
        receiver.check()?;
        Ok(cluster::listens(&format!("127.0.0.1:{port}")))
    })
    .await?;
    for command in &grpcurl {
        shell(&command.replace("127.0.0.1:7400/", &format!("127.0.0.1:{port}/")), &directory)?;
    }
    wait_until("the event arrives and is verified", Duration::from_secs(20), async || {
        Ok(receiver.output().contains("invoice.paid"))
    })
    .await
    .with_context(|| receiver.output())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_does_the_steps_that_dev_shows() {
    cluster::with(Shape::Embedded, Options::default(), steps).await;
}

/// Reflection and health on both planes, so that tools need no file.
async fn tools_need_no_file(cluster: &mut Cluster) -> Result<()> {
    let trust = match &cluster.callers_trust {
        Some(file) => format!("-cacert {}", file.display()),
        None => "-plaintext".to_owned(),
    };
    let api = cluster.control_planes[0].url.split("//").nth(1).unwrap_or_default().to_owned();
    let publish = cluster.publish_address().to_owned();
    let directory = cluster.directory.path();
    for (address, services) in [
        (api, &["TenantService", "EventTypeService", "SubscriptionService", "ApiKeyService"][..]),
        (publish, &["PublishService"]),
    ] {
        let listed = shell(&format!("grpcurl {trust} {address} list"), directory)?;
        for service in services {
            ensure!(listed.contains(&format!("hookwire.v1.{service}")), "{address} lists {listed}");
        }
        let health = shell(&format!("grpcurl {trust} {address} grpc.health.v1.Health/Check"), directory)?;
        ensure!(health.contains("SERVING"), "{address} says {health}");
        // Errors as people read them.
        let refused = shell(&format!("grpcurl {trust} {address} describe hookwire.v1.{}", services[0]), directory)?;
        ensure!(refused.contains("rpc "), "{refused}");
    }
    Ok(())
}

hookwire_tests::on_both_shapes!(reflection, Options::default(), tools_need_no_file);
