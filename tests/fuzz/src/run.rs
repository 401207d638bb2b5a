//! A target in the ordinary tests.

use std::cell::Cell;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};
use std::{env, fs};

use proptest::test_runner::{Config, TestError, TestRunner};

use crate::Target;
use crate::inputs::inputs;

/// Seconds for each target, unless `HOOKWIRE_FUZZ_SECONDS` says.
const SECONDS: u64 = 3;
/// Inputs between two looks at the clock, and thus at least, however slow the machine is.
const INPUTS: u32 = 512;

/// Checks a target with its corpus, and then for some seconds with inputs that are made from it. Returns how many those were.
///
/// # Panics
/// If something does not hold, with the smallest input that shows it.
pub fn run(target: Target) -> u64 {
    let Target { name, check, .. } = target;
    let corpus = corpus(name);
    for (file, input) in &corpus {
        if catch_unwind(|| check(input)).is_err() {
            panic!("{name}: {} shows something again", file.display());
        }
    }
    let inputs = inputs(&target, corpus.into_iter().map(|(_, input)| input).collect());
    let seconds = env::var("HOOKWIRE_FUZZ_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let config = Config { cases: INPUTS, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let mut count = 0;
    loop {
        // A runner counts what it has done, over all its runs.
        let result = TestRunner::new(config.clone()).run(&inputs, |input| {
            quietly(|| check(&input.0));
            Ok(())
        });
        count += u64::from(INPUTS);
        match result {
            Err(TestError::Fail(why, input)) => panic!("{name}: {why}\nwithin {count} inputs, by the input {input:?}"),
            Err(TestError::Abort(why)) => panic!("{name}: {why}"),
            Ok(()) if Instant::now() >= end => return count,
            Ok(()) => {}
        }
    }
}

/// The inputs of a target that are kept, and their files.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entries can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files.into_iter().map(|file| (file.clone(), fs::read(file).expect("files can be read"))).collect()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Lets panics say nothing: while the smallest input is looked for, there are hundreds.
fn quietly(check: impl FnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    /// Also when the check panics.
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            QUIET.set(false);
        }
    }
    QUIET.set(true);
    let _loud = Loud;
    check();
}
