//! What the services over the index have in common: whether it is on, and how a list is asked for.

use hookwire_proto::name;
use uuid::Uuid;

use super::error::Error;
use super::filter::{Grammar, Value};
use super::page::Page;
use super::validate::Violations;
use super::{Api, filter};
use crate::index::Policy;
use crate::store::index::{self, Column, Condition, Op, Query};

/// A list: its name, and what its filters take.
pub(super) struct List {
    pub name: &'static str,
    pub grammar: Grammar,
    /// What fields of the filter are in the index.
    pub columns: &'static [(&'static str, Column)],
}

/// What a request for a page says, as far as all lists have it.
pub(super) struct Asked<'a> {
    pub parent: &'a str,
    pub page_size: i32,
    pub page_token: &'a str,
    pub filter: &'a str,
}

impl Api {
    /// The index, if there is any.
    pub(super) fn index(&self) -> Result<&index::Index, Error> {
        match self.policy {
            Policy::None => Err(Error::IndexDisabled),
            Policy::All | Policy::Failures => Ok(&self.index),
        }
    }
}

impl List {
    /// Reads what is asked for; `parent` gives the tenant, and what else the list is of.
    pub fn read(
        &self,
        asked: &Asked<'_>,
        parent: impl FnOnce(&mut Violations) -> Option<(name::Tenant, Option<(Column, String)>)>,
    ) -> Result<(PageOf, Query), Error> {
        let mut violations = Violations::default();
        let parent = parent(&mut violations);
        // A page goes on with the same filter only.
        let list_of = format!("{}\n{}", asked.parent, asked.filter);
        let page = Page::read(&mut violations, self.name, &list_of, asked.page_size, asked.page_token);
        let before = match &*page.after {
            "" => None,
            key => violations.check("page_token", Uuid::parse_str(key)),
        };
        let comparisons = violations.check("filter", self.grammar.parse(asked.filter)).unwrap_or_default();
        let conditions: Option<Vec<_>> = comparisons
            .into_iter()
            .map(|comparison| self.condition(&mut violations, parent.as_ref().map(|parent| &parent.0), comparison))
            .collect();
        let size = page.size();
        let ((tenant, of), conditions) = violations.finish_with(parent.zip(conditions))?;
        let of = of.map(|(column, id)| Condition { column, op: Op::Eq, value: index::Value::Text(id) });
        let conditions = of.into_iter().chain(conditions).collect();
        Ok((PageOf { list: self.name, list_of }, Query { tenant, conditions, before, size }))
    }

    fn condition(
        &self,
        violations: &mut Violations,
        tenant: Option<&name::Tenant>,
        comparison: filter::Comparison,
    ) -> Option<Condition> {
        let (_, column) = self.columns.iter().find(|(field, _)| *field == comparison.field)?;
        let value = match comparison.value {
            Value::Number(number) => index::Value::Number(number),
            // A name or its last part.
            Value::Text(text) => match name::Subscription::parse(&text) {
                Ok(subscription) if tenant.is_none_or(|tenant| tenant.tenant == subscription.tenant) => {
                    index::Value::Text(subscription.subscription)
                }
                Ok(_) => {
                    violations.add("filter", "a subscription must be of the same tenant as parent");
                    return None;
                }
                Err(_) => index::Value::Text(text),
            },
        };
        Some(Condition { column: *column, op: comparison.op, value })
    }
}

/// Which list a page is of.
pub(super) struct PageOf {
    list: &'static str,
    list_of: String,
}

impl PageOf {
    /// The token of the page that goes on at `next`.
    pub fn token(&self, next: Option<Uuid>) -> String {
        next.map(|next| super::page::encode(self.list, &self.list_of, &next.simple().to_string())).unwrap_or_default()
    }
}

/// A subscription in a filter: its name, or the last part of it.
pub(super) fn check_subscription(text: &str) -> Result<(), name::Error> {
    name::check_id(text).or_else(|error| name::Subscription::parse(text).map(drop).map_err(|_| error))
}

/// A message's name, or all of a tenant's.
pub(super) fn messages_parent(
    violations: &mut Violations,
    parent: &str,
) -> Option<(name::Tenant, Option<(Column, String)>)> {
    if let Some(tenant) = name::all_of(parent, "messages") {
        return Some((tenant, None));
    }
    let message = violations.check("parent", name::Message::parse(parent))?;
    Some((name::Tenant { tenant: message.tenant }, Some((Column::Message, message.message))))
}

/// A subscription's name, or all of a tenant's.
pub(super) fn subscriptions_parent(
    violations: &mut Violations,
    parent: &str,
) -> Option<(name::Tenant, Option<(Column, String)>)> {
    if let Some(tenant) = name::all_of(parent, "subscriptions") {
        return Some((tenant, None));
    }
    let subscription = violations.check("parent", name::Subscription::parse(parent))?;
    Some((name::Tenant { tenant: subscription.tenant }, Some((Column::Subscription, subscription.subscription))))
}

/// How an attempt can end without an answer, for filters.
pub(super) const ERRORS: filter::Kind = filter::Kind::Enum {
    prefix: "ERROR_",
    values: &[
        ("UNSPECIFIED", 0),
        ("DNS", 1),
        ("EGRESS", 2),
        ("CONNECT", 3),
        ("TLS", 4),
        ("TIMEOUT", 5),
        ("BROKEN", 6),
        ("PROTOCOL", 7),
        ("REQUEST", 8),
        ("TOKEN", 9),
        ("CERTIFICATE_EXPIRED", 10),
        ("CERTIFICATE_NAME", 11),
        ("CERTIFICATE_UNTRUSTED", 12),
        ("PROXY", 13),
    ],
};

/// Why a delivery can be dead, for filters.
pub(super) const REASONS: filter::Kind = filter::Kind::Enum {
    prefix: "REASON_",
    values: &[
        ("UNSPECIFIED", 0),
        ("EXHAUSTED", 1),
        ("EXPIRED", 2),
        ("GONE", 3),
        ("BACKLOG", 4),
        ("PAUSED", 5),
        ("DELETED", 6),
        ("BODY_LOST", 7),
    ],
};

#[cfg(test)]
mod tests {
    use hookwire_proto::{log, v1};

    use super::*;

    #[test]
    fn enums_of_api_log_and_filters_are_the_same() {
        let (filter::Kind::Enum { values: errors, .. }, filter::Kind::Enum { values: reasons, .. }) = (ERRORS, REASONS)
        else {
            panic!("both are enums")
        };
        for number in 0..100 {
            let (api, log) = (v1::attempt::Error::try_from(number), log::AttemptError::try_from(number));
            let name = errors.iter().find(|(_, value)| *value == number).map(|(name, _)| *name);
            assert_eq!(api.ok().map(|error| error.as_str_name().trim_start_matches("ERROR_")), name);
            assert_eq!(log.ok().map(|error| error.as_str_name().trim_start_matches("ATTEMPT_ERROR_")), name);
            let (api, log) = (v1::dead_letter::Reason::try_from(number), log::DeadReason::try_from(number));
            let name = reasons.iter().find(|(_, value)| *value == number).map(|(name, _)| *name);
            assert_eq!(api.ok().map(|reason| reason.as_str_name().trim_start_matches("REASON_")), name);
            assert_eq!(log.ok().map(|reason| reason.as_str_name().trim_start_matches("DEAD_REASON_")), name);
        }
    }

    #[test]
    fn a_subscription_is_a_name_or_an_id() {
        assert!(check_subscription("s1").is_ok() && check_subscription("tenants/a/subscriptions/s1").is_ok());
        assert!(check_subscription("S1").is_err() && check_subscription("tenants/a/messages/s1").is_err());
    }
}
