//! Fuzzing of what reads text from outside: each target says what must hold whatever it is given, and panics where it does not.
//!
//! * [`names`]: resource names and ids
//! * [`page_tokens`]: tokens of pages
//! * [`filters`]: filters of lists, against a second reading of their grammar
//! * [`patterns`]: event types that subscriptions ask for, from the control plane's check to what a node matches
//! * [`urls`]: URLs and addresses that requests may go to
//!
//! Two ways to give them something: [`run`], part of the ordinary tests, changes what is in `corpus/` at random; `tests/guided.rs` is
//! libFuzzer, which `scripts/fuzz` builds and which looks at what the code does with its input.

pub mod filters;
pub mod inputs;
pub mod names;
pub mod page_tokens;
pub mod patterns;
pub mod urls;

mod run;

pub use run::run;

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also its corpus's.
    pub name: &'static str,
    /// Checks everything that must hold for an input; panics with what doesn't.
    pub check: fn(&[u8]),
    /// What inputs are made of.
    pub dictionary: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 5] = [names::TARGET, page_tokens::TARGET, filters::TARGET, patterns::TARGET, urls::TARGET];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
