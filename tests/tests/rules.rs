//! What may depend on what, and other rules of the tree that the compiler doesn't hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use hookwire_tests::machine::root;
use serde_json::Value;

/// Every package that is built on this machine, as cargo resolves it.
fn metadata() -> &'static Value {
    static METADATA: LazyLock<Value> = LazyLock::new(|| {
        let version = run("rustc", &["-vV"]);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says its host");
        let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
        serde_json::from_str(&run(env!("CARGO"), &arguments)).expect("cargo writes JSON")
    });
    &METADATA
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().expect("it can be run");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it writes UTF-8")
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Our crates, and the names of what each depends on (`dev` included or not).
fn ours(dev: bool) -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let members: BTreeSet<&str> = array(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    array(metadata, "packages")
        .iter()
        .filter(|package| members.contains(text(package, "id")))
        .map(|package| {
            let dependencies = array(package, "dependencies").iter();
            let dependencies = dependencies.filter(|dependency| dev || text(dependency, "kind") != "dev");
            let names = dependencies.map(|dependency| text(dependency, "name").to_owned()).collect();
            (text(package, "name").to_owned(), names)
        })
        .collect()
}

/// All of our Rust files, relative to the checkout.
fn sources() -> Vec<PathBuf> {
    fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("directories can be read") {
            let path = entry.expect("entries can be read").path();
            if path.is_dir() {
                let name = path.file_name().unwrap_or_default();
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    collect(&path, files);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(root()).expect("it lies below the checkout").to_owned());
            }
        }
    }
    let mut files = Vec::new();
    collect(&root(), &mut files);
    assert!(files.len() > 20, "the sources were not found");
    files
}

/// Whether a file has nothing but tests, which may name every library and be long.
fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs")
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let below: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("hookwire-proto", [].as_slice()),
        ("hookwire-log", &["hookwire-proto"]),
        ("hookwire-control-plane", &["hookwire-proto", "hookwire-log"]),
        ("hookwire-data-plane", &["hookwire-proto", "hookwire-log"]),
        ("hookwire-sdk", &["hookwire-proto"]),
        (
            "hookwire",
            &["hookwire-proto", "hookwire-log", "hookwire-control-plane", "hookwire-data-plane", "hookwire-sdk"],
        ),
        ("hookwire-tests", &["hookwire-proto", "hookwire-log", "hookwire-sdk"]),
        ("hookwire-fuzz", &["hookwire-proto", "hookwire-control-plane", "hookwire-data-plane"]),
        (
            "hookwire-bench",
            &["hookwire-proto", "hookwire-log", "hookwire-control-plane", "hookwire-data-plane", "hookwire-tests"],
        ),
    ]);
    for (name, dependencies) in ours(true) {
        let allowed = below.get(name.as_str()).unwrap_or_else(|| panic!("another crate, {name}, needs a decision"));
        for dependency in dependencies.iter().filter(|dependency| dependency.starts_with("hookwire")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn each_heavy_library_belongs_to_one_crate() {
    let owners: [(&str, &[&str]); 6] = [
        ("rdkafka", &["hookwire-log", "hookwire-bench"]),
        ("fjall", &["hookwire-log"]),
        ("sea-orm", &["hookwire-control-plane"]),
        ("sea-orm-migration", &["hookwire-control-plane"]),
        ("sqlx", &["hookwire-control-plane", "hookwire-bench"]),
        ("reqwest", &["hookwire-data-plane"]),
    ];
    for (name, dependencies) in ours(false) {
        for (library, owners) in owners {
            let allowed = owners.contains(&name.as_str()) || name == "hookwire-tests";
            assert!(!dependencies.contains(library) || allowed, "{name} must not depend on {library}");
        }
    }
}

/// Where a library may be named, as beginnings of paths.
const HOMES: [(&str, &[&str]); 6] = [
    ("rdkafka", &["log/src/kafka", "bench/src/bin/deliveries/bare.rs"]),
    ("fjall", &["log/src/embedded"]),
    ("sea_orm", &["control-plane/src/store"]),
    ("sea_orm_migration", &["control-plane/src/store"]),
    ("sqlx", &["control-plane/src/store", "bench/src/bin/index"]),
    ("reqwest", &["data-plane/src/deliver", "src/listen.rs"]),
];

#[test]
fn each_heavy_library_is_named_in_one_module_only() {
    for file in sources().into_iter().filter(|file| !is_test(file)) {
        let name = file.to_string_lossy().into_owned();
        let source = fs::read_to_string(root().join(&file)).expect("sources are text");
        for (library, homes) in HOMES {
            let path = format!("{library}::");
            let named = source.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.match_indices(&path).any(|(at, _)| {
                    !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
                })
            });
            assert!(!named || homes.iter().any(|home| name.starts_with(home)), "{name} must not name {library}");
        }
    }
}

#[test]
fn the_store_knows_no_grpc_and_the_api_no_database() {
    for file in sources() {
        let name = file.to_string_lossy().into_owned();
        let source = fs::read_to_string(root().join(&file)).expect("sources are text");
        assert!(
            !name.starts_with("control-plane/src/store") || !source.contains("tonic::"),
            "{name} is of the store and must not name tonic"
        );
    }
}

#[test]
fn files_stay_short() {
    // Past about 500 lines that are not tests, look for the second thing that the file does.
    let mut long = Vec::new();
    for file in sources().into_iter().filter(|file| !is_test(file)) {
        let source = fs::read_to_string(root().join(&file)).expect("sources are text");
        let lines = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > 550 {
            long.push(format!("{} has {lines} lines", file.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn no_dependency_is_banned() {
    // One crypto provider, aws-lc-rs, and no second TLS: rdkafka alone brings OpenSSL, since librdkafka knows no other.
    let banned = ["ring", "native-tls", "openssl", "rustls-pemfile", "async-std"];
    // `cargo metadata` also lists what a feature could bring; `cargo tree` only what is built.
    let tree =
        run(env!("CARGO"), &["tree", "--workspace", "--locked", "--offline", "--prefix", "none", "--format", "{p}"]);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("aws-lc-rs"), "the graph was not read");
    for name in banned {
        assert!(!names.contains(name), "{name} is in the graph; `cargo tree -i {name}` says by whom");
    }
}

#[test]
fn every_dependency_comes_from_the_registry_under_a_license_that_is_allowed() {
    let allowed = [
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "MIT",
        "MIT-0",
        "BSD-1-Clause",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "ISC",
        "MPL-2.0",
        "MPL-2.0+",
        "OpenSSL",
        "Unicode-3.0",
        "Unlicense",
        "Zlib",
        "0BSD",
    ];
    let is_allowed = |expression: &str| {
        let expression = expression.replace(['(', ')'], " ").replace('/', " OR ");
        expression.split(" AND ").all(|part| part.split(" OR ").any(|license| allowed.contains(&license.trim())))
    };
    for package in array(metadata(), "packages") {
        let (name, source) = (text(package, "name"), text(package, "source"));
        assert!(source.is_empty() || source.starts_with("registry+"), "{name} comes from {source}");
        assert!(is_allowed(text(package, "license")), "{name} has the license {}", package["license"]);
    }
}
