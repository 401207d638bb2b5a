//! Looks for secrets in what was kept: in every form in which they may have got there. Written for its own sake, and not with
//! what scrubs them.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// What is shorter could be there by chance.
const MIN_BYTES: usize = 8;
/// A piece of base64 that is shorter could be anything.
const MIN_PIECE: usize = 11;

/// Values to look for, each with a word for what it is.
#[derive(Default)]
pub struct Scanner {
    forms: Vec<Form>,
    /// Indexes of forms, by their first two bytes.
    begins: Vec<Vec<usize>>,
}

struct Form {
    what: String,
    how: &'static str,
    bytes: Vec<u8>,
}

impl Scanner {
    /// Looks for nothing yet.
    pub fn new() -> Self {
        Self { forms: Vec::new(), begins: vec![Vec::new(); 1 << 16] }
    }

    /// Adds a value.
    ///
    /// # Panics
    /// When it is so short that it may be there by chance.
    pub fn plant(&mut self, what: &str, value: &[u8]) {
        assert!(value.len() >= MIN_BYTES, "{what} is too short to be looked for");
        let escaped = |which: &dyn Fn(u8) -> bool, how: &dyn Fn(u8) -> Vec<u8>| -> Vec<u8> {
            value.iter().flat_map(|&byte| if which(byte) { how(byte) } else { vec![byte] }).collect()
        };
        let percent = |byte: u8| format!("%{byte:02X}").into_bytes();
        let backslash = |byte: u8| vec![b'\\', byte];
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        let mut forms = vec![
            ("as it is", value.to_vec()),
            ("escaped for JSON", escaped(&|byte| matches!(byte, b'"' | b'\\'), &backslash)),
            ("escaped for JSON, with the slash", escaped(&|byte| matches!(byte, b'"' | b'\\' | b'/'), &backslash)),
            ("percent-encoded", escaped(&|byte| !unreserved(byte), &percent)),
            ("percent-encoded throughout", escaped(&|_| true, &percent)),
            ("in hexadecimal", hex::encode(value).into_bytes()),
            ("in upper-case hexadecimal", hex::encode_upper(value).into_bytes()),
        ];
        for before in 0..3 {
            // Inside of something longer: all characters that hold bits of the value and of nothing else.
            let longer = [&vec![0; before], value].concat();
            let pure = (before * 8).div_ceil(6)..longer.len() * 8 / 6;
            if pure.len() >= MIN_PIECE {
                forms.push(("in base64", STANDARD.encode(&longer).as_bytes()[pure.clone()].to_vec()));
                forms.push(("in base64url", URL_SAFE.encode(&longer).as_bytes()[pure].to_vec()));
            }
        }
        for (how, bytes) in forms {
            self.begins[begin(&bytes)].push(self.forms.len());
            self.forms.push(Form { what: what.to_owned(), how, bytes });
        }
    }

    /// What is found in `text`, and in what lies in it as PostgreSQL writes bytes.
    pub fn find(&self, text: &[u8]) -> BTreeSet<String> {
        let mut found = self.find_plain(text);
        let mut rest = text;
        while let Some(at) = rest.windows(2).position(|two| two == b"\\x") {
            rest = &rest[at + 2..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() / 2 * 2;
            found.extend(self.find_plain(&hex::decode(&rest[..digits]).expect("they are digits")));
            rest = &rest[digits..];
        }
        found
    }

    fn find_plain(&self, text: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, two) in text.windows(2).enumerate() {
            for &index in &self.begins[begin(two)] {
                let form = &self.forms[index];
                if text[at..].starts_with(&form.bytes) {
                    found.insert(format!("{} {}", form.what, form.how));
                }
            }
        }
        found
    }
}

fn begin(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}
