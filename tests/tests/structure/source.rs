//! A source file, parsed, and which of its items are tests.

use std::fs;
use std::path::Path;

use syn::{Attribute, Item, Meta, Token, punctuated::Punctuated};

/// A file: its path below some folder, its text, and what the text means.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
}

impl Source {
    /// Parses `text`.
    ///
    /// # Panics
    ///
    /// If it is not Rust.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{path} does not parse: {error}"));
        Self { path: path.to_owned(), text: text.to_owned(), syntax }
    }
}

/// Returns the text of every `.rs` file below `folder` by its path below `folder`, in order. Build results
/// and hidden folders are left out.
pub(crate) fn texts_below(folder: &Path) -> Vec<(String, String)> {
    let mut texts = Vec::new();
    collect(folder, "", &mut texts);
    texts.sort();
    texts
}

fn collect(folder: &Path, prefix: &str, texts: &mut Vec<(String, String)>) {
    for item in fs::read_dir(folder).unwrap() {
        let item = item.unwrap();
        let name = item.file_name().into_string().unwrap();
        let is_folder = item.file_type().unwrap().is_dir();
        if is_folder && name != "target" && !name.starts_with('.') {
            collect(&item.path(), &format!("{prefix}{name}/"), texts);
        } else if !is_folder && name.ends_with(".rs") {
            texts.push((format!("{prefix}{name}"), fs::read_to_string(item.path()).unwrap()));
        }
    }
}

/// Returns whether the attributes keep their item out of every build that is not a test: `#[test]`,
/// `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(all(test, ...))]`.
pub(crate) fn are_of_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("cfg") {
            attribute.parse_args().is_ok_and(|condition: Meta| requires_test(&condition))
        } else {
            attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
        }
    })
}

fn requires_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else { return condition.path().is_ident("test") };
    let members = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
    if list.path.is_ident("all") {
        members.iter().any(requires_test)
    } else {
        list.path.is_ident("any") && !members.is_empty() && members.iter().all(requires_test)
    }
}

pub(crate) fn is_of_test(item: &Item) -> bool {
    match item {
        Item::Const(syn::ItemConst { attrs, .. })
        | Item::Enum(syn::ItemEnum { attrs, .. })
        | Item::Fn(syn::ItemFn { attrs, .. })
        | Item::Impl(syn::ItemImpl { attrs, .. })
        | Item::Macro(syn::ItemMacro { attrs, .. })
        | Item::Mod(syn::ItemMod { attrs, .. })
        | Item::Static(syn::ItemStatic { attrs, .. })
        | Item::Struct(syn::ItemStruct { attrs, .. })
        | Item::Trait(syn::ItemTrait { attrs, .. })
        | Item::Type(syn::ItemType { attrs, .. })
        | Item::Union(syn::ItemUnion { attrs, .. })
        | Item::Use(syn::ItemUse { attrs, .. }) => are_of_test(attrs),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_of_a_test_if_no_other_build_has_it() {
        let cases = [
            ("#[test]", true),
            ("#[tokio::test(start_paused = true)]", true),
            ("#[cfg(test)]", true),
            ("#[cfg(all(test, groupcache_shuttle))]", true),
            ("#[cfg(any(test, unix))]", false),
            ("#[cfg(not(all(test, groupcache_shuttle)))]", false),
            ("#[cfg(feature = \"tls\")]", false),
            ("#[must_use]", false),
        ];
        for (attribute, expected) in cases {
            let source = Source::parse("lib.rs", &format!("{attribute} fn f() {{}}"));
            assert_eq!(is_of_test(&source.syntax.items[0]), expected, "{attribute}");
        }
    }
}
