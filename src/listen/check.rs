//! Verifies a request with the SDK, as a recipient would, and says for people what came of each check.

use std::fmt;

use hookwire_sdk::verify::{Error, Verified, Verifier};

use super::Received;

/// What requests are verified with.
#[derive(Debug)]
pub struct Keys(Option<Verifier>);

impl Keys {
    /// With these secrets (`whsec_…`) and public keys (`whpk_…`); without any, nothing is verified.
    ///
    /// # Errors
    /// For what is neither.
    pub fn new(secrets: &[String]) -> Result<Self, Error> {
        if secrets.is_empty() { Ok(Self(None)) } else { Verifier::new(secrets).map(Some).map(Self) }
    }

    /// Whether there is nothing to verify with.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Verifies a request.
    pub fn check(&self, received: &Received) -> Checks {
        let Some(verifier) = &self.0 else { return Checks::none("no secret was given") };
        match verifier.verify_at(&received.headers, &received.body, received.at) {
            Ok(verified) => Checks::passed(&verified, received),
            Err(error) => Checks::failed(&error),
        }
    }
}

/// What came of verifying a request.
#[derive(Debug)]
pub struct Checks {
    /// `webhook-signature`, and that it is not too old.
    pub signature: Check,
    /// The JWT.
    pub token: Check,
    /// `webhook-valid-until`.
    pub valid_until: Check,
}

impl Checks {
    fn none(why: &'static str) -> Self {
        let unchecked = || Check::NotChecked(why);
        Self { signature: unchecked(), token: unchecked(), valid_until: unchecked() }
    }

    fn passed(verified: &Verified, received: &Received) -> Self {
        let now = received.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = |until: u64| format!("{} s left", until.saturating_sub(now));
        let token = verified.claims.as_ref().map(|claims| format!("from {}, for {}", claims.iss, claims.aud));
        Self {
            signature: Check::Passed(format!("sent {} s ago", now.saturating_sub(verified.timestamp))),
            token: token.map_or(Check::NotChecked("that takes the whsec_ secret"), Check::Passed),
            valid_until: Check::Passed(verified.valid_until.map(left).unwrap_or_default()),
        }
    }

    /// The verifier stops at the first check that fails: signature and age, then the token, then how long it holds.
    fn failed(error: &Error) -> Self {
        let failed = Check::Failed(error.to_string());
        let before = || Check::Passed(String::new());
        let after = Check::NotChecked("a check before it failed");
        match error {
            Error::ValidUntil { .. } => Self { signature: before(), token: before(), valid_until: failed },
            Error::MissingHeader { name: "webhook-valid-until" }
            | Error::MalformedHeader { name: "webhook-valid-until", .. } => {
                Self { signature: before(), token: after, valid_until: failed }
            }
            Error::TokenMissing
            | Error::TokenKey
            | Error::TokenMalformed
            | Error::TokenAlgorithm
            | Error::TokenSignature
            | Error::TokenExpired { .. }
            | Error::TokenNotYetValid { .. }
            | Error::TokenAudience { .. }
            | Error::TokenMessage
            | Error::TokenBody
            | Error::MalformedHeader { name: "authorization" | "webhook-token", .. } => {
                Self { signature: before(), token: failed, valid_until: after }
            }
            _ => Self { signature: failed, ..Self::none("a check before it failed") },
        }
    }

    /// Each check with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Check)> {
        [("signature", &self.signature), ("token", &self.token), ("valid until", &self.valid_until)].into_iter()
    }
}

/// What came of one check.
#[derive(Debug)]
pub enum Check {
    /// It is right; what to say besides.
    Passed(String),
    /// It is wrong, and why.
    Failed(String),
    /// It could not be checked, and why.
    NotChecked(&'static str),
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
