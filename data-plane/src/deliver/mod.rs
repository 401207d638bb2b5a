//! Deliveries to recipients.

pub mod attempt;
