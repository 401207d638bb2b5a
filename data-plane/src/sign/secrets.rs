//! What was secret in a request, in every form in which an answer may give it back.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::HeaderValue;
use zeroize::Zeroizing;

/// A piece of base64 that is shorter than this could be anything.
const MIN_PIECE: usize = 12;

/// The secrets of one attempt. Keys are wiped when dropped; prints nothing of them.
#[derive(Default)]
pub struct Secrets {
    /// Keys as bytes.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// The pre-shared key.
    pub shared_key: Option<HeaderValue>,
    /// Whatever else is text: values of headers, a password, an access token.
    pub texts: Vec<Zeroizing<Vec<u8>>>,
    /// The token.
    pub token: Zeroizing<String>,
    /// `webhook-signature`.
    pub signature: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// No form of a secret is shorter: the encodings of a key are longer than it, and so is what it signs.
    pub fn shortest(&self) -> usize {
        let keys = self.keys.iter().chain(&self.texts).map(|key| key.len());
        keys.chain(self.shared_key.as_ref().map(HeaderValue::len)).min().unwrap_or_default()
    }

    /// No secret that is text is longer.
    pub fn longest(&self) -> usize {
        let texts = self.texts.iter().map(|text| text.len());
        texts.chain(self.shared_key.as_ref().map(HeaderValue::len)).max().unwrap_or_default().max(self.token.len())
    }

    /// Every form in which an answer may give a secret back, the longest first: plain, as JSON and URLs escape it, in
    /// hexadecimal and base64, also as a part of something longer that was encoded.
    pub fn forms(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let mut forms = Forms::default();
        for key in &self.keys {
            // As its owner has it. Encoded once more, what pads it is not looked for.
            for base64 in [&STANDARD, &URL_SAFE] {
                forms.escaped(Zeroizing::new(base64.encode(&**key)).as_bytes());
            }
            for base64 in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                forms.text(Zeroizing::new(base64.encode(&**key)).as_bytes());
            }
            forms.bytes(key);
        }
        if let Some(value) = &self.shared_key {
            forms.text(value.as_bytes());
        }
        for text in &self.texts {
            forms.text(text);
        }
        forms.text(self.token.as_bytes());
        for signature in self.signature.split(' ') {
            forms.text(signature.split_once(',').map_or(signature, |(_, base64)| base64).as_bytes());
        }
        let mut forms = forms.0;
        forms.retain(|form| !form.is_empty());
        forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        forms
    }
}

#[derive(Default)]
struct Forms(Vec<Zeroizing<Vec<u8>>>);

impl Forms {
    /// What is text: itself, as it is escaped, and as its bytes are encoded.
    fn text(&mut self, plain: &[u8]) {
        self.escaped(plain);
        self.bytes(plain);
    }

    fn escaped(&mut self, plain: &[u8]) {
        let backslash = |byte: u8| vec![b'\\', byte];
        let percent = |byte: u8| format!("%{byte:02X}").into_bytes();
        let lower = |byte: u8| format!("%{byte:02x}").into_bytes();
        self.0.push(plain.to_vec().into());
        self.0.push(escaped(plain, |byte| matches!(byte, b'"' | b'\\'), backslash));
        self.0.push(escaped(plain, |byte| matches!(byte, b'"' | b'\\' | b'/'), backslash));
        let reserved: &dyn Fn(u8) -> bool = &|byte| !(byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
        for which in [reserved, &|_| true] {
            self.0.push(escaped(plain, which, percent));
            self.0.push(escaped(plain, which, lower));
        }
    }

    /// What is bytes: themselves, in hexadecimal, and in base64.
    fn bytes(&mut self, plain: &[u8]) {
        self.0.push(plain.to_vec().into());
        self.0.push(hex::encode(plain).into_bytes().into());
        self.0.push(hex::encode_upper(plain).into_bytes().into());
        for base64 in [&STANDARD, &URL_SAFE] {
            // Padded only where it was encoded alone, and then what is before the padding is here too.
            self.0.extend((0..3).filter_map(|before| piece(base64, plain, before)));
        }
    }
}

/// What the base64 of something longer has of `plain`, when `before` bytes (modulo 3) stand before it: all characters that
/// hold nothing else.
fn piece(base64: &impl base64::Engine, plain: &[u8], before: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut longer = Zeroizing::new(vec![0; before]);
    longer.reserve_exact(plain.len());
    longer.extend_from_slice(plain);
    let mut text = Zeroizing::new(base64.encode(&*longer).into_bytes());
    text.truncate(longer.len() * 8 / 6);
    let others = (before * 8).div_ceil(6);
    if text.len() < others + MIN_PIECE {
        return None;
    }
    text.drain(..others);
    Some(text)
}

/// A byte is escaped as so many at most.
pub const LONGEST_ESCAPE: usize = 3;

/// `plain`, with the bytes that `which` selects written as `how` says.
fn escaped(plain: &[u8], which: impl Fn(u8) -> bool, how: impl Fn(u8) -> Vec<u8>) -> Zeroizing<Vec<u8>> {
    // With room from the beginning: what grows is moved, and leaves behind what nobody wipes.
    let mut escaped = Zeroizing::new(Vec::with_capacity(LONGEST_ESCAPE * plain.len()));
    for &byte in plain {
        match which(byte) {
            true => escaped.extend_from_slice(&how(byte)),
            false => escaped.push(byte),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(forms: &[Zeroizing<Vec<u8>>], text: &str) -> bool {
        forms.iter().any(|form| text.as_bytes().windows(form.len()).any(|window| window == form.as_slice()))
    }

    proptest! {
        #[test]
        fn a_secret_is_known_inside_of_something_that_was_encoded(
            before in prop::collection::vec(any::<u8>(), 0..5), after in prop::collection::vec(any::<u8>(), 0..5),
            key in prop::collection::vec(any::<u8>(), 24..64), value in "[!-~]{12,60}",
        ) {
            let shared_key = Some(HeaderValue::from_str(&value).unwrap());
            let secrets = Secrets { keys: vec![key.clone().into()], shared_key, ..Secrets::default() };
            let forms = secrets.forms();
            for secret in [key.clone(), value.into_bytes(), STANDARD.encode(&key).into_bytes()] {
                let longer = [before.clone(), secret, after.clone()].concat();
                for text in [STANDARD.encode(&longer), URL_SAFE_NO_PAD.encode(&longer), hex::encode(&longer), hex::encode_upper(&longer)] {
                    prop_assert!(found(&forms, &text), "{text}");
                }
            }
        }
    }

    #[test]
    fn no_form_has_grown_and_left_a_piece_of_itself_behind() {
        let plain = [b'"'; 88];
        for is_escaped in [true, false] {
            let form = escaped(&plain, |_| is_escaped, |byte| format!("%{byte:02X}").into_bytes());
            assert_eq!(form.capacity(), LONGEST_ESCAPE * plain.len());
        }
    }

    #[test]
    fn a_short_shared_key_makes_no_short_pieces() {
        let shared_key = Some(HeaderValue::from_static("42"));
        let secrets = Secrets { shared_key, ..Secrets::default() };
        let mut forms: Vec<_> = secrets.forms().iter().map(|form| String::from_utf8(form.to_vec()).unwrap()).collect();
        forms.sort();
        assert_eq!(forms, ["%34%32", "3432", "42"]);
    }
}
