//! What fields must be. Every wrong field of a request is told at once.

use std::fmt::Display;
use std::time::Duration;

use hookwire_proto::name;
use hookwire_proto::v1::Secret;
use hookwire_proto::v1::secret::Algorithm;
use zeroize::Zeroizing;

use super::Error;
use super::error::Violation;
use crate::signing_key::SigningKey;

const MAX_DISPLAY_NAME_CHARS: usize = 200;
const MAX_DESCRIPTION_CHARS: usize = 2_000;

/// The wrong fields that were found so far.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// A field is wrong.
    pub fn add(&mut self, field: impl Into<String>, description: impl Display) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// A duration of whole milliseconds in a range; zero if it is wrong.
    pub fn duration(&mut self, field: &str, text: &prost_types::Duration, min: Duration, max: Duration) -> Duration {
        match Duration::try_from(*text) {
            Ok(duration) if (min..=max).contains(&duration) && duration.subsec_nanos() % 1_000_000 == 0 => duration,
            _ => {
                let (min, max) = (min.as_secs(), max.as_secs());
                self.add(field, format!("must be {min}s to {max}s, in whole milliseconds"));
                Duration::ZERO
            }
        }
    }

    /// The value, or `None` and a violation.
    pub fn check<T, E: Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }

    /// The id that was chosen, or a new one that begins with `letter`.
    pub fn id(&mut self, field: &str, id: String, letter: char) -> String {
        if id.is_empty() {
            return name::new_id(letter);
        }
        self.check(field, name::check_id(&id));
        id
    }

    /// A name for people.
    pub fn display_name(&mut self, field: &str, text: &str) {
        if text.chars().count() > MAX_DISPLAY_NAME_CHARS || text.chars().any(char::is_control) {
            self.add(
                field,
                format!("must have at most {MAX_DISPLAY_NAME_CHARS} characters, none of them a control character"),
            );
        }
    }

    /// Text for people.
    pub fn description(&mut self, field: &str, text: &str) {
        let is_wrong = |c: char| c.is_control() && c != '\n' && c != '\t';
        if text.chars().count() > MAX_DESCRIPTION_CHARS || text.chars().any(is_wrong) {
            self.add(
                field,
                format!(
                    "must have at most {MAX_DESCRIPTION_CHARS} characters, no control characters but line feed and tab"
                ),
            );
        }
    }

    /// The signing key that is brought, or a new one: `field` is the path of the secret. What it holds of the key is wiped.
    pub fn signing_key(&mut self, field: &str, secret: Secret) -> Option<SigningKey> {
        let text = Zeroizing::new(secret.key);
        let Ok(algorithm) = Algorithm::try_from(secret.algorithm) else {
            self.add(format!("{field}.algorithm"), "must be ALGORITHM_HMAC_SHA256 or ALGORITHM_ED25519");
            return None;
        };
        self.check(&format!("{field}.key"), SigningKey::brought_or_new(&text, algorithm))
    }

    /// Nothing was wrong.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all that was.
    pub fn finish(self) -> Result<(), Error> {
        self.finish_with(Some(()))
    }

    /// Nothing was wrong, so that what [`check`](Self::check) gave is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all that was.
    pub fn finish_with<T>(self, checked: Option<T>) -> Result<T, Error> {
        checked.filter(|_| self.0.is_empty()).ok_or(Error::Invalid(self.0))
    }
}

/// A value that nothing else in the request depends on.
///
/// # Errors
/// [`Error::Invalid`].
pub fn field<T>(field: &str, result: Result<T, name::Error>) -> Result<T, Error> {
    result.map_err(|error| Error::Invalid(vec![Violation { field: field.into(), description: error.to_string() }]))
}
