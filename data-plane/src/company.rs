//! Whether a tenant is alone, or others have work as well. Pure: time is passed in, in milliseconds since 1970.

use std::sync::Arc;

/// For how long after its last work a tenant counts as one that has some.
const SEEN_MS: i64 = 1_000;

/// Whose work came lately: as much of it as says whether one tenant is alone.
#[derive(Debug, Default)]
pub struct Company {
    /// Whose the last was, and whose the last that was another's: when they came.
    last: Option<(Arc<str>, i64)>,
    other: Option<(Arc<str>, i64)>,
}

impl Company {
    /// Work of a tenant has come.
    pub fn came(&mut self, tenant: &str, now_ms: i64) {
        match &mut self.last {
            Some((last, at_ms)) if **last == *tenant => *at_ms = now_ms,
            _ => {
                let last = self.last.replace((tenant.into(), now_ms));
                self.other = last.or(self.other.take());
            }
        }
    }

    /// Whether nobody else has had any lately.
    pub fn is_alone(&self, tenant: &str, now_ms: i64) -> bool {
        [&self.last, &self.other]
            .into_iter()
            .flatten()
            .all(|(other, at_ms)| **other == *tenant || at_ms.saturating_add(SEEN_MS) < now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_had_no_company_for_a_second_is_alone() {
        let mut company = Company::default();
        assert!(company.is_alone("a", 0));
        company.came("a", 0);
        assert!(company.is_alone("a", 0) && !company.is_alone("b", SEEN_MS));
        company.came("b", 500);
        company.came("b", 600);
        company.came("a", 700);
        assert!(!company.is_alone("a", 600 + SEEN_MS) && company.is_alone("a", 601 + SEEN_MS));
        assert!(!company.is_alone("b", 600 + SEEN_MS));
        company.came("c", 700);
        assert!(!company.is_alone("a", 700 + SEEN_MS) && !company.is_alone("c", 700 + SEEN_MS));
    }
}
