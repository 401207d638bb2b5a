//! What the tests of the whole system stand on. They start real processes of the `hookwire` binary and judge them from
//! outside, as a publisher and a recipient see them.
//!
//! * [`cluster`]: Hookwire as it is run, in both shapes: one process, or several of each plane on PostgreSQL and Kafka
//! * [`process`]: one process, which can be killed and started again
//! * [`api`]: the calls that tests make, with a key
//! * [`publisher`]: publishes under load and keeps what was acknowledged in a file of its own
//! * [`receiver`]: recipients over HTTPS, scripted by path; every arrival is kept in a file
//! * [`verifier`]: other people's code that judges what arrived
//! * [`certificates`]: authorities and certificates made for one test
//! * [`machine`]: what this machine has: tools, Kafka, PostgreSQL, free ports
#![allow(clippy::print_stderr, reason = "tests tell people on stderr what they skip, find and count")]

pub mod api;
pub mod certificates;
pub mod cluster;
pub mod machine;
pub mod process;
pub mod publisher;
pub mod receiver;
pub mod verifier;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `condition` again and again until it holds, and fails after `limit` with what was waited for.
///
/// # Errors
/// When the limit is over, or when `condition` fails.
pub async fn wait_until<F>(what: &str, limit: Duration, mut condition: F) -> Result<Duration>
where
    F: AsyncFnMut() -> Result<bool>,
{
    let start = Instant::now();
    loop {
        if condition().await? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
