//! Filters of lists (AIP-160), a subset: comparisons of a field with a value, joined by `AND`.
//!
//! ```text
//! filter     = comparison { "AND" comparison }
//! comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
//! value      = a word of letters, digits and _ . : + - / , or any text in quotes, single or double, with \ before a quote and a \
//! ```
//!
//! What is no such filter is told with what is wrong, which fields there are, and an example. Pure.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use crate::store::index::Op;

/// The longest filter, in bytes.
const MAX_BYTES: usize = 2_000;
/// The most comparisons.
const MAX_COMPARISONS: usize = 20;

/// What filters a list takes.
#[derive(Debug)]
pub struct Grammar {
    /// Its fields.
    pub fields: &'static [Field],
    /// A filter that makes sense.
    pub example: &'static str,
}

/// A field that can be compared.
#[derive(Debug)]
pub struct Field {
    /// Its name, as in the resource.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds, and thus how it is compared.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text that another part of the API knows: its rule says what is wrong with it. Only `=`.
    Exact(fn(&str) -> Result<(), hookwire_proto::name::Error>),
    /// The same, with `=` and `!=`.
    Text(fn(&str) -> Result<(), hookwire_proto::name::Error>),
    /// A whole number. Every comparison.
    Number,
    /// A time, RFC 3339. `<`, `<=`, `>` and `>=`.
    Time,
    /// A value of an enum, with or without what all of them begin with. `=` and `!=`.
    Enum {
        /// What the names in the enum begin with, such as `STATE_`.
        prefix: &'static str,
        /// Names without that, and their numbers.
        values: &'static [(&'static str, i32)],
    },
}

/// What a field is compared with. Times are in whole milliseconds, rounded so that the comparison means the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Exact`] and [`Kind::Text`].
    Text(String),
    /// Of [`Kind::Number`], [`Kind::Enum`], and, in milliseconds since 1970, [`Kind::Time`].
    Number(i64),
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Of which field.
    pub field: &'static str,
    /// How.
    pub op: Op,
    /// With what.
    pub value: Value,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}. It takes comparisons joined by AND, of {fields}; such as `{example}`")]
pub struct Error {
    what: String,
    fields: String,
    example: &'static str,
}

impl Kind {
    fn ops(self) -> &'static [Op] {
        match self {
            Self::Exact(_) => &[Op::Eq],
            Self::Text(_) | Self::Enum { .. } => &[Op::Eq, Op::Ne],
            Self::Number => &[Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge],
            Self::Time => &[Op::Lt, Op::Le, Op::Gt, Op::Ge],
        }
    }
}

fn sign(op: Op) -> &'static str {
    match op {
        Op::Eq => "=",
        Op::Ne => "!=",
        Op::Lt => "<",
        Op::Le => "<=",
        Op::Gt => ">",
        Op::Ge => ">=",
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs: Vec<_> = self.kind.ops().iter().map(|op| sign(*op)).collect();
        write!(f, "{} ({})", self.name, signs.join(" "))
    }
}

impl Grammar {
    /// Reads a filter; an empty one compares nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(&self, text: &str) -> Result<Vec<Comparison>, Error> {
        self.comparisons(text).map_err(|what| Error {
            what,
            fields: self.fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            example: self.example,
        })
    }

    fn comparisons(&self, text: &str) -> Result<Vec<Comparison>, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        let mut tokens = Tokens { text, at: 0 };
        let mut comparisons = Vec::new();
        if tokens.is_at_end() {
            return Ok(comparisons);
        }
        loop {
            if comparisons.len() == MAX_COMPARISONS {
                return Err(format!("it has more than {MAX_COMPARISONS} comparisons"));
            }
            comparisons.push(self.comparison(&mut tokens)?);
            if tokens.is_at_end() {
                return Ok(comparisons);
            }
            let at = tokens.place();
            match tokens.word() {
                Some("AND") => {}
                _ => return Err(format!("AND is expected at {at}")),
            }
        }
    }

    fn comparison(&self, tokens: &mut Tokens<'_>) -> Result<Comparison, String> {
        let at = tokens.place();
        let name = tokens.word().ok_or_else(|| format!("a field is expected at {at}"))?;
        let field =
            self.fields.iter().find(|field| field.name == name).ok_or_else(|| format!("there is no field {name:?}"))?;
        let at = tokens.place();
        let op = tokens.op().ok_or_else(|| format!("one of = != < <= > >= is expected at {at}"))?;
        let allowed = field.kind.ops();
        if !allowed.contains(&op) {
            return Err(format!("{} can't be compared with {}", field.name, sign(op)));
        }
        let at = tokens.place();
        let text = tokens.value().map_err(|what| format!("{what} at {at}"))?;
        let (op, value) = field.kind.read(op, text).map_err(|what| format!("{} {what}", field.name))?;
        Ok(Comparison { field: field.name, op, value })
    }
}

impl Kind {
    fn read(self, op: Op, text: String) -> Result<(Op, Value), String> {
        let number = match self {
            Self::Exact(check) | Self::Text(check) => {
                check(&text).map_err(|error| error.to_string())?;
                return Ok((op, Value::Text(text)));
            }
            Self::Number => text.parse().map_err(|_| format!("must be compared with a whole number, not {text:?}"))?,
            Self::Enum { prefix, values } => {
                let name = text.strip_prefix(prefix).unwrap_or(&text);
                let found = values.iter().find(|(value, _)| *value == name);
                let names = || values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                i64::from(found.ok_or_else(|| format!("must be compared with one of {}, not {text:?}", names()))?.1)
            }
            Self::Time => {
                let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
                    format!("must be compared with a time such as \"2026-01-31T08:30:00Z\", not {text:?}")
                })?;
                return Ok(milliseconds(op, time));
            }
        };
        Ok((op, Value::Number(number)))
    }
}

/// The comparison of whole milliseconds that means the same.
fn milliseconds(op: Op, time: OffsetDateTime) -> (Op, Value) {
    const MS: i128 = 1_000_000;
    let nanos = time.unix_timestamp_nanos();
    let floor = nanos.div_euclid(MS);
    let ms = match op {
        // The first millisecond that is not before it.
        Op::Lt | Op::Ge if nanos.rem_euclid(MS) != 0 => floor + 1,
        _ => floor,
    };
    (op, Value::Number(i64::try_from(ms).expect("years have four digits")))
}

struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest().is_empty()
    }

    /// Where the next token is, for people.
    fn place(&mut self) -> String {
        match self.is_at_end() {
            true => "the end".into(),
            false => format!("character {}", self.text[..self.at].chars().count() + 1),
        }
    }

    /// Letters, digits and what else is in names of fields and in simple values.
    fn word(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '+' | '-' | '/');
        let rest = self.rest();
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        self.at += end;
        (end > 0).then(|| &rest[..end])
    }

    fn op(&mut self) -> Option<Op> {
        self.skip_blanks();
        // The longer ones first.
        let all = [Op::Ne, Op::Le, Op::Ge, Op::Eq, Op::Lt, Op::Gt];
        let found = all.into_iter().find(|op| self.rest().starts_with(sign(*op)))?;
        self.at += sign(found).len();
        Some(found)
    }

    fn value(&mut self) -> Result<String, &'static str> {
        self.skip_blanks();
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return self.word().map(Into::into).ok_or("a value is expected");
        };
        let (mut value, mut is_escaped) = (String::new(), false);
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if is_escaped => {
                    if !matches!(c, '"' | '\'' | '\\') {
                        return Err("only a quote or \\ may follow a \\, in the value");
                    }
                    value.push(c);
                    is_escaped = false;
                }
                '\\' => is_escaped = true,
                c if c == quote => {
                    self.at += at + 1;
                    return Ok(value);
                }
                c => value.push(c),
            }
        }
        Err("there is no closing quote for the value")
    }
}

#[cfg(test)]
mod tests {
    use hookwire_proto::name;
    use proptest::prelude::*;

    use super::*;

    const GRAMMAR: Grammar = Grammar {
        fields: &[
            Field { name: "subscription", kind: Kind::Exact(name::check_id) },
            Field { name: "event_type", kind: Kind::Text(name::check_event_type) },
            Field { name: "status_code", kind: Kind::Number },
            Field { name: "start_time", kind: Kind::Time },
            Field { name: "state", kind: Kind::Enum { prefix: "STATE_", values: &[("RETRYING", 1), ("DEAD", 3)] } },
        ],
        example: "state = DEAD",
    };

    fn parse(text: &str) -> Vec<Comparison> {
        GRAMMAR.parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn number(field: &'static str, op: Op, number: i64) -> Comparison {
        Comparison { field, op, value: Value::Number(number) }
    }

    fn text(field: &'static str, op: Op, text: &str) -> Comparison {
        Comparison { field, op, value: Value::Text(text.into()) }
    }

    #[test]
    fn comparisons_are_joined_by_and() {
        assert_eq!(parse(""), []);
        assert_eq!(parse(" \n"), []);
        let expected = [
            text("subscription", Op::Eq, "s1"),
            text("event_type", Op::Ne, "invoice.paid"),
            number("status_code", Op::Ge, 500),
            number("state", Op::Eq, 3),
            number("start_time", Op::Lt, 1_769_848_200_000),
        ];
        let filter = r#"subscription = "s1" AND event_type!='invoice.paid' AND status_code >=500
            AND state = STATE_DEAD AND start_time < "2026-01-31T08:30:00Z""#;
        assert_eq!(parse(filter), expected);
        assert_eq!(parse("state = DEAD AND status_code < -1")[1], number("status_code", Op::Lt, -1));
    }

    #[test]
    fn times_mean_the_same_in_milliseconds() {
        let ms = |op: &str| match &parse(&format!("start_time {op} 1970-01-01T00:00:01.0005Z"))[0].value {
            Value::Number(ms) => *ms,
            Value::Text(text) => panic!("{text}"),
        };
        assert_eq!((ms("<"), ms("<="), ms(">"), ms(">=")), (1_001, 1_000, 1_000, 1_001));
        assert_eq!(parse("start_time > '1970-01-01T02:00:00+02:00'")[0], number("start_time", Op::Gt, 0));
    }

    #[test]
    fn what_is_no_filter_is_told_with_fields_and_an_example() {
        for (filter, what) in [
            ("colour = red", "there is no field \"colour\""),
            ("status_code", "one of = != < <= > >= is expected at the end"),
            ("status_code = ", "a value is expected at the end"),
            ("status_code = many", "status_code must be compared with a whole number, not \"many\""),
            ("status_code : 5", "one of = != < <= > >= is expected at character 13"),
            ("state < DEAD", "state can't be compared with <"),
            ("state = BURIED", "state must be compared with one of RETRYING, DEAD, not \"BURIED\""),
            ("subscription != s1", "subscription can't be compared with !="),
            ("subscription = S1", "subscription the id must be"),
            ("start_time = \"2026-01-31T08:30:00Z\"", "start_time can't be compared with ="),
            ("start_time > yesterday", "start_time must be compared with a time"),
            ("event_type = 'a", "there is no closing quote for the value at character 14"),
            ("event_type = 'a\\b'", "only a quote or \\ may follow a \\, in the value at character 14"),
            ("state = DEAD OR state = RETRYING", "AND is expected at character 14"),
            ("state = DEAD AND", "a field is expected at the end"),
            ("(state = DEAD)", "a field is expected at character 1"),
            (&"x".repeat(2_001), "it has more than 2000 bytes"),
            (&["state = DEAD"; 21].join(" AND "), "it has more than 20 comparisons"),
        ] {
            let error = GRAMMAR.parse(filter).expect_err(filter).to_string();
            assert!(error.starts_with(what), "{filter}: {error}");
            assert!(
                error.contains("status_code (= != < <= > >=)") && error.ends_with("such as `state = DEAD`"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(filter in "\\PC{0,80}") {
            let _ = GRAMMAR.parse(&filter);
        }

        /// Near misses: tokens of the language in any order.
        #[test]
        fn parsing_tokens_never_panics(
            tokens in prop::collection::vec(
                prop::sample::select(vec!["AND", "state", "DEAD", "=", "!=", "<=", "\"", "'", "\\", "500", "status_code", " ", "é"]), 0..20,
            ),
        ) {
            let _ = GRAMMAR.parse(&tokens.concat());
        }

        #[test]
        fn what_is_quoted_is_read_as_it_was(values in prop::collection::vec("[a-z_]{1,8}(\\.[A-Z0-9]{1,8})?", 1..10)) {
            let filter: Vec<_> = values.iter().map(|value| format!("event_type = \"{value}\"")).collect();
            let expected: Vec<_> = values.iter().map(|value| text("event_type", Op::Eq, value)).collect();
            prop_assert_eq!(parse(&filter.join(" AND ")), expected);
        }
    }
}
