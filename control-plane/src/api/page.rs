//! Pages of lists (AIP-158), by key: a page begins after the last item of the one before, whatever was written meanwhile.
//!
//! A token is opaque: a check and where the next page begins. The check binds it to one list of one parent; it is no
//! authorization, and whoever makes one up learns nothing that the first page would not begin to show.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::validate::Violations;

const DEFAULT_SIZE: usize = 50;
const MAX_SIZE: usize = 1_000;
const CHECK_BYTES: usize = 8;
/// Longer than any id.
const MAX_CURSOR_BYTES: usize = 128;

/// What is asked for: which list, and which page of it.
#[derive(Debug)]
pub struct Page<'a> {
    list: &'static str,
    parent: &'a str,
    size: usize,
    /// Where the page before ended; empty for the first.
    pub after: String,
}

impl<'a> Page<'a> {
    /// Reads what a request says. `list` names the list, `parent` what it is a list of.
    pub fn read(
        violations: &mut Violations,
        list: &'static str,
        parent: &'a str,
        page_size: i32,
        page_token: &str,
    ) -> Self {
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => {
                violations.add("page_size", "must not be negative; 0 or none is 50, and 1000 is the most");
                DEFAULT_SIZE
            }
        };
        let after = decode(list, parent, page_token).unwrap_or_else(|| {
            violations.add("page_token", "must be next_page_token of the page before, of the same list and parent");
            String::new()
        });
        Self { list, parent, size, after }
    }

    /// How many items to ask the store for: one more than the page has, to see whether there is a next.
    pub fn limit(&self) -> u64 {
        self.size as u64 + 1
    }

    /// How many items the page has at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The items of the page, and the token of the next; `key` says where an item is in the list.
    pub fn finish<T>(&self, mut items: Vec<T>, key: impl FnOnce(&T) -> String) -> (Vec<T>, String) {
        if items.len() <= self.size {
            return (items, String::new());
        }
        items.truncate(self.size);
        let next = items.last().map(|last| encode(self.list, self.parent, &key(last))).unwrap_or_default();
        (items, next)
    }
}

/// The token of the page of a list that begins behind `cursor`.
pub fn encode(list: &str, parent: &str, cursor: &str) -> String {
    URL_SAFE_NO_PAD.encode([&check(list, parent, cursor)[..], cursor.as_bytes()].concat())
}

/// Where the page begins; `None` if this is no token of this list.
pub fn decode(list: &str, parent: &str, token: &str) -> Option<String> {
    if token.is_empty() {
        return Some(String::new());
    }
    if token.len() > 2 * (CHECK_BYTES + MAX_CURSOR_BYTES) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (found, cursor) = bytes.split_at_checked(CHECK_BYTES)?;
    let cursor = std::str::from_utf8(cursor).ok()?;
    // Ids are made of these; nothing else gets into a query.
    let is_cursor = cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    (is_cursor && !cursor.is_empty() && found == check(list, parent, cursor)).then(|| cursor.to_owned())
}

fn check(list: &str, parent: &str, cursor: &str) -> [u8; CHECK_BYTES] {
    // A line feed is in none of them.
    let hash = digest::digest(&digest::SHA256, format!("{list}\n{parent}\n{cursor}").as_bytes());
    hash.as_ref()[..CHECK_BYTES].try_into().expect("SHA-256 is longer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read<'a>(parent: &'a str, size: i32, token: &str) -> (Page<'a>, bool) {
        let mut violations = Violations::default();
        let page = Page::read(&mut violations, "list", parent, size, token);
        (page, violations.finish().is_ok())
    }

    #[test]
    fn sizes_are_coerced_and_negative_ones_refused() {
        for (asked, size) in [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            let (page, valid) = read("", asked, "");
            assert!(valid);
            assert_eq!(page.size, size);
        }
        assert!(!read("", -1, "").1);
    }

    proptest! {
        #[test]
        fn walking_the_pages_shows_every_item_once_in_order(
            ids in prop::collection::btree_set("[a-zA-Z][a-zA-Z0-9_.-]{0,20}", 0..60), size in 1..20,
        ) {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let (page, valid) = read("tenants/a", size, &token);
                prop_assert!(valid);
                let found = ids.iter().filter(|id| **id > page.after).take(usize::try_from(page.limit()).unwrap());
                let (items, next) = page.finish(found.cloned().collect(), Clone::clone);
                prop_assert!(next.is_empty() || items.len() == usize::try_from(size).unwrap());
                seen.extend(items);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            prop_assert_eq!(seen, ids.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_token_is_good_for_its_own_list_and_parent_only(id in "[a-z][a-z0-9.]{0,62}") {
            let token = encode("list", "tenants/a", &id);
            prop_assert_eq!(decode("list", "tenants/a", &token), Some(id));
            prop_assert_eq!(decode("list", "tenants/b", &token), None);
            prop_assert_eq!(decode("other", "tenants/a", &token), None);
        }

        #[test]
        fn other_text_is_no_token(text in "\\PC{1,60}|[A-Za-z0-9_-]{1,300}") {
            prop_assert_eq!(decode("list", "tenants/a", &text), None);
        }

        #[test]
        fn what_is_no_id_never_gets_into_a_query(cursor in any::<String>()) {
            if let Some(read) = decode("list", "", &encode("list", "", &cursor)) {
                prop_assert!(read.is_ascii() && !read.contains('\0'));
            }
        }
    }
}
