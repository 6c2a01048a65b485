//! The house rules that a program can check: no two files of a crate import each other, functions and files
//! are short.

mod functions;
mod imports;
mod modules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use self::imports::Imports;
use self::modules::Modules;
use self::source::Source;

/// A file may have this many lines.
const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources_below(folder: &Path) -> Vec<Source> {
    source::texts_below(folder).iter().map(|(path, text)| Source::parse(path, text)).collect()
}

/// Returns the name of each published crate and the files below its `src`.
fn crates() -> Vec<(String, Vec<Source>)> {
    let folders = fs::read_dir(root()).unwrap().map(|item| item.unwrap());
    let names = folders.map(|folder| folder.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("groupcache-")).collect();
    names.sort();
    assert!(names.len() >= 6, "not all crates are found: {names:?}");
    names.into_iter().map(|name| (name.clone(), sources_below(&root().join(name).join("src")))).collect()
}

fn check(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n{}\n", violations.join("\n"));
}

#[test]
fn no_two_files_of_a_crate_import_each_other() {
    let (mut circles, mut globs, mut count) = (Vec::new(), Vec::new(), 0);
    for (name, files) in crates() {
        let imports = Imports::of_crate(&Modules::of_crate(&files));
        circles.extend(imports.circles().iter().map(|circle| format!("{name}/src: {circle}")));
        globs.extend(imports.globs.iter().map(|place| format!("{name}/src/{place}")));
        count += imports.len();
    }
    check("files import each other; move what both need into a third, lower file, or pass it in", &circles);
    check("globs hide what is imported", &globs);
    assert!(count > 100, "only {count} imports are seen");
}

#[test]
fn no_function_is_longer_than_60_lines_without_a_reason() {
    let mut found = Vec::new();
    for (name, files) in crates() {
        let long = Modules::of_crate(&files).files().into_iter().flat_map(functions::too_long);
        found.extend(long.map(|function| format!("{name}/src/{function}")));
    }
    for folder in ["groupcache-axum/examples", "tests/orms/examples", "tests/outside/examples"] {
        let files = sources_below(&root().join(folder));
        assert!(!files.is_empty(), "there is nothing below {folder}");
        let long = files.iter().flat_map(functions::too_long);
        found.extend(long.map(|function| format!("{folder}/{function}")));
    }
    check(
        "functions are too long; split them into named steps, or say in a comment \"Long because ...\"",
        &found,
    );
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let lengths = source::texts_below(&root()).into_iter().map(|(path, text)| (path, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > FILE_LINES_MAX);
    let long: Vec<_> = long.map(|(path, lines)| format!("{path} has {lines} lines")).collect();
    check("files are too long; split them by what they are about", &long);
}
