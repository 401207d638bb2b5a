//! What nodes do, as the settings of both planes name it. (What API keys may do is [`config::Role`](crate::config::Role).)

use serde::{Deserialize, Serialize};

use crate::config::NodeRole;

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes messages.
    Publish,
    /// Makes deliveries of messages, and takes them back from the retry tiers.
    Dispatch,
    /// Makes attempts: the only role for which a node gets secrets.
    Deliver,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Dispatch, Self::Deliver];
}

impl From<Role> for NodeRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Publish => Self::Publish,
            Role::Dispatch => Self::Dispatch,
            Role::Deliver => Self::Deliver,
        }
    }
}
