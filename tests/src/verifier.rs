//! Other people's code that judges what arrived: the `standardwebhooks` packages of crates.io, PyPI and npm, PyJWT and
//! `jose`, with their default settings.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::machine::{root, tool};
use crate::receiver::Arrival;

/// What a recipient holds against a request: its own secret and its own address, nothing that the request says.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The signing secret, `whsec_…`.
    pub secret: String,
    /// The origin that the token must be meant for.
    pub audience: String,
}

/// One line to a verifier.
#[derive(Serialize)]
struct Question<'a> {
    headers: serde_json::Map<String, serde_json::Value>,
    body: String,
    secret: &'a str,
    token: &'a str,
    audience: &'a str,
}

/// What one library said.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// Why it refused, or `None`.
    #[serde(default)]
    pub error: Option<String>,
    /// The token's claims, where it was one and was accepted.
    #[serde(default)]
    pub claims: serde_json::Value,
}

/// What the libraries of one language said of one request.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// Of `webhook-signature`.
    pub signature: Verdict,
    /// Of the token.
    pub token: Verdict,
}

/// A process that verifies with the libraries of one language, ended when it is dropped.
struct Verifier {
    language: &'static str,
    _child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Verifier {
    fn start(language: &'static str, program: &Path, arguments: &[&Path]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let questions = child.stdin.take().context("stdin was asked for")?;
        let answers = BufReader::new(child.stdout.take().context("stdout was asked for")?).lines();
        Ok(Self { language, _child: child, questions, answers })
    }

    async fn ask(&mut self, question: &str) -> Result<Answer> {
        self.questions.write_all(format!("{question}\n").as_bytes()).await?;
        let line = self.answers.next_line().await?.with_context(|| format!("the {} verifier ended", self.language))?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// All verifiers.
pub struct Verifiers {
    others: Vec<Verifier>,
}

impl Verifiers {
    /// Starts them.
    ///
    /// # Errors
    /// When a tool is not installed.
    pub fn start() -> Result<Self> {
        let sources = root().join("tests/verifiers");
        let python = Verifier::start("Python", &tool("venv/bin/python")?, &[&sources.join("verify.py")])?;
        let node = Path::new("node");
        let packages = tool("node/package.json")?;
        let packages = packages.parent().context("a file lies in a directory")?;
        let node = Verifier::start("Node", node, &[&sources.join("verify.mjs"), packages])?;
        Ok(Self { others: vec![python, node] })
    }

    /// What each says of a request: language and answer. Rust's `standardwebhooks` has no token library beside it, so
    /// its answer on the token repeats Python's.
    ///
    /// # Errors
    /// When a verifier ended.
    pub async fn ask(&mut self, arrival: &Arrival, expected: &Expectation) -> Result<Vec<(&'static str, Answer)>> {
        let question = Question {
            headers: (arrival.headers.iter())
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().into()))
                .collect(),
            body: BASE64_STANDARD.encode(&arrival.body),
            secret: &expected.secret,
            token: arrival.token(),
            audience: &expected.audience,
        };
        let question = serde_json::to_string(&question)?;
        let mut answers = Vec::new();
        for verifier in &mut self.others {
            answers.push((verifier.language, verifier.ask(&question).await?));
        }
        let signature = rust_signature(arrival, expected);
        let token = answers.first().context("there are other verifiers")?.1.token.clone();
        answers.push(("Rust", Answer { signature, token }));
        Ok(answers)
    }

    /// Fails unless all of them accept signature and token, and returns the token's claims.
    ///
    /// # Errors
    /// Says who refused what, and why.
    pub async fn accept(&mut self, arrival: &Arrival, expected: &Expectation) -> Result<serde_json::Value> {
        let answers = self.ask(arrival, expected).await?;
        for (language, answer) in &answers {
            for (what, verdict) in [("signature", &answer.signature), ("token", &answer.token)] {
                if let Some(error) = &verdict.error {
                    bail!("{language} refuses the {what} of {}: {error}", arrival.id());
                }
            }
        }
        Ok(answers[0].1.token.claims.clone())
    }

    /// Fails unless all of them refuse the signature.
    ///
    /// # Errors
    /// Says who accepted it.
    pub async fn refuse_signature(&mut self, arrival: &Arrival, expected: &Expectation) -> Result<()> {
        for (language, answer) in self.ask(arrival, expected).await? {
            if answer.signature.error.is_none() {
                bail!("{language} accepts a signature that is wrong");
            }
        }
        Ok(())
    }

    /// Fails unless all of them refuse the token, each with words that contain one of `reasons`.
    ///
    /// # Errors
    /// Says who accepted it, or refused it for another reason.
    pub async fn refuse_token(&mut self, arrival: &Arrival, expected: &Expectation, reasons: &[&str]) -> Result<()> {
        for (language, answer) in self.ask(arrival, expected).await? {
            let Some(error) = answer.token.error else { bail!("{language} accepts a token that is wrong") };
            if !reasons.iter().any(|reason| error.contains(reason)) {
                bail!("{language} refuses the token for another reason than {reasons:?}: {error}");
            }
        }
        Ok(())
    }
}

fn rust_signature(arrival: &Arrival, expected: &Expectation) -> Verdict {
    let result = standardwebhooks::Webhook::new(&expected.secret)
        .and_then(|webhook| webhook.verify(&arrival.body, &arrival.headers));
    Verdict { error: result.err().map(|error| error.to_string()), claims: serde_json::Value::Null }
}
