//! How long functions are.

use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, Item, ItemFn, Signature, TraitItemFn};

use crate::source::{self, Source};

/// A function may have this many lines, from `fn` to its last brace.
const LINES_MAX: usize = 60;
/// What a comment says that explains why a function is longer. It stands directly above, or is the first in
/// the body.
const REASON: &str = "Long because";

/// Returns the functions of a file that are too long and say no reason. Tests may be as long as they like.
pub(crate) fn too_long(source: &Source) -> Vec<String> {
    let mut finder = Finder { lines: source.text.lines().collect(), path: &source.path, found: Vec::new() };
    finder.visit_file(&source.syntax);
    finder.found
}

struct Finder<'a> {
    lines: Vec<&'a str>,
    path: &'a str,
    found: Vec<String>,
}

impl Finder<'_> {
    fn check(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let first = signature.fn_token.span.start().line;
        let last = block.brace_token.span.close().end().line;
        let lines = last - first + 1;
        let opening = block.brace_token.span.open().start().line;
        let attribute = attributes.first().map(|attribute| attribute.pound_token.span.start().line);
        // Line numbers begin with 1.
        let above = attribute.map_or(first, |attribute| attribute.min(first)) - 1;
        let comments = comments(self.lines[..above].iter().rev())
            .chain(comments(self.lines[above..first - 1].iter()))
            .chain(comments(self.lines[opening..].iter()));
        if lines > LINES_MAX && !comments.into_iter().any(|comment| comment.contains(REASON)) {
            self.found.push(format!("{}:{first} `{}` has {lines} lines", self.path, signature.ident));
        }
    }
}

/// Returns the comments that the lines begin with.
fn comments<'a>(lines: impl Iterator<Item = &'a &'a str>) -> impl Iterator<Item = &'a str> {
    lines.copied().map(str::trim_start).take_while(|line| line.starts_with("//"))
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !source::is_of_test(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.check(&function.attrs, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if !source::are_of_test(&function.attrs) {
            self.check(&function.attrs, &function.sig, &function.block);
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.check(&function.attrs, &function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is found of a function of so many lines, with `above` above it and `first` in its first
    /// line.
    fn found(lines: usize, above: &str, first: &str) -> Vec<String> {
        let rest = "\n".repeat(lines - 2);
        too_long(&Source::parse("a.rs", &format!("{above}pub(crate) fn f() {{\n{first}{rest}}}\n")))
    }

    #[test]
    fn a_function_of_61_lines_is_too_long() {
        assert_eq!(found(60, "", ""), [""; 0]);
        assert_eq!(found(61, "", ""), ["a.rs:1 `f` has 61 lines"]);
        assert_eq!(found(61, "/// Does it all.\n#[inline]\n", ""), ["a.rs:3 `f` has 61 lines"]);
    }

    #[test]
    fn methods_count_too() {
        let body = "\n".repeat(60);
        for (before, after) in [("impl A { fn f(&self) {", "}}"), ("trait A { async fn f() {", "}}")] {
            let source = Source::parse("a.rs", &format!("{before}{body}{after}"));
            assert_eq!(too_long(&source), ["a.rs:1 `f` has 61 lines"], "{before}");
        }
    }

    #[test]
    fn a_comment_may_say_why() {
        for above in
            ["// Long because\n", "// Long because it\n// lists all.\n#[inline]\n", "/// Long because\n"]
        {
            assert_eq!(found(61, above, ""), [""; 0], "{above}");
        }
        assert_eq!(found(61, "", "    // Long because it lists all."), [""; 0]);
        assert_eq!(found(61, "// Long because\n\n", ""), ["a.rs:3 `f` has 61 lines"]);
        assert_eq!(found(61, "", "    let a = 1; // Long because"), ["a.rs:1 `f` has 61 lines"]);
    }

    #[test]
    fn tests_may_be_long() {
        assert_eq!(found(61, "#[test]\n", ""), [""; 0]);
        let body = "\n".repeat(60);
        let source = Source::parse("a.rs", &format!("#[cfg(test)] mod tests {{ fn f() {{{body}}} }}"));
        assert_eq!(too_long(&source), [""; 0]);
    }
}
