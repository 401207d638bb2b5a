//! Verifies a request with the SDK's `verify`, and says for people what came of it.

use std::fmt;

use super::Received;

/// What requests are verified with.
#[derive(Debug, Default)]
pub struct Keys {
    secrets: Vec<String>,
}

impl Keys {
    /// With these secrets, each `whsec_…`.
    pub fn new(secrets: &[String]) -> anyhow::Result<Self> {
        Ok(Self { secrets: secrets.to_vec() })
    }

    /// Whether there is nothing to verify with.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Verifies a request.
    pub fn check(&self, _received: &Received) -> Checks {
        let unchecked = || Check::NotChecked("no secret: run with --secret whsec_…".into());
        Checks { signature: unchecked(), token: unchecked(), valid_until: unchecked() }
    }
}

/// What came of verifying a request.
#[derive(Debug)]
pub struct Checks {
    /// `webhook-signature`.
    pub signature: Check,
    /// The JWT.
    pub token: Check,
    /// `webhook-valid-until`.
    pub valid_until: Check,
}

impl Checks {
    /// Each check with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Check)> {
        [("signature", &self.signature), ("token", &self.token), ("valid until", &self.valid_until)].into_iter()
    }
}

/// What came of one check; says why.
#[derive(Debug)]
pub enum Check {
    /// It is right.
    Passed(String),
    /// It is wrong.
    Failed(String),
    /// It could not be checked.
    NotChecked(String),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(how) if how.is_empty() => write!(f, "ok"),
            Self::Passed(how) => write!(f, "ok ({how})"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::NotChecked(why) => write!(f, "not checked ({why})"),
        }
    }
}
