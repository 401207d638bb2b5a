//! Filters of lists ([`hookwire_control_plane::api::filter`]), against a second reading of their grammar: all tokens first, then their order.

use std::iter::Peekable;
use std::str::Chars;

use hookwire_control_plane::api::filter::{Comparison, Field, Grammar, Kind, Op, Value};
use hookwire_proto::name;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::Target;
use crate::names::is_event_type;

/// The input is a filter.
pub const TARGET: Target = Target {
    name: "filters",
    check,
    dictionary: &[
        "note",
        "event_type",
        "status_code",
        "start_time",
        "state",
        "STATE_",
        "RETRYING",
        "DEAD",
        " AND ",
        "AND",
        "and",
        " OR ",
        "=",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "!",
        "\"",
        "'",
        "\\",
        "\\\"",
        " ",
        "\n",
        "\t",
        "500",
        "-1",
        "+0",
        "invoice.paid",
        "é",
        "(",
        "9223372036854775807",
        "2026-01-31T08:30:00Z",
        "2026-01-31T08:30:00.0005+01:00",
        "9999-12-31T23:59:59.9999-23:59",
        "0000-01-01T00:00:00+23:59",
    ],
};

/// Has a field of each kind. A note is any text.
const GRAMMAR: Grammar = Grammar {
    fields: &[
        Field { name: "note", kind: Kind::Exact(|_| Ok(())) },
        Field { name: "event_type", kind: Kind::Text(name::check_event_type) },
        Field { name: "status_code", kind: Kind::Number },
        Field { name: "start_time", kind: Kind::Time },
        Field { name: "state", kind: Kind::Enum { prefix: "STATE_", values: &[("RETRYING", 1), ("DEAD", 3)] } },
    ],
    example: "state = DEAD",
};

/// Checks that exactly the filters of the grammar are taken, that they mean what is written, print to the same, and can be joined; and that an
/// error tells a place where it is one.
///
/// # Panics
/// If not.
pub fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    match GRAMMAR.parse(text) {
        Ok(comparisons) => {
            assert_eq!(expected(text).as_ref(), Some(&comparisons), "{text:?} is read otherwise");
            let printed = comparisons.iter().map(print).collect::<Vec<_>>().join(" AND ");
            // A filter may print longer than it was written, and then be too long.
            if printed.len() <= 2_000 {
                assert_eq!(GRAMMAR.parse(&printed).as_ref(), Ok(&comparisons), "{text:?} prints as {printed:?}");
            }
            let twice = format!("{text} AND\t{text}");
            if (1..=10).contains(&comparisons.len()) && twice.len() <= 2_000 {
                assert_eq!(
                    GRAMMAR.parse(&twice),
                    Ok([comparisons.clone(), comparisons].concat()),
                    "{text:?} can't be joined to itself"
                );
            }
        }
        Err(error) => {
            assert_eq!(expected(text), None, "{text:?} is refused: {error}");
            place(text, &what(&error.to_string()));
        }
    }
}

/// What a filter means, read in another way.
fn expected(text: &str) -> Option<Vec<Comparison>> {
    let tokens = (text.len() <= 2_000).then(|| tokens(text)).flatten()?;
    let is_whole = tokens.is_empty() || tokens.len() % 4 == 3 && tokens.len() / 4 < 20;
    let comparisons = tokens.chunks(4).map(|tokens| match tokens {
        [Token::Word(field), Token::Sign(op), Token::Word(value) | Token::Quoted(value), and @ ..]
            if and.is_empty() || *and == [Token::Word("AND".into())] =>
        {
            comparison(field, *op, value)
        }
        _ => None,
    });
    is_whole.then(|| comparisons.collect()).flatten()
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Sign(Op),
    Quoted(String),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            ' ' | '\t' | '\n' | '\r' => continue,
            '"' | '\'' => Token::Quoted(quoted(c, &mut rest)?),
            '=' => Token::Sign(Op::Eq),
            '!' => rest.next_if_eq(&'=').map(|_| Token::Sign(Op::Ne))?,
            '<' => Token::Sign(rest.next_if_eq(&'=').map_or(Op::Lt, |_| Op::Le)),
            '>' => Token::Sign(rest.next_if_eq(&'=').map_or(Op::Gt, |_| Op::Ge)),
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
            _ => return None,
        });
    }
    Some(tokens)
}

fn is_word(c: char) -> bool {
    c.is_ascii() && (c.is_alphanumeric() || "_.:+-/".contains(c))
}

fn quoted(quote: char, rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut value = String::new();
    loop {
        match rest.next()? {
            c if c == quote => return Some(value),
            '\\' => value.push(rest.next_if(|c| "\"'\\".contains(*c))?),
            c => value.push(c),
        }
    }
}

fn comparison(field: &str, op: Op, value: &str) -> Option<Comparison> {
    let is_equality = matches!(op, Op::Eq | Op::Ne);
    let (field, (op, value)) = match field {
        "note" if op == Op::Eq => ("note", (op, Value::Text(value.into()))),
        "event_type" if is_equality && is_event_type(value) => ("event_type", (op, Value::Text(value.into()))),
        "status_code" => ("status_code", (op, Value::Number(value.parse().ok()?))),
        "state" if is_equality => {
            let number = match value {
                "RETRYING" | "STATE_RETRYING" => 1,
                "DEAD" | "STATE_DEAD" => 3,
                _ => return None,
            };
            ("state", (op, Value::Number(number)))
        }
        "start_time" if !is_equality => {
            let nanos = OffsetDateTime::parse(value, &Rfc3339).ok()?.unix_timestamp_nanos();
            // `<` and `>=` have to let those pass that are before it in its millisecond.
            let up = if matches!(op, Op::Lt | Op::Ge) { 999_999 } else { 0 };
            ("start_time", (op, Value::Number(i64::try_from((nanos + up).div_euclid(1_000_000)).ok()?)))
        }
        _ => return None,
    };
    Some(Comparison { field, op, value })
}

/// A comparison as it is plainest.
fn print(comparison: &Comparison) -> String {
    let Comparison { field, op, value } = comparison;
    let sign = match op {
        Op::Eq => "=",
        Op::Ne => "!=",
        Op::Lt => "<",
        Op::Le => "<=",
        Op::Gt => ">",
        Op::Ge => ">=",
    };
    match value {
        Value::Text(text) => format!("{field} {sign} \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Value::Number(ms) if *field == "start_time" => format!("{field} {sign} \"{}\"", time(*op, *ms)),
        Value::Number(1) if *field == "state" => format!("{field} {sign} RETRYING"),
        Value::Number(3) if *field == "state" => format!("{field} {sign} STATE_DEAD"),
        Value::Number(number) => format!("{field} {sign} {number}"),
    }
}

/// A time in RFC 3339, in the zone in which its year has four digits.
fn time(op: Op, ms: i64) -> String {
    let written = |hours: i8, before: i128| {
        let offset = UtcOffset::from_hms(hours, hours.signum() * 59, 0).ok()?;
        let local = i128::from(ms) * 1_000_000 - before + i128::from(offset.whole_seconds()) * 1_000_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(local).ok()?.replace_offset(offset).format(&Rfc3339).ok()
    };
    let exact = [0, 23, -23].into_iter().find_map(|hours| written(hours, 0));
    // The end of the year 9999 everywhere can be meant only by what is rounded up to it.
    let rounded = || matches!(op, Op::Lt | Op::Ge).then(|| written(-23, 1)).flatten();
    exact.or_else(rounded).unwrap_or_else(|| panic!("{ms} is no time that RFC 3339 knows"))
}

/// What an error says, without what every one says.
fn what(error: &str) -> String {
    let fields = GRAMMAR.fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let help = format!(". It takes comparisons joined by AND, of {fields}; such as `{}`", GRAMMAR.example);
    error.strip_suffix(&help).unwrap_or_else(|| panic!("{error:?} does not say what the list takes")).to_owned()
}

/// Where an error tells a place, the text before it must be right, and want exactly what the error says.
fn place(text: &str, what: &str) {
    // What is cited ends with a quote.
    let Some((said, number)) = what.rsplit_once(" at character ") else { return };
    let Ok(number) = number.parse::<usize>() else { return };
    let (at, next) = text.char_indices().nth(number - 1).unwrap_or_else(|| panic!("{what}: {text:?} is shorter"));
    assert!(!" \t\n\r".contains(next), "{what}: there is a blank in {text:?}");
    let said = if said.ends_with("value") { "a value is expected" } else { said };
    match (GRAMMAR.parse(&text[..at]), said) {
        (Ok(before), "AND is expected") => assert!(!before.is_empty(), "{what}: nothing is before it in {text:?}"),
        (Ok(before), "a field is expected") => assert_eq!(before, [], "{what}: in {text:?}"),
        (Err(error), said) => assert_eq!(self::what(&error.to_string()), format!("{said} at the end"), "of {text:?}"),
        (Ok(_), said) => panic!("{said}, but the text before is whole: {text:?}"),
    }
}
