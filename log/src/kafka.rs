//! The log, kafka.
