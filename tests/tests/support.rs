//! The support itself: a receiver records and does as it is told, and the verifiers refuse what they should. What judges
//! others must be seen to fail.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hookwire_tests::certificates::Authority;
use hookwire_tests::receiver::{Behaviour, Receiver};
use hookwire_tests::verifier::{Expectation, Verifiers};
use jsonwebtoken::{EncodingKey, Header, encode};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

fn client(authority: &Authority) -> Result<reqwest::Client> {
    let certificate = reqwest::Certificate::from_pem(&std::fs::read(&authority.certificate)?)?;
    Ok(reqwest::Client::builder().add_root_certificate(certificate).build()?)
}

/// Sends a request signed by the reference library, with a token that expires at `expires`, and returns the status.
async fn send(client: &reqwest::Client, receiver: &Receiver, path: &str, body: &str, expires: i64) -> Result<u16> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let signature = standardwebhooks::Webhook::new(SECRET)?.sign("msg_1", i64::try_from(now)?, body.as_bytes())?;
    let key = EncodingKey::from_secret(&BASE64_STANDARD.decode(&SECRET["whsec_".len()..])?);
    let token = encode(&Header::default(), &serde_json::json!({"aud": receiver.origin(), "exp": expires}), &key)?;
    let request = client
        .post(receiver.url(path))
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", now)
        .header("webhook-signature", signature)
        .bearer_auth(token)
        .body(body.to_owned());
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn the_verifiers_accept_what_is_right_and_refuse_what_is_not() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("recipients", directory.path())?;
    let receiver = Receiver::start(&authority, directory.path()).await?;
    let client = client(&authority)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let now = i64::try_from(now)?;
    assert_eq!(send(&client, &receiver, "/good", r#"{"a":"ü"}"#, now + 20).await?, 200);
    assert_eq!(send(&client, &receiver, "/old", r#"{"a":"ü"}"#, now - 1).await?, 200);
    let (good, old) = (receiver.arrivals("/good").remove(0), receiver.arrivals("/old").remove(0));
    assert_eq!(receiver.counts("/good")?.get("msg_1"), Some(&1));

    let mut verifiers = Verifiers::start()?;
    let right = Expectation { secret: SECRET.into(), audience: receiver.origin() };
    let wrong = Expectation { secret: SECRET.replace("MfKQ", "MfKR"), ..right.clone() };
    let other = Expectation { audience: "https://localhost".into(), ..right.clone() };
    verifiers.accept(&good, &right).await?;
    verifiers.refuse_signature(&good, &wrong).await?;
    verifiers.refuse_token(&good, &wrong, &["ignature"]).await?;
    verifiers.refuse_token(&good, &other, &["udience", "\"aud\""]).await?;
    verifiers.refuse_token(&old, &right, &["expired", "\"exp\""]).await?;
    let mut changed = good.clone();
    changed.body = r#"{"b":"ü"}"#.into();
    verifiers.refuse_signature(&changed, &right).await?;
    Ok(())
}

/// The script that says whether everything passed, ended by a signal at its first look at the machine.
#[test]
fn a_run_of_all_tests_that_is_ended_has_not_passed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let java = directory.path().join("java");
    std::fs::write(&java, "#!/bin/sh\necho waits >&3\nexec sleep 600\n")?;
    std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH")?);
    // Its group ends as one, as with Ctrl-C; the third descriptor says when.
    let mut script = Command::new("bash")
        .args(["-c", "exec 3>&2 2>/dev/null && exec bash scripts/test --tools"])
        .current_dir(hookwire_tests::machine::root())
        .env("PATH", path)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut waits = String::new();
    BufReader::new(script.stderr.take().context("no stderr")?).read_line(&mut waits)?;
    ensure!(waits == "waits\n", "{waits}");
    let status = Command::new("kill").args(["-TERM", "--", &format!("-{}", script.id())]).status()?;
    ensure!(status.success());
    let output = script.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(!output.status.success(), "{}: {text}", output.status);
    ensure!(text.contains("FAILED") && !text.contains("PASSED"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_receiver_does_as_its_script_says() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("recipients", directory.path())?;
    let receiver = Receiver::start(&authority, directory.path()).await?;
    let client = client(&authority)?;
    let first = [Behaviour::status(500), Behaviour::retry_after(429, "7"), Behaviour::Close, Behaviour::Hang];
    receiver.script("/script", first, Behaviour::slow(Duration::from_millis(50)));
    assert_eq!(send(&client, &receiver, "/script", "{}", 0).await?, 500);
    let answer = client.post(receiver.url("/script")).send().await?;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str()?), (429, "7"));
    let closed = client.post(receiver.url("/script")).send().await;
    assert!(closed.is_err() || closed?.bytes().await.is_err());
    let hangs = client.post(receiver.url("/script")).timeout(Duration::from_millis(300)).send().await;
    assert!(hangs.is_err_and(|error| error.is_timeout()));
    assert_eq!(send(&client, &receiver, "/script", "{}", 0).await?, 200);
    assert_eq!(receiver.wait("/script", 5, Duration::from_secs(1)).await?.len(), 5);
    let late = receiver.wait("/script", 6, Duration::from_millis(50)).await;
    assert!(late.is_err_and(|error| format!("{error:#}").contains("6 arrivals at /script")));
    Ok(())
}
