//! The modules of a crate, and in which file each name is defined.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Item, ItemUse, Macro, UseTree, Visibility};

use crate::source::{self, Source};

/// A module or a path, as a list of names. The crate itself is the empty list.
pub(crate) type Names = Vec<String>;

/// The modules that a crate has when it is not built for its tests.
pub(crate) struct Modules<'a> {
    modules: BTreeMap<Names, Module<'a>>,
}

/// One module: a file, or a block in one.
pub(crate) struct Module<'a> {
    pub(crate) file: &'a Source,
    pub(crate) items: &'a [Item],
    names: BTreeMap<String, Vec<Name<'a>>>,
}

/// What a name means in a module. It may mean several things, as types, values and macros are told apart.
enum Name<'a> {
    DefinedIn(&'a str),
    Module,
    Imported(Names),
}

/// One name that a `use` line imports.
pub(crate) struct Leaf {
    pub(crate) path: Names,
    alias: String,
    pub(crate) is_glob: bool,
    pub(crate) line: usize,
}

impl<'a> Modules<'a> {
    /// Follows `mod` lines from `lib.rs`. The paths of `files` are those below `src`.
    ///
    /// # Panics
    ///
    /// If a file is missing.
    pub(crate) fn of_crate(files: &'a [Source]) -> Self {
        let mut modules = Self { modules: BTreeMap::new() };
        modules.add(files, Names::new(), file_at(files, "lib.rs"), "", None);
        modules
    }

    /// Returns the files that are built without tests.
    pub(crate) fn files(&self) -> Vec<&'a Source> {
        let files: BTreeMap<_, _> =
            self.modules.values().map(|module| (module.file.path.as_str(), module.file)).collect();
        files.into_values().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Names, &Module<'a>)> {
        self.modules.iter()
    }

    /// Adds the module `path` and those inside. `folder` is where its `mod` lines look for files.
    fn add(
        &mut self,
        files: &'a [Source],
        path: Names,
        file: &'a Source,
        folder: &str,
        block: Option<&'a [Item]>,
    ) {
        let items = block.unwrap_or(&file.syntax.items);
        let mut names: BTreeMap<String, Vec<Name<'a>>> = BTreeMap::new();
        for item in items.iter().filter(|item| !source::is_of_test(item)) {
            if let Item::Use(line) = item {
                for leaf in leaves(line).into_iter().filter(|leaf| !leaf.is_glob) {
                    names.entry(leaf.alias).or_default().push(Name::Imported(leaf.path));
                }
            } else if let Item::Mod(module) = item {
                let name = module.ident.to_string();
                let inside = [path.as_slice(), std::slice::from_ref(&name)].concat();
                let folder_inside = format!("{folder}{name}/");
                if let Some((_, items)) = &module.content {
                    self.add(files, inside, file, &folder_inside, Some(items));
                } else {
                    let candidates = [format!("{folder}{name}.rs"), format!("{folder_inside}mod.rs")];
                    let child = files.iter().find(|file| candidates.contains(&file.path));
                    let child = child.unwrap_or_else(|| panic!("{}: no file for mod {name}", file.path));
                    self.add(files, inside, child, &folder_inside, None);
                }
                names.entry(name).or_default().push(Name::Module);
            } else if let Some(name) = defined_name(item) {
                names.entry(name).or_default().push(Name::DefinedIn(&file.path));
            }
        }
        self.modules.insert(path, Module { file, items, names });
    }

    /// Returns the files that define what `path` means in `module`. A re-export counts as the file that
    /// defines what it exports. A path that leads out of the crate has none.
    pub(crate) fn files_of(&self, module: &[String], path: &[String]) -> BTreeSet<&'a str> {
        let mut at = module.to_vec();
        let mut path = path;
        let mut is_relative = true;
        while let Some((first, rest)) = path.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                _ => break,
            }
            is_relative = false;
            path = rest;
        }
        let is_known = path.first().is_none_or(|name| self.modules[&at].names.contains_key(name));
        if is_relative && !is_known { BTreeSet::new() } else { self.look_up(&at, path) }
    }

    fn look_up(&self, at: &[String], path: &[String]) -> BTreeSet<&'a str> {
        let module = &self.modules[at];
        let here = BTreeSet::from([module.file.path.as_str()]);
        let Some((name, rest)) = path.split_first() else { return here };
        // A name that is written nowhere is defined by a macro of this module.
        let Some(meanings) = module.names.get(name) else { return here };
        let inside = [at, std::slice::from_ref(name)].concat();
        let is_module = meanings.iter().any(|meaning| matches!(meaning, Name::Module));
        if is_module && !rest.is_empty() {
            return self.look_up(&inside, rest);
        }
        let mut files = BTreeSet::new();
        for meaning in meanings {
            match meaning {
                Name::DefinedIn(file) => drop(files.insert(*file)),
                Name::Module => drop(files.insert(self.modules[&inside].file.path.as_str())),
                // `use redis;`: another crate.
                Name::Imported(target) if target.first() == Some(name) && !is_module => {}
                Name::Imported(target) => {
                    files.extend(self.files_of(at, &[target.as_slice(), rest].concat()));
                }
            }
        }
        files
    }
}

fn file_at<'a>(files: &'a [Source], path: &str) -> &'a Source {
    files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("there is no {path}"))
}

fn defined_name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Returns whether a `use` line makes its names visible to other modules.
pub(crate) const fn is_re_export(line: &ItemUse) -> bool {
    !matches!(line.vis, Visibility::Inherited)
}

/// Returns whether this is the definition of a macro, not the use of one.
pub(crate) fn defines_macro(mac: &Macro) -> bool {
    mac.path.is_ident("macro_rules")
}

/// Returns the names that a `use` line imports.
pub(crate) fn leaves(line: &ItemUse) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    // `use ::name`: another crate.
    if line.leading_colon.is_none() {
        add_leaves(&mut leaves, &Names::new(), &line.tree);
    }
    leaves
}

fn add_leaves(leaves: &mut Vec<Leaf>, prefix: &[String], tree: &UseTree) {
    let mut add = |last: Option<&syn::Ident>, alias: Option<&syn::Ident>, line| {
        let mut path = prefix.to_vec();
        // `use a::{self}` is `use a`.
        path.extend(last.filter(|last| *last != "self" || prefix.is_empty()).map(ToString::to_string));
        let alias = alias.map(ToString::to_string).or_else(|| path.last().cloned()).unwrap_or_default();
        leaves.push(Leaf { path, alias, is_glob: last.is_none(), line });
    };
    match tree {
        UseTree::Path(tree) => {
            let prefix = [prefix, &[tree.ident.to_string()]].concat();
            add_leaves(leaves, &prefix, &tree.tree);
        }
        UseTree::Name(tree) => add(Some(&tree.ident), None, tree.ident.span().start().line),
        UseTree::Rename(tree) => add(Some(&tree.ident), Some(&tree.rename), tree.ident.span().start().line),
        UseTree::Glob(tree) => add(None, None, tree.star_token.span.start().line),
        UseTree::Group(tree) => tree.items.iter().for_each(|tree| add_leaves(leaves, prefix, tree)),
    }
}
