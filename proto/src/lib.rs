//! The contract between callers, the planes and the log: everything that outlives a process or crosses one.
//!
//! * [`v1`]: the public API, served by both planes
//! * [`config`]: what the control plane pushes to the nodes
//! * [`log`]: what is in the log
//! * [`name`]: resource names and ids, parsed and made in one place
//! * [`egress`]: which URLs and addresses requests may be sent to
//! * [`pattern`]: which event types a subscription asks for
//! * [`private_key`]: private keys in PEM, without copies
//! * [`role`]: what nodes do
//! * [`schema`]: what payloads of an event type are
//! * [`seal`]: how secrets are closed by the control plane and opened by nodes
//! * [`signing`]: which secrets sign at a time
//!
//! The `.proto` files beside this crate are the source; they are compiled while this crate is built.

/// Generated code, in modules as the packages are nested.
mod generated {
    #![allow(missing_docs, clippy::all, rust_2018_idioms, rustdoc::all, reason = "generated")]
    pub mod hookwire {
        pub mod v1 {
            tonic::include_proto!("hookwire.v1");
        }
        pub mod config {
            pub mod v1 {
                tonic::include_proto!("hookwire.config.v1");
            }
        }
        pub mod log {
            pub mod v1 {
                tonic::include_proto!("hookwire.log.v1");
            }
        }
    }
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
}

/// The few messages of `google.rpc` that the API uses.
pub use generated::google::rpc as google_rpc;
/// What the control plane pushes to the nodes, package `hookwire.config.v1`.
pub use generated::hookwire::config::v1 as config;
/// What is in the log, package `hookwire.log.v1`.
pub use generated::hookwire::log::v1 as log;
/// The public API, package `hookwire.v1`.
pub use generated::hookwire::v1;

pub mod body;
pub mod egress;
pub mod name;
pub mod pattern;
pub mod private_key;
pub mod role;
pub mod schema;
pub mod seal;
pub mod signing;
pub mod system_event;

/// An encoded `google.protobuf.FileDescriptorSet` of all packages with what they import, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The `domain` of every `google.rpc.ErrorInfo` that Hookwire returns.
pub const ERROR_DOMAIN: &str = "hookwire";
