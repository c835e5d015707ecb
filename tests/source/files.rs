//! The files of the package.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The package's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file below `folder`: path from the root, with `/`, and text.
pub fn rust_files(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(&root().join(folder), &mut |path| {
        if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.insert(name, fs::read_to_string(path).expect("readable text"));
        }
    });
    assert!(!found.is_empty(), "no Rust files in {folder}");
    found
}

/// Calls `visit` for every file below `folder`, but for what a build of a package in it left in its `target`;
/// none where there is no such folder.
pub fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                walk(&path, visit);
            }
        } else {
            visit(&path);
        }
    }
}
