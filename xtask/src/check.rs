//! All of CI, cheapest check first.

use std::collections::BTreeSet;

use crate::{arm, cargo, run};

/// Licences that a dependency may offer; one of an `OR` is enough, all of an `AND` are needed.
const LICENCES: [&str; 16] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MPL-2.0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
];

/// Crates whose manifests name a file in place of a licence: name, version, and the licence that the file is.
const LICENCE_FILES: [(&str, &str, &str); 1] = [("cfg_block", "0.1.1", "Apache-2.0")];

/// Crates that `critic` may link, with all that they need: see docs/dependencies.md.
const RUNTIME: [&str; 20] = [
    "allocator-api2",
    "cfg-if",
    "equivalent",
    "foldhash",
    "half",
    "hashbrown",
    "itoa",
    "libc",
    "memchr",
    "memmap2",
    "safetensors",
    "serde",
    "serde_core",
    "serde_json",
    "thiserror",
    "tinyvec",
    "unicode-general-category",
    "unicode-normalization",
    "zerocopy",
    "zmij",
];

/// Build-time crates below the runtime: procedural macros, which are not linked.
const MACROS: [&str; 7] =
    ["proc-macro2", "quote", "serde_derive", "syn", "thiserror-impl", "unicode-ident", "zerocopy-derive"];

pub fn all() -> Result<(), String> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    dependencies()?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    run(&mut cargo(&["test", "--workspace", "--no-fail-fast"]))?;
    if arm::available() {
        arm::run()?;
    } else {
        eprintln!("\nNOT RUN: the tests for AArch64 need {}", arm::PACKAGES);
    }
    Ok(())
}

/// Licences of everything, and the short list of what the runtime links.
fn dependencies() -> Result<(), String> {
    eprintln!("\n$ cargo metadata (licences, the runtime's dependencies)");
    let output = cargo(&["metadata", "--format-version", "1", "--locked"]).output().map_err(|e| e.to_string())?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("cargo metadata: {e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let in_file =
            LICENCE_FILES.iter().find(|(name, version, _)| package["name"] == *name && package["version"] == *version);
        let licence = package["license"].as_str().or(in_file.map(|file| file.2)).unwrap_or_default();
        if !allowed(licence) {
            return Err(format!("{} has the licence {licence:?}, which is not on the list", package["name"]));
        }
    }
    let tree = cargo(&["tree", "-p", "critic", "-e", "normal", "--prefix", "none", "--locked"])
        .output()
        .map_err(|e| e.to_string())?;
    let tree = String::from_utf8_lossy(&tree.stdout);
    let linked: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let known = |name: &&str| *name == "critic" || RUNTIME.contains(name) || MACROS.contains(name);
    match linked.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(format!("the runtime links {name}: argue for it in docs/dependencies.md, and list it here")),
    }
}

/// Whether an SPDX expression of `OR`, `AND` and parentheses can be met.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        let part = part.trim_matches(|c| "() ".contains(c));
        part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim_matches(|c| "() ".contains(c))))
    })
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn licences() {
        assert!(allowed("MIT OR Apache-2.0"));
        assert!(allowed("(MIT OR GPL-3.0) AND Unicode-3.0"));
        assert!(allowed("Apache-2.0/MIT"));
        assert!(!allowed("GPL-3.0"));
        assert!(!allowed("MIT AND GPL-3.0"));
        assert!(!allowed(""));
    }
}
