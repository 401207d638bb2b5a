//! The control plane from outside: its store, its services over gRPC, and how it starts and stops. Each test runs on SQLite,
//! and on PostgreSQL where `HOOKWIRE_TEST_POSTGRES` is the URL of a superuser's database.
#![allow(clippy::unwrap_used, reason = "tests")]

mod administer;
mod bad_input;
mod callers;
mod health;
mod history;
mod index;
mod nodes;
mod ping;
mod ranges;
mod replays;
mod reseal;
mod secrets;
mod services;
mod serving;
mod settings;
mod states;
mod store;
mod subscriptions;
mod support;
mod times;
