//! What a caller of the data plane is told: the one map to gRPC's `Status`.
//!
//! Every status has an `ErrorInfo` with a reason for programs and says to people what was wrong, where, and what to do.

use std::collections::HashMap;
use std::time::Duration;

use hookwire_proto::{ERROR_DOMAIN, google_rpc};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt as _};

/// The most wrong fields that are told one by one: details travel in a header, and clients take only some KiB of headers.
const MAX_FIELDS: usize = 20;
/// The same for event types, whose names are long.
const MAX_EVENT_TYPES: usize = 10;

/// When it is worth trying again while the log is away.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The call has no API key.
    #[error("no API key: send it as metadata `authorization: Bearer <key>`")]
    KeyMissing,
    /// There is no such API key, or there is no more.
    #[error("the API key is not valid: it is unknown or was revoked")]
    KeyInvalid,
    /// The API key was valid until a time that is past.
    #[error("the API key has expired; ask for another")]
    KeyExpired,
    /// It is a tenant token, which only the control plane takes.
    #[error("tenant tokens are taken by the control plane only; publish with an API key")]
    TenantToken,
    /// The key may not do this. Whether the resource exists is not told.
    #[error("API key {key} {detail}")]
    PermissionDenied {
        /// Name of the key.
        key: String,
        /// What it may not do.
        detail: &'static str,
    },
    /// Fields are wrong.
    #[error("{} of the request {} wrong: {}", count(violations.len(), "field"), are(violations.len()), first(violations))]
    Invalid {
        /// Each field that is wrong; at least one.
        violations: Vec<Violation>,
    },
    /// The tenant does not exist.
    #[error("{tenant} does not exist")]
    TenantNotFound {
        /// Name of the tenant.
        tenant: String,
    },
    /// Event types of messages are not registered.
    #[error(
        "{} {} not registered with {tenant}; register with CreateEventType and give its revision as min_revision",
        list(event_types), are(event_types.len())
    )]
    EventTypesNotRegistered {
        /// Name of the tenant.
        tenant: String,
        /// Each type that is not registered, with the index of the first message that has it; at least one.
        event_types: Vec<(usize, String)>,
    },
    /// The node cannot take calls now.
    #[error("this node is not ready: {detail}; try again, with another node if there is one")]
    NotReady {
        /// Why.
        detail: &'static str,
    },
    /// The node's configuration has not come to what the caller asks for.
    #[error("this node has revision {has} of the configuration and did not get {asked} in time; try again")]
    RevisionNotReached {
        /// What the caller asks for.
        asked: i64,
        /// What the node has.
        has: i64,
    },
    /// The tenant's quota is used up. Nothing was written.
    #[error(
        "{tenant} has published all that its quota allows for now, and nothing was written; try again in {retry:.1?}"
    )]
    QuotaExceeded {
        /// Name of the tenant.
        tenant: String,
        /// When some may be published again.
        retry: Duration,
    },
    /// The log is away, as other calls have found out. Nothing was written.
    #[error("the log is unavailable and nothing was written; try again in a second")]
    LogUnavailable,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, such as `messages[3].event_type`.
    pub field: String,
    /// What it must be.
    pub description: String,
}

impl Error {
    fn code(&self) -> Code {
        match self {
            Self::KeyMissing | Self::KeyInvalid | Self::KeyExpired | Self::TenantToken => Code::Unauthenticated,
            Self::PermissionDenied { .. } => Code::PermissionDenied,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::TenantNotFound { .. } => Code::NotFound,
            Self::EventTypesNotRegistered { .. } => Code::FailedPrecondition,
            Self::QuotaExceeded { .. } => Code::ResourceExhausted,
            Self::NotReady { .. } | Self::RevisionNotReached { .. } | Self::LogUnavailable => Code::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::KeyMissing => "API_KEY_MISSING",
            Self::KeyInvalid | Self::TenantToken => "API_KEY_INVALID",
            Self::KeyExpired => "API_KEY_EXPIRED",
            Self::PermissionDenied { .. } => "PERMISSION_DENIED",
            Self::Invalid { .. } => "INVALID_ARGUMENT",
            Self::TenantNotFound { .. } => "NOT_FOUND",
            Self::EventTypesNotRegistered { .. } => "EVENT_TYPE_NOT_REGISTERED",
            Self::NotReady { .. } => "NOT_READY",
            Self::RevisionNotReached { .. } => "REVISION_NOT_REACHED",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::LogUnavailable => "LOG_UNAVAILABLE",
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, HashMap::new());
        match &error {
            Error::Invalid { violations } => {
                let told = violations.iter().take(MAX_FIELDS);
                details.set_bad_request(
                    told.map(|wrong| FieldViolation::new(&wrong.field, &wrong.description)).collect::<Vec<_>>(),
                );
            }
            Error::EventTypesNotRegistered { tenant, event_types } => {
                let told = event_types.iter().take(MAX_EVENT_TYPES).map(|(index, event_type)| {
                    PreconditionViolation::new(
                        "EVENT_TYPE_NOT_REGISTERED",
                        format!("{tenant}/eventTypes/{event_type}"),
                        format!("messages[{index}].event_type is not registered"),
                    )
                });
                details.set_precondition_failure(told.collect::<Vec<_>>());
            }
            Error::TenantNotFound { tenant } => {
                details.set_resource_info("hookwire.dev/Tenant", tenant, "", "");
            }
            Error::QuotaExceeded { tenant, retry } => {
                details.set_retry_info(Some(*retry));
                let description = "publish_quota of the tenant, or else publish.tenant_messages_per_second of the node";
                details.set_quota_failure(vec![QuotaViolation::new(tenant, description)]);
            }
            Error::LogUnavailable => {
                details.set_retry_info(Some(LOG_RETRY));
            }
            _ => {}
        }
        Self::with_error_details(error.code(), error.to_string(), details)
    }
}

/// Why one message of many is refused.
impl From<Error> for google_rpc::Status {
    fn from(error: Error) -> Self {
        of_message(&Status::from(error))
    }
}

/// What became of a message that the log did not acknowledge.
pub fn append_status(error: &hookwire_log::Error) -> google_rpc::Status {
    let status = |code, message, details| of_message(&Status::with_error_details(code, message, details));
    match error {
        hookwire_log::Error::Unavailable { .. } => {
            tracing::debug!(%error, "message not acknowledged by the log");
            let mut details = ErrorDetails::with_error_info("LOG_UNAVAILABLE", ERROR_DOMAIN, HashMap::new());
            details.set_retry_info(Some(LOG_RETRY));
            status(Code::Unavailable, "the log is unavailable; publish the message again with the same id", details)
        }
        // Validation lets nothing through that the log refuses, so this is an error of ours.
        _ => {
            tracing::error!(%error, "message refused by the log");
            let details = ErrorDetails::with_error_info("LOG_REFUSED", ERROR_DOMAIN, HashMap::new());
            status(Code::Internal, "the log refuses the message", details)
        }
    }
}

fn of_message(status: &Status) -> google_rpc::Status {
    google_rpc::Status::decode(status.details()).expect("details are an encoded google.rpc.Status")
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

fn first(violations: &[Violation]) -> String {
    let Some(violation) = violations.first() else { return String::new() };
    let more = if violations.len() > 1 { " (and more)" } else { "" };
    format!("{} {}{more}", violation.field, violation.description)
}

fn list(event_types: &[(usize, String)]) -> String {
    let mut types: Vec<_> =
        event_types.iter().take(3).map(|(index, event_type)| format!("{event_type} (messages[{index}])")).collect();
    if event_types.len() > types.len() {
        types.push(format!("{} more", event_types.len() - types.len()));
    }
    types.join(", ")
}
