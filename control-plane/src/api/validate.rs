//! What fields must be. Every wrong field of a request is told at once.

use std::fmt::Display;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookwire_proto::name;
use zeroize::Zeroizing;

use super::Error;
use super::error::Violation;
use crate::auth;

const MAX_DISPLAY_NAME_CHARS: usize = 200;
const MAX_DESCRIPTION_CHARS: usize = 2_000;
const SECRET_PREFIX: &str = "whsec_";

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

    /// A signing secret as Standard Webhooks writes it; one is made if there is none.
    pub fn secret(&mut self, field: &str, text: &str) -> Zeroizing<Vec<u8>> {
        if text.is_empty() {
            return Zeroizing::new(auth::random::<32>().to_vec());
        }
        let decoded = text.strip_prefix(SECRET_PREFIX).and_then(|base64| STANDARD.decode(base64).ok());
        match decoded.map(Zeroizing::new) {
            Some(key) if (24..=64).contains(&key.len()) => key,
            _ => {
                self.add(
                    field,
                    "must be `whsec_` and 24 to 64 random bytes in standard base64 with padding; leave it out to have one made",
                );
                Zeroizing::default()
            }
        }
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

/// A signing secret as it is shown, once.
pub fn secret_text(key: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut violations = Violations::default();
        let key = violations.secret("key", text);
        violations.finish().map(|()| key)
    }

    #[test]
    fn a_made_secret_has_32_bytes_and_is_another_each_time() {
        let (one, two) = (secret("").unwrap(), secret("").unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let bytes = |length| STANDARD.encode(vec![7; length]);
        for text in [
            bytes(32),
            format!("whsec_{}", bytes(23)),
            format!("whsec_{}", bytes(65)),
            format!("whsec_{}", bytes(32).trim_end_matches('=')),
            format!("whsec_{}", bytes(32).replace('=', "==")),
            format!(" whsec_{}", bytes(32)),
            format!("whsec_{}\n", bytes(32)),
            format!("whsk_{}", bytes(32)),
            "whsec_".into(),
            "whsec_____________________________________________".into(),
        ] {
            assert!(secret(&text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_shown_as_it_was_given(key in prop::collection::vec(any::<u8>(), 24..=64)) {
            let text = secret_text(&key);
            prop_assert_eq!(secret(&text).unwrap().to_vec(), key);
        }
    }
}
