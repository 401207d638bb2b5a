//! What fields must be. Every wrong field of a request is told at once.

use std::collections::BTreeMap;
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
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY_BYTES: usize = 63;
const MAX_LABEL_VALUE_CHARS: usize = 256;

/// The wrong fields that were found so far.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// A field is wrong.
    pub fn add(&mut self, field: impl Into<String>, description: impl Display) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// What is wrong with a part of the request, whose path is `within`.
    pub fn add_all(&mut self, within: &str, of_part: Vec<Violation>) {
        self.0.extend(
            of_part
                .into_iter()
                .map(|Violation { field, description }| Violation { field: format!("{within}.{field}"), description }),
        );
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

    /// The id of a request that is carried out once: a UUID of version 4, or none.
    pub fn request_id(&mut self, text: &str) {
        let is_uuid = uuid::Uuid::try_parse(text).is_ok_and(|uuid| uuid.get_version_num() == 4 && text.len() == 36);
        if !text.is_empty() && !is_uuid {
            self.add("request_id", "must be a UUID of version 4 with hyphens, or left out");
        }
    }

    /// Labels of people's own; `field` is the path of the map.
    pub fn labels(&mut self, field: &str, labels: &BTreeMap<String, String>) {
        if labels.len() > MAX_LABELS {
            self.add(field, format!("must be at most {MAX_LABELS} labels"));
        }
        let at_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let within = |byte: u8| at_end(byte) || b"._/-".contains(&byte);
        for (key, value) in labels.iter().take(MAX_LABELS) {
            let bytes = key.as_bytes();
            let ends = [bytes.first(), bytes.last()].iter().all(|end| end.is_some_and(|byte| at_end(*byte)));
            if !ends || bytes.len() > MAX_LABEL_KEY_BYTES || !bytes.iter().all(|byte| within(*byte)) {
                let what = "must have a key that matches `[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?`";
                self.add(format!("{field}[{key:?}]"), what);
            } else if value.chars().count() > MAX_LABEL_VALUE_CHARS || value.chars().any(char::is_control) {
                let what = format!(
                    "must have a value of at most {MAX_LABEL_VALUE_CHARS} characters, none a control character"
                );
                self.add(format!("{field}[{key:?}]"), what);
            }
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
