//! JSON Schemas of event types: the control plane checks them when they are written, nodes check payloads against them.

use std::fmt;

/// The most bytes that a schema may have.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// The most mistakes of a payload that are told.
const MAX_MISTAKES: usize = 5;
/// The most characters that a mistake is told in: it may quote the payload.
const MAX_MISTAKE_CHARS: usize = 200;

/// Why a text is no usable schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_SCHEMA_BYTES`].
    #[error("must be at most {MAX_SCHEMA_BYTES} bytes")]
    TooLong,
    /// Not JSON.
    #[error("must be JSON: {0}")]
    NotJson(String),
    /// JSON, but no JSON Schema, or one that refers to what is not in it.
    #[error("must be a JSON Schema that refers to nothing outside itself: {0}")]
    NotSchema(String),
}

/// A compiled schema.
pub struct Schema(jsonschema::Validator);

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

impl Schema {
    /// Compiles the text of a schema. Draft 2020-12 unless its `$schema` says otherwise. Nothing is fetched.
    ///
    /// # Errors
    /// [`Error`].
    pub fn compile(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(Error::TooLong);
        }
        let schema: serde_json::Value =
            serde_json::from_str(text).map_err(|error| Error::NotJson(error.to_string()))?;
        let validator = jsonschema::options().build(&schema);
        validator.map(Self).map_err(|error| Error::NotSchema(short(&error.to_string())))
    }

    /// Checks a payload: nothing if it fits, else what is wrong with it, for the one who published it.
    pub fn mistakes(&self, payload: &[u8]) -> Vec<String> {
        let payload: serde_json::Value = match serde_json::from_slice(payload) {
            Ok(payload) => payload,
            Err(error) => return vec![format!("is not JSON: {error}")],
        };
        let errors = self.0.iter_errors(&payload).take(MAX_MISTAKES);
        errors
            .map(|error| {
                let at = error.instance_path().to_string();
                let at = if at.is_empty() { "/".into() } else { at };
                short(&format!("at {at}: {error}"))
            })
            .collect()
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_MISTAKE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVOICE: &str = r##"{"type": "object", "required": ["id"], "additionalProperties": false,
        "properties": {"id": {"type": "integer"}, "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
        "$defs": {"line": {"type": "string", "maxLength": 3}}}"##;

    #[test]
    fn payloads_are_checked_and_mistakes_say_where() {
        let schema = Schema::compile(INVOICE).expect("a schema");
        assert!(schema.mistakes(br#"{"id": 1, "lines": ["abc"]}"#).is_empty());
        let mistakes = schema.mistakes(br#"{"lines": ["abcd"], "x": 1}"#);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(mistakes.iter().any(|mistake| mistake.starts_with("at /lines/0:")), "{mistakes:?}");
        assert!(schema.mistakes(b"{").first().is_some_and(|mistake| mistake.starts_with("is not JSON")));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        assert_eq!(Schema::compile(&" ".repeat(MAX_SCHEMA_BYTES + 1)).err(), Some(Error::TooLong));
        assert!(matches!(Schema::compile("{").err(), Some(Error::NotJson(_))));
        for text in
            [r#"{"type": "nonsense"}"#, r#"{"$ref": "https://example.com/schema"}"#, r##"{"$ref": "#/nowhere"}"##, "[]"]
        {
            assert!(matches!(Schema::compile(text).err(), Some(Error::NotSchema(_))), "{text}");
        }
    }

    #[test]
    fn mistakes_are_few_and_short() {
        let schema = Schema::compile(r#"{"type": "array", "items": {"type": "integer"}}"#).expect("a schema");
        let payload = format!("[{}\"\"]", format!("\"{}\",", "x".repeat(10_000)).repeat(100));
        let mistakes = schema.mistakes(payload.as_bytes());
        assert_eq!(mistakes.len(), MAX_MISTAKES);
        assert!(mistakes.iter().all(|mistake| mistake.chars().count() <= MAX_MISTAKE_CHARS + 1));
    }
}
