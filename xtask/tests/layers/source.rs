//! The modules of a crate and the imports between its files, read from the source text.
//!
//! An import is a path that begins with `crate`, `self`, `super` or the name of a child module, wherever it stands:
//! in a `use`, in an expression or type, or among the tokens of a macro call. Items under `#[cfg(test)]` are left
//! out, because tests may look at everything. A re-export (`pub use`) is no import of its own: imports through it
//! lead to the file that defines the item.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Expr, ExprLit, Item, ItemUse, Lit, UseTree, Visibility, visit::Visit};

/// The path of a module or an item from the crate's root, which is the empty path.
pub(crate) type Names = Vec<String>;

/// A module as it is parsed: its path, its file and its items without those of tests.
type Parsed = (Names, PathBuf, Vec<Item>);

/// What a module defines and what it re-exports.
#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    items: BTreeSet<String>,
    /// The name that is re-exported, and the path of the item behind it.
    exports: BTreeMap<String, Names>,
    /// Modules of which everything is re-exported.
    globs: Vec<Names>,
}

/// A mention of an item that another file defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    /// The module with the path in it.
    pub(crate) from: Names,
    /// The module that defines the item.
    pub(crate) to: Names,
    /// The files of both.
    pub(crate) files: [PathBuf; 2],
}

/// All modules of a crate and the imports between its files.
#[derive(Debug)]
pub(crate) struct Source {
    modules: BTreeMap<Names, Module>,
    imports: BTreeSet<Import>,
}

impl Source {
    /// Reads the crate whose root is the file `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut parsed = Vec::new();
        let directory = root.parent().expect("a root file is in a directory");
        parse_file(root, directory, &Names::new(), &mut parsed);
        let known: BTreeSet<Names> = parsed.iter().map(|(names, ..)| names.clone()).collect();
        let mut modules = BTreeMap::new();
        let mut mentions = Vec::new();
        for (names, file, items) in &parsed {
            let mut reader = Reader {
                scope: names,
                known: &known,
                mentions: Vec::new(),
                module: Module {
                    file: file.clone(),
                    ..Module::default()
                },
            };
            items.iter().for_each(|item| reader.item(item));
            mentions.extend(
                reader
                    .mentions
                    .into_iter()
                    .map(|path| (names.clone(), path)),
            );
            modules.insert(names.clone(), reader.module);
        }
        let mut source = Self {
            modules,
            imports: BTreeSet::new(),
        };
        for (from, path) in mentions {
            let to = source.definition(&path, 0);
            let files = [&from, &to].map(|names| source.modules[names].file.clone());
            if files[0] != files[1] {
                source.imports.insert(Import { from, to, files });
            }
        }
        source
    }

    /// The modules of the crate, its root among them.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &Names> {
        self.modules.keys()
    }

    /// The imports from one file to another.
    pub(crate) fn imports(&self) -> impl Iterator<Item = &Import> {
        self.imports.iter()
    }

    /// The module that defines the item `path`, found through re-exports.
    fn definition(&self, path: &[String], depth: usize) -> Names {
        let mut length = 0;
        while length < path.len() && self.modules.contains_key(&path[..=length]) {
            length += 1;
        }
        let names = path[..length].to_vec();
        let module = &self.modules[&names];
        let Some(item) = path.get(length) else {
            return names;
        };
        // A chain of re-exports longer than this would be a circle, which rustc refuses.
        if depth < 8 && !module.items.contains(item) {
            if let Some(target) = module.exports.get(item) {
                let target = [target.as_slice(), &path[length + 1..]].concat();
                return self.definition(&target, depth + 1);
            }
            for glob in &module.globs {
                let target =
                    self.definition(&[glob.as_slice(), &path[length..]].concat(), depth + 1);
                if self.modules[&target].items.contains(item) {
                    return target;
                }
            }
        }
        names
    }
}

/// Parses `file` and, in `directory`, the files of its child modules.
fn parse_file(file: &Path, directory: &Path, names: &Names, parsed: &mut Vec<Parsed>) {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let items = syn::parse_file(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .items;
    parse_items(items, file, directory, names, parsed);
}

fn parse_items(
    items: Vec<Item>,
    file: &Path,
    directory: &Path,
    names: &Names,
    parsed: &mut Vec<Parsed>,
) {
    let mut own = Vec::new();
    for item in items.into_iter().filter(|item| !is_test(attributes(item))) {
        let Item::Mod(module) = item else {
            own.push(item);
            continue;
        };
        let name = module.ident.to_string();
        let child = [names.as_slice(), std::slice::from_ref(&name)].concat();
        let inner = directory.join(&name);
        match module.content {
            Some((_, items)) => parse_items(items, file, &inner, &child, parsed),
            None => {
                let beside = match path_of(&module.attrs) {
                    Some(path) => file.with_file_name(path),
                    None => directory.join(format!("{name}.rs")),
                };
                let path = if beside.exists() {
                    beside
                } else {
                    inner.join("mod.rs")
                };
                parse_file(&path, &inner, &child, parsed);
            }
        }
    }
    parsed.push((names.clone(), file.to_owned(), own));
}

/// The file that `#[path = "…"]` names, relative to that of the module above.
fn path_of(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes
        .iter()
        .find(|attribute| attribute.path().is_ident("path"))?;
    let value = &attribute.meta.require_name_value().ok()?.value;
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(path),
            ..
        }) => Some(path.value()),
        _ => None,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// Reads the items of one module.
struct Reader<'a> {
    scope: &'a Names,
    known: &'a BTreeSet<Names>,
    module: Module,
    mentions: Vec<Names>,
}

impl Reader<'_> {
    fn item(&mut self, item: &Item) {
        let name = match item {
            Item::Use(item) => return self.imported(item),
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Macro(item) => item.ident.as_ref(),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            _ => None,
        };
        self.module.items.extend(name.map(ToString::to_string));
        self.visit_item(item);
    }

    fn imported(&mut self, item: &ItemUse) {
        let exported = !matches!(item.vis, Visibility::Inherited);
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Names::new(), &mut leaves);
        for (path, name) in leaves {
            let Some(path) = self.absolute(&path) else {
                continue;
            };
            match name {
                Some(name) if exported => {
                    self.module.exports.insert(name, path);
                }
                None if exported => self.module.globs.push(path),
                _ => self.mentions.push(path),
            }
        }
    }

    /// `path` from the crate's root; `None` if it is not about this crate.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let mut base = self.scope.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            child => {
                let module = [base.as_slice(), &[child.to_owned()]].concat();
                if !self.known.contains(&module) {
                    return None;
                }
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn mention(&mut self, path: &[String]) {
        // A single name is `self` as a value, or something that a `use` brought.
        if path.len() > 1 {
            self.mentions.extend(self.absolute(path));
        }
    }

    /// Paths among the tokens of a macro call, which syn does not parse.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 || path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct)
                    if punct.as_char() == ':' && !path.is_empty() && colons < 2 =>
                {
                    colons += 1;
                    continue;
                }
                _ => {}
            }
            self.mention(&std::mem::take(&mut path));
            colons = 0;
            match token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                _ => {}
            }
        }
        self.mention(&path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.imported(item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.mention(&names);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }
}

/// The paths that a `use` names, each with the name that it binds; `None` for a glob.
fn flatten(tree: &UseTree, prefix: &mut Names, leaves: &mut Vec<(Names, Option<String>)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, leaves);
            prefix.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            leaves.push((prefix.clone(), prefix.last().cloned()));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            let path = [prefix.as_slice(), std::slice::from_ref(&name)].concat();
            leaves.push((path, Some(name)));
        }
        UseTree::Rename(rename) => {
            let path = [prefix.as_slice(), &[rename.ident.to_string()]].concat();
            leaves.push((path, Some(rename.rename.to_string())));
        }
        UseTree::Glob(_) => leaves.push((prefix.clone(), None)),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, leaves);
            }
        }
    }
}
