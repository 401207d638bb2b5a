//! Each target for some seconds, in the ordinary tests; `HOOKWIRE_FUZZ_SECONDS` says how many (3).
#![expect(clippy::print_stdout, reason = "how many inputs there were is worth a line")]

use hookwire_fuzz::{TARGETS, run, target};

fn fuzz(name: &str) {
    let count = run(target(name).expect("a target"));
    println!("{name}: {count} inputs");
}

macro_rules! targets {
    ($($name:ident),+) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name));
            }
        )+

        #[test]
        fn every_target_is_run() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),+]);
        }
    };
}

targets!(names, page_tokens, filters, patterns, urls);
