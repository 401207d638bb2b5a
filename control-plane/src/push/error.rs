//! What a node is told, as gRPC's `Status`.

use std::collections::HashMap;

use hookwire_proto::ERROR_DOMAIN;
use hookwire_proto::config::NodeRole;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Why there is no stream, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error("{setting}: {detail}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What to write instead.
        detail: &'static str,
    },
    /// The stream does not begin with a hello.
    #[error("the first request of a stream must be hello, within 10 s")]
    NoHello,
    /// The node's id is malformed.
    #[error("must be 1 to 63 lower-case letters, digits and hyphens")]
    NodeId,
    /// A later request is another hello.
    #[error("comes first and only once: after it a node acknowledges and tells its status")]
    SecondHello,
    /// The node's certificate has no name that is listed.
    #[error(
        "the node's certificate has no name that push.nodes lists (it has {}): list one there, with what the node may do",
        told(names)
    )]
    NotListed {
        /// The names that it has.
        names: Vec<String>,
    },
    /// The node says that it does what it may not.
    #[error(
        "{identity} is not listed in push.nodes with all of {}: list it so, or leave out of the node's node.roles what it may not do",
        roles.iter().map(NodeRole::as_str_name).collect::<Vec<_>>().join(", ")
    )]
    NotAllowed {
        /// The listed name.
        identity: String,
        /// What the node says it does.
        roles: Vec<NodeRole>,
    },
    /// The control plane shuts down.
    #[error("this control plane is shutting down: connect again, to another if there is one")]
    ShuttingDown,
}

fn told(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason, field) = match error {
            Error::NoHello => (Code::InvalidArgument, "INVALID_ARGUMENT", Some("hello")),
            Error::NodeId => (Code::InvalidArgument, "INVALID_ARGUMENT", Some("hello.node")),
            Error::SecondHello => (Code::InvalidArgument, "INVALID_ARGUMENT", Some("hello")),
            Error::NotListed { .. } => (Code::PermissionDenied, "NODE_NOT_LISTED", None),
            Error::NotAllowed { .. } => (Code::PermissionDenied, "NODE_ROLE_NOT_ALLOWED", None),
            Error::ShuttingDown => (Code::Unavailable, "NOT_READY", None),
            Error::Setting { .. } => (Code::Internal, "INTERNAL", None),
        };
        let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
        let mut message = error.to_string();
        if let Some(field) = field {
            details.add_bad_request_violation(field, &message);
            message = format!("{field}: {message}");
        }
        Self::with_error_details(code, message, details)
    }
}
