//! sdk/rust
