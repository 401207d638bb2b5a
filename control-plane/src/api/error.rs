//! What a caller is told: the only map to gRPC's `Status`.
//!
//! Every status has an `ErrorInfo` with a reason for programs and says to people what was wrong, where, and what to do.

use std::collections::HashMap;
use std::time::Duration;

use hookwire_proto::{ERROR_DOMAIN, name};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use crate::auth::Denied;
use crate::store;

/// The most violations that are told one by one: details travel in a header, and clients take only some KiB of headers.
const MAX_VIOLATIONS: usize = 20;
/// When to try again what failed for want of the store.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call has no API key.
    #[error("no API key: send it as metadata `authorization: Bearer <key>`")]
    KeyMissing,
    /// There is no such API key, or there is no more.
    #[error("the API key is not valid: it is unknown or was revoked")]
    KeyInvalid,
    /// The API key or tenant token was valid until a time that is past.
    #[error("the API key or tenant token has expired; ask for another")]
    KeyExpired,
    /// The key may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Fields are wrong; at least one.
    #[error("{}", summary(.0))]
    Invalid(Vec<Violation>),
    /// The operator has switched the index off.
    #[error("the index is off: messages, deliveries, attempts and dead letters are not kept (setting `index.policy`)")]
    IndexDisabled,
    /// This control plane ends, and what it streams.
    #[error("this control plane is shutting down: go on with another")]
    ShuttingDown,
    /// The log did not do it.
    #[error(transparent)]
    Log(#[from] hookwire_log::Error),
    /// No node has told what came of a ping.
    #[error(
        "no node has told within {} s what came of the ping: none owns the subscription's partition yet, or they are behind; look \
         whether data-plane nodes are ready, or try again with a longer timeout",
        .wait.as_secs_f64()
    )]
    PingNotAnswered {
        /// The subscription.
        name: String,
        /// How long was waited.
        wait: Duration,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, such as `subscription.url`.
    pub field: String,
    /// What it must be.
    pub description: String,
}

impl Error {
    fn code_and_reason(&self) -> (Code, &'static str) {
        use store::Error as Store;
        match self {
            Self::KeyMissing => (Code::Unauthenticated, "API_KEY_MISSING"),
            Self::KeyInvalid => (Code::Unauthenticated, "API_KEY_INVALID"),
            Self::KeyExpired => (Code::Unauthenticated, "API_KEY_EXPIRED"),
            Self::Denied(_) => (Code::PermissionDenied, "PERMISSION_DENIED"),
            Self::Invalid(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Self::IndexDisabled => (Code::FailedPrecondition, "INDEX_DISABLED"),
            Self::ShuttingDown => (Code::Unavailable, "NOT_READY"),
            Self::PingNotAnswered { .. } => (Code::DeadlineExceeded, "PING_NOT_ANSWERED"),
            // Whatever it is, it is the operator's to mend, and nothing that the caller sent.
            Self::Log(_) => (Code::Unavailable, "LOG_UNAVAILABLE"),
            Self::Store(error) => match error {
                Store::NotFound { .. } => (Code::NotFound, "NOT_FOUND"),
                Store::AlreadyExists { .. } => (Code::AlreadyExists, "ALREADY_EXISTS"),
                Store::EtagMismatch { .. } => (Code::Aborted, "ETAG_MISMATCH"),
                Store::RequestIdReused => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
                Store::AnswerLost => (Code::FailedPrecondition, "ANSWER_LOST"),
                Store::EventTypesDeprecated { .. } => (Code::FailedPrecondition, "EVENT_TYPE_DEPRECATED"),
                Store::HasChildren { .. } => (Code::FailedPrecondition, "HAS_CHILDREN"),
                Store::EventTypesNotRegistered { .. } => (Code::FailedPrecondition, "EVENT_TYPE_NOT_REGISTERED"),
                Store::TooManySecrets { .. } => (Code::FailedPrecondition, "TOO_MANY_SECRETS"),
                Store::LastSecret { .. } => (Code::FailedPrecondition, "LAST_SECRET"),
                Store::NoSecret { .. } => (Code::FailedPrecondition, "NO_SECRET"),
                Store::ReplayEnded { .. } => (Code::FailedPrecondition, "REPLAY_ENDED"),
                Store::TooManyReplays { .. } => (Code::FailedPrecondition, "TOO_MANY_REPLAYS"),
                Store::SignsNoToken { .. } => (Code::FailedPrecondition, "SIGNS_NO_TOKEN"),
                Store::Unavailable(_) => (Code::Unavailable, "STORE_UNAVAILABLE"),
                Store::Setting { .. }
                | Store::NewerSchema { .. }
                | Store::MasterKeyMissing { .. }
                | Store::Corrupt { .. }
                | Store::Failed(_) => (Code::Internal, "INTERNAL"),
            },
        }
    }

    fn message(&self, code: Code) -> String {
        match code {
            Code::Unavailable if matches!(self, Self::ShuttingDown) => self.to_string(),
            Code::Unavailable if matches!(self, Self::Log(_)) => "the log is unavailable; try again".into(),
            Code::Unavailable => "the store is unavailable; try again, a write may or may not have been made".into(),
            Code::Internal => "an error of the server, which has logged it".into(),
            _ => self.to_string(),
        }
    }

    /// What programs may want besides the reason.
    fn details(&self, code: Code, reason: &str) -> ErrorDetails {
        use store::Error as Store;
        let mut metadata = HashMap::new();
        let mut details = ErrorDetails::new();
        let mut precondition = |subject: &str| {
            details.add_precondition_failure_violation(reason, subject, self.to_string());
        };
        match self {
            Self::KeyMissing | Self::KeyInvalid | Self::KeyExpired => {}
            Self::Denied(denied) => drop(metadata.insert("apiKey".into(), denied.key.clone())),
            Self::Invalid(violations) => {
                let told = violations.iter().take(MAX_VIOLATIONS);
                let told = told.map(|wrong| FieldViolation::new(&wrong.field, &wrong.description));
                details.set_bad_request(told.collect::<Vec<_>>());
            }
            Self::Store(Store::RequestIdReused) => {
                details.set_bad_request(vec![FieldViolation::new("request_id", self.to_string())]);
            }
            Self::PingNotAnswered { name, .. }
            | Self::Store(Store::NotFound { name } | Store::AlreadyExists { name }) => {
                details.set_resource_info(resource_type(name), name, "", "");
            }
            Self::Store(Store::EtagMismatch { name, current }) => {
                metadata.insert("etag".into(), current.clone());
                details.set_resource_info(resource_type(name), name, "", "");
            }
            Self::Store(Store::HasChildren { name } | Store::LastSecret { name } | Store::SignsNoToken { name }) => {
                precondition(name)
            }
            Self::Store(Store::ReplayEnded { name, .. } | Store::TooManyReplays { tenant: name, .. }) => {
                precondition(name)
            }
            Self::Store(Store::TooManySecrets { subscription, .. } | Store::NoSecret { subscription, .. }) => {
                precondition(subscription);
            }
            Self::Store(Store::AnswerLost) => precondition("request_id"),
            Self::IndexDisabled => precondition("index.policy"),
            Self::Log(_) | Self::ShuttingDown => {}
            Self::Store(
                Store::EventTypesNotRegistered { tenant, event_types }
                | Store::EventTypesDeprecated { tenant, event_types },
            ) => {
                let told = event_types.iter().take(MAX_VIOLATIONS).map(|event_type| {
                    let subject = format!("{tenant}/eventTypes/{event_type}");
                    PreconditionViolation::new(reason, subject, "subscription.event_types names it")
                });
                details.set_precondition_failure(told.collect::<Vec<_>>());
            }
            Self::Store(_) => {}
        }
        if code == Code::Unavailable {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        details.set_error_info(reason, ERROR_DOMAIN, metadata);
        details
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = error.code_and_reason();
        if let Code::Unavailable | Code::Internal = code {
            tracing::error!(reason, error = &error as &dyn std::error::Error, "a call failed");
        }
        Self::with_error_details(code, error.message(code), error.details(code, reason))
    }
}

impl From<store::Error> for Status {
    fn from(error: store::Error) -> Self {
        Error::from(error).into()
    }
}

/// The type of a resource, as the API declares it, from its name.
fn resource_type(name: &str) -> &'static str {
    if name::Tenant::parse(name).is_ok() {
        "hookwire.dev/Tenant"
    } else if name::EventType::parse(name).is_ok() {
        "hookwire.dev/EventType"
    } else if name::Subscription::parse(name).is_ok() {
        "hookwire.dev/Subscription"
    } else if name::Secret::parse(name).is_ok() {
        "hookwire.dev/Secret"
    } else if name::Node::parse(name).is_ok() {
        "hookwire.dev/Node"
    } else if name::Message::parse(name).is_ok() {
        "hookwire.dev/Message"
    } else if name::Delivery::parse(name).is_ok() {
        "hookwire.dev/Delivery"
    } else if name::Attempt::parse(name).is_ok() {
        "hookwire.dev/Attempt"
    } else if name::DeadLetter::parse(name).is_ok() {
        "hookwire.dev/DeadLetter"
    } else if name::Replay::parse(name).is_ok() {
        "hookwire.dev/Replay"
    } else if name::AuditEntry::parse(name).is_ok() {
        "hookwire.dev/AuditEntry"
    } else {
        "hookwire.dev/ApiKey"
    }
}

fn summary(violations: &[Violation]) -> String {
    let told: Vec<_> =
        violations.iter().take(3).map(|wrong| format!("{}: {}", wrong.field, wrong.description)).collect();
    let more = match violations.len().saturating_sub(told.len()) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", told.join("; "))
}
