//! Which file of a crate imports which, and the circles among them.
//!
//! An import is a name that a `use` line takes from another file, or that a path in the code leads to:
//! `crate::a::B`, `super::B`, `a::B` where `a` is a module in scope, `B` where the file also re-exports it.
//! A re-export is no import of the file that has it, and is transparent: who imports through it imports the
//! file that defines the name. What only tests have does not count, nor do doc comments.
//!
//! Not seen: method calls, what the body of a `macro_rules!` names, and lower-case names that stand alone,
//! which are most often variables. Globs are refused, as nothing says what they import.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMacro, ItemMod, ItemUse, Macro, Path, Visibility};

use crate::modules::{self, Modules, Names};
use crate::source;

/// What the files of one crate import from each other.
#[derive(Default)]
pub(crate) struct Imports {
    /// From, to, and where the first import is.
    edges: BTreeMap<String, BTreeMap<String, String>>,
    /// Where globs are.
    pub(crate) globs: Vec<String>,
}

impl Imports {
    pub(crate) fn of_crate(modules: &Modules<'_>) -> Self {
        let mut imports = Self::default();
        for (path, module) in modules.iter() {
            let file = &module.file.path;
            let mut finder = Finder { modules, module: path, file, imports: &mut imports };
            module.items.iter().for_each(|item| finder.visit_item(item));
        }
        imports
    }

    /// Returns how many files import how many others, in all.
    pub(crate) fn len(&self) -> usize {
        self.edges.values().map(BTreeMap::len).sum()
    }

    /// Returns the shortest circle through each import that is part of one, and where its imports are.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut circles = BTreeSet::new();
        for (from, targets) in &self.edges {
            for to in targets.keys() {
                if let Some(mut circle) = self.way(to, from) {
                    // The same circle is found once from each of its files.
                    let first =
                        circle.iter().enumerate().min_by_key(|(_, file)| *file).map_or(0, |(at, _)| at);
                    circle.rotate_left(first);
                    circles.insert((circle.len(), circle));
                }
            }
        }
        circles.into_iter().map(|(_, circle)| self.description(&circle)).collect()
    }

    /// Returns the shortest way along imports, both ends included.
    fn way<'a>(&'a self, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
        let mut ways = VecDeque::from([vec![from]]);
        let mut seen = BTreeSet::from([from]);
        while let Some(way) = ways.pop_front() {
            let last = *way.last()?;
            if last == to {
                return Some(way);
            }
            for next in self.edges.get(last).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(next) {
                    ways.push_back([way.as_slice(), &[next.as_str()]].concat());
                }
            }
        }
        None
    }

    fn description(&self, circle: &[&str]) -> String {
        let steps: Vec<_> = circle.iter().zip(circle.iter().cycle().skip(1)).collect();
        let names: Vec<_> = circle.iter().chain(circle.first()).copied().collect();
        let places: String =
            steps.iter().map(|(from, to)| format!("\n    {}", self.edges[**from][**to])).collect();
        names.join(" -> ") + &places
    }
}

/// Goes through the code of one module.
struct Finder<'a> {
    modules: &'a Modules<'a>,
    module: &'a Names,
    file: &'a str,
    imports: &'a mut Imports,
}

impl Finder<'_> {
    fn add(&mut self, path: &[String], line: usize) {
        for target in self.modules.files_of(self.module, path) {
            if target != self.file {
                let place = || format!("{}:{line} imports {} from {target}", self.file, path.join("::"));
                let targets = self.imports.edges.entry(self.file.to_owned()).or_default();
                targets.entry(target.to_owned()).or_insert_with(place);
            }
        }
    }

    fn add_path(&mut self, path: &[String], line: usize) {
        let is_variable = path.len() == 1 && path[0].starts_with(|first: char| !first.is_uppercase());
        if !path.is_empty() && !is_variable {
            self.add(path, line);
        }
    }

    /// Looks for paths where only the macro knows what its tokens mean.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut line = 0;
        let (mut colons, mut is_field) = (0, false);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 || path.is_empty() {
                        self.add_path(&std::mem::take(&mut path), line);
                        line = name.span().start().line;
                    }
                    if !is_field {
                        path.push(name.to_string());
                    }
                    (colons, is_field) = (0, false);
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.add_path(&std::mem::take(&mut path), line);
                    colons = 0;
                    is_field = matches!(&other, TokenTree::Punct(mark) if mark.as_char() == '.');
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add_path(&path, line);
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !source::is_of_test(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(method) if source::are_of_test(&method.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, line: &'ast ItemUse) {
        for leaf in modules::leaves(line) {
            if leaf.is_glob {
                self.imports.globs.push(format!("{}:{}", self.file, leaf.line));
            } else if !modules::is_re_export(line) {
                self.add(&leaf.path, leaf.line);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path.leading_colon.is_none() {
            self.add_path(&names, path.segments[0].ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast Macro) {
        if !modules::defines_macro(mac) {
            self.visit_path(&mac.path);
            self.add_tokens(mac.tokens.clone());
        }
    }

    // Each module is gone through on its own.
    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}

    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        self.visit_macro(&item.mac);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    /// Returns the circles of a crate whose files have these texts, without the places.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(path, text)| Source::parse(path, text)).collect();
        let circles = Imports::of_crate(&Modules::of_crate(&files)).circles();
        circles.iter().map(|circle| circle.lines().next().unwrap().to_owned()).collect()
    }

    const LIB: (&str, &str) = ("lib.rs", "mod a; mod b; mod c; pub use crate::b::B;");
    const C: (&str, &str) = ("c.rs", "pub(crate) struct C;");

    #[test]
    fn two_files_that_import_each_other_are_a_circle() {
        let files = [
            LIB,
            C,
            (
                "a.rs",
                "use std::fmt::Debug; pub use redis; use crate::b::{B, X as Y}; \
                 fn f(x: redis::X) {} pub(crate) struct A;",
            ),
            ("b.rs", "use super::a::A; use crate::c; pub struct B; pub struct X;"),
        ];
        assert_eq!(circles(&files), ["a.rs -> b.rs -> a.rs"]);
    }

    #[test]
    fn imports_in_one_direction_are_no_circle() {
        let files = [
            LIB,
            C,
            ("a.rs", "use crate::b::B; use crate::c::C; pub(crate) struct A;"),
            ("b.rs", "use crate::c::C; use groupcache_core::A; pub struct B;"),
        ];
        assert_eq!(circles(&files), [""; 0]);
    }

    #[test]
    fn a_re_export_leads_to_the_file_that_defines_the_name() {
        let files = [
            ("lib.rs", "mod a; mod folder; pub use folder::B;"),
            ("a.rs", "use crate::B; pub(crate) fn f() -> B { B }"),
            ("folder/mod.rs", "mod b; mod deep; pub(crate) use self::b::B;"),
            ("folder/b.rs", "use super::deep::D; pub struct B;"),
            ("folder/deep.rs", "pub(crate) type D = u8; fn f() { crate::a::f(); }"),
        ];
        assert_eq!(circles(&files), ["a.rs -> folder/b.rs -> folder/deep.rs -> a.rs"]);
    }

    #[test]
    fn a_file_that_uses_what_it_re_exports_imports_it() {
        let b = ("folder/b.rs", "pub struct B; fn f() { super::f(); }");
        let re_export = "mod b; pub use self::b::B; pub(crate) fn f() {}";
        let use_too = "mod b; pub use self::b::B; pub(crate) fn f() { let b: B; }";
        assert_eq!(circles(&[("lib.rs", "mod folder;"), b, ("folder/mod.rs", re_export)]), [""; 0]);
        let found = circles(&[("lib.rs", "mod folder;"), b, ("folder/mod.rs", use_too)]);
        assert_eq!(found, ["folder/b.rs -> folder/mod.rs -> folder/b.rs"]);
    }

    #[test]
    fn paths_in_the_code_and_in_macros_are_imports() {
        let b = ("b.rs", "use crate::a::A; pub struct B; pub(crate) mod inner { pub(crate) fn f() {} }");
        for code in [
            "fn f(x: crate::b::B) {}",
            "impl From<Vec<crate::b::B>> for A {}",
            "fn f() { super::b::inner::f(); }",
            "fn f() { use crate::b; b::inner::f(); }",
            "fn f() { assert!(x.map(crate::b::inner::f)); }",
            "#[cfg(feature = \"tls\")] use crate::b::B;",
        ] {
            let a = format!("pub(crate) struct A; {code}");
            assert_eq!(circles(&[LIB, C, ("a.rs", &a), b]), ["a.rs -> b.rs -> a.rs"], "{code}");
        }
    }

    #[test]
    fn what_tests_import_does_not_count() {
        let b = ("b.rs", "use crate::a::A; pub struct B;");
        for code in [
            "#[cfg(test)] mod tests { use super::*; use crate::b::B; }",
            "#[cfg(all(test, groupcache_shuttle))] use crate::b::B;",
            "impl A { #[cfg(test)] fn f() -> crate::b::B {} }",
            "/// See [`crate::b::B`].\nfn f() {}",
            "macro_rules! m { () => { crate::b::B } }",
            "fn f(b: u8) { assert!(self.b == b); }",
            "use self::inner::A as Other; mod inner { pub(crate) use super::A; }",
        ] {
            let a = format!("pub(crate) struct A; {code}");
            assert_eq!(circles(&[LIB, C, ("a.rs", &a), b]), [""; 0], "{code}");
        }
    }

    #[test]
    fn a_circle_says_where_its_imports_are() {
        let files = [
            Source::parse("lib.rs", "mod a; mod b;"),
            Source::parse("a.rs", "\nuse crate::b::B;\npub(crate) struct A;"),
            Source::parse("b.rs", "pub(crate) struct B(crate::a::A);"),
        ];
        let expected = "a.rs -> b.rs -> a.rs\n    a.rs:2 imports crate::b::B from b.rs\n    \
                        b.rs:1 imports crate::a::A from a.rs";
        assert_eq!(Imports::of_crate(&Modules::of_crate(&files)).circles(), [expected]);
    }

    #[test]
    fn globs_outside_tests_are_found() {
        let files = [
            Source::parse("lib.rs", "mod a;"),
            Source::parse("a.rs", "use crate::*; #[cfg(test)] mod tests { use super::*; }"),
        ];
        assert_eq!(Imports::of_crate(&Modules::of_crate(&files)).globs, ["a.rs:1"]);
    }
}
