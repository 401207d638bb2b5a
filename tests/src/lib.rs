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
//! * [`scan`]: looks for secrets in what was kept
//! * [`machine`]: what this machine has: tools, Kafka, PostgreSQL, free ports
#![allow(clippy::print_stderr, reason = "a failed test shows what the processes wrote")]

pub mod api;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod machine;
pub mod process;
pub mod publisher;
pub mod receiver;
pub mod scan;
pub mod verifier;

use std::io::Write as _;
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

/// Tells people something on stderr, also when the test passes: what `eprintln!` says, the test harness keeps to itself.
pub fn say(text: &str) {
    // There is nobody left to tell when this can't be written.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Whether `scripts/test --full` runs, which does the long tests in full.
pub fn is_full() -> bool {
    std::env::var_os("HOOKWIRE_TEST_FULL").is_some()
}

/// Declares a test for each shape: `on_both_shapes!(name, options, check)` makes
/// `name::embedded` and `name::production`.
#[macro_export]
macro_rules! on_both_shapes {
    ($name:ident, $options:expr, $check:path) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn embedded() {
                use super::*;
                $crate::cluster::with($crate::cluster::Shape::Embedded, $options, $check).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn production() {
                use super::*;
                $crate::cluster::with($crate::cluster::Shape::Production, $options, $check).await;
            }
        }
    };
}
