//! Deliveries to recipients.
//!
//! * [`attempt`]: one request and what came of it, in words
//! * [`stack`]: how an attempt is made: timeout → sign → egress guard → client
//!   * [`request`]: the attempt as a signed request, [trace](crate::trace) context included
//!   * [`egress`]: the guard where names become addresses
//!   * [`client`]: the only user of reqwest; [`answer`]: what is kept of an answer
//!   * [`failure`]: why there is none
//! * [`config`]: settings of all this

pub mod answer;
pub mod attempt;
pub mod client;
pub mod config;
pub mod egress;
pub mod failure;
pub mod request;
pub mod stack;

pub use config::Settings;
pub use stack::Attempter;
