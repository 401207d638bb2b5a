//! `hookwire dev`

pub mod directory;
pub mod welcome;
