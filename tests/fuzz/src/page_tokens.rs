//! Tokens of pages ([`hookwire_control_plane::api::page`]): bound to their list and parent, and nothing else decodes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hookwire_control_plane::api::page::{decode, encode};

use crate::Target;

/// The first line names a list, the last is a cursor or a token, what is between them is the parent.
pub const TARGET: Target = Target {
    name: "page_tokens",
    check,
    dictionary: &[
        "\n",
        "subscriptions",
        "attempts",
        "tenants/acme",
        "tenants/acme/subscriptions/s1",
        "s1",
        "a.b_c-d",
        ".",
        "-",
        "_",
        "=",
        "AAAAAAAA",
        "OFpvkMUIKjs",
        "01976f0e-7b6a-7000-8000-000000000000",
        "é",
        "\0",
        " ",
        "'",
    ],
};

/// Cursors up to this many bytes are promised to work: they are longer than any id.
const CURSOR_BYTES: usize = 128;

/// Checks that a token is read as it was made, by its own list and parent only, and that nothing near it is read at all.
///
/// # Panics
/// If not.
pub fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let (list, rest) = text.split_once('\n').unwrap_or(("list", text));
    let (parent, last) = rest.rsplit_once('\n').unwrap_or(("", rest));
    assert_eq!(decode(list, parent, "").as_deref(), Some(""), "no token is the first page");

    // As it came.
    if !last.is_empty()
        && let Some(cursor) = decode(list, parent, last)
    {
        assert!(is_cursor(&cursor), "{cursor:?} gets into a query");
        assert_eq!(encode(list, parent, &cursor), last, "{cursor:?} has two tokens");
        alone(list, parent, last);
    }

    // As it would be made.
    let token = encode(list, parent, last);
    let decoded = decode(list, parent, &token);
    if is_cursor(last) && last.len() <= CURSOR_BYTES {
        assert_eq!(decoded.as_deref(), Some(last), "{token} is not read as it was made");
    } else {
        assert!(decoded.is_none_or(|cursor| cursor == last && is_cursor(last)), "{last:?} gets into a query");
    }
    if is_cursor(last) {
        alone(list, parent, &token);
        neighbours(list, parent, &token, data);
    }
}

/// What may get into a query.
fn is_cursor(text: &str) -> bool {
    const CURSOR: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    !text.is_empty() && text.chars().all(|c| CURSOR.contains(c))
}

/// Nothing but its own list and parent reads a token.
fn alone(list: &str, parent: &str, token: &str) {
    let others = [
        (format!("{list}s"), parent.to_owned()),
        (list.chars().skip(1).collect(), parent.to_owned()),
        (list.to_owned(), format!("{parent}a")),
        (list.to_owned(), parent.chars().skip(1).collect()),
        (list.to_owned(), format!("{parent}\n")),
        (format!("{list}{parent}"), String::new()),
        (String::new(), format!("{list}{parent}")),
        (parent.lines().next().unwrap_or_default().to_owned(), list.to_owned()),
    ];
    // No list has a line feed in its name.
    let others = others.iter().filter(|(l, p)| (&**l, &**p) != (list, parent) && !l.contains('\n'));
    for (other_list, other_parent) in others {
        assert_eq!(decode(other_list, other_parent, token), None, "read by {other_list:?} of {other_parent:?}");
    }
}

/// A token with any bit of some of its bytes or characters changed is none. The input says which.
fn neighbours(list: &str, parent: &str, token: &str, data: &[u8]) {
    let bytes = URL_SAFE_NO_PAD.decode(token).expect("base64, as it was made");
    for (at, byte) in data.iter().take(16).enumerate() {
        let (at, bit) = ((at * 31 + usize::from(*byte >> 3)) % bytes.len(), byte & 7);
        let mut other = bytes.clone();
        other[at] ^= 1 << bit;
        let other = URL_SAFE_NO_PAD.encode(other);
        assert_eq!(decode(list, parent, &other), None, "bit {bit} of byte {at} of {token} does not matter");

        let mut other = token.as_bytes().to_vec();
        let at = at % other.len();
        other[at] ^= 1 << bit;
        if let Ok(other) = std::str::from_utf8(&other) {
            assert_eq!(decode(list, parent, other), None, "character {at} of {token} does not matter");
        }
    }
    for other in
        [format!("{token}="), format!("{token}A"), format!("A{token}"), format!(" {token}"), format!("{token}\n")]
    {
        assert_eq!(decode(list, parent, &other), None, "{other:?} is read as {token}");
    }
    assert_eq!(decode(list, parent, &token[..token.len() - 1]), None, "{token} is read without its last character");
    // Moved between its parts, the text that the check is over is not another token's.
    let cursor = decode(list, parent, token);
    if let Some(first) = cursor.as_deref().and_then(|cursor| cursor.chars().next()) {
        let shifted = encode(list, &format!("{parent}{first}"), &cursor.as_deref().unwrap_or_default()[1..]);
        assert_eq!(decode(list, parent, &shifted), None);
    }
}
