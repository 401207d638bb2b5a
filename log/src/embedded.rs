//! The log, embedded.
