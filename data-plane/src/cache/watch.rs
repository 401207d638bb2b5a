//! Keeps the configuration current.
