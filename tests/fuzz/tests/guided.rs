//! libFuzzer on the target that `HOOKWIRE_FUZZ_TARGET` names; `scripts/fuzz` builds and starts it.
#![no_main]

use std::sync::LazyLock;

use hookwire_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("HOOKWIRE_FUZZ_TARGET").expect("HOOKWIRE_FUZZ_TARGET names a target");
    target(&name).unwrap_or_else(|| panic!("there is no target {name}"))
});

fuzz_target!(|data: &[u8]| (TARGET.check)(data));
