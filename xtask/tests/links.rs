//! Links between the documents: each relative one leads to a file of the workspace, and its anchor to a
//! heading of that file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

mod workspace;

/// The links of a document, and its anchors.
#[derive(Debug, Default)]
struct Document {
    /// Destinations, each with its line.
    links: Vec<(String, usize)>,
    anchors: BTreeSet<String>,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut heading: Option<String> = None;
        let mut seen = BTreeMap::<String, usize>::new();
        for (event, range) in Parser::new_ext(text, workspace::DIALECT).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let count = seen.entry(slug.clone()).or_default();
                    document.anchors.insert(match *count {
                        0 => slug,
                        more => format!("{slug}-{more}"),
                    });
                    *count += 1;
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let line = 1 + text[..range.start].matches('\n').count();
                    document.links.push((dest_url.into_string(), line));
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    let ids = html.split("id=\"").skip(1);
                    let ids = ids.filter_map(|rest| rest.split('"').next());
                    document.anchors.extend(ids.map(str::to_owned));
                }
                _ => {}
            }
        }
        document
    }
}

/// The anchor that GitHub gives a heading.
fn slug(heading: &str) -> String {
    let heading = heading.trim().to_lowercase();
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c => c.is_alphanumeric().then_some(c),
    });
    kept.collect()
}

/// `path` without `.` and `..`; None if it leads out of the workspace.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => normal.pop().then_some(())?,
            Component::Normal(name) => normal.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// Why a link of the document at `path` leads nowhere; None if it leads somewhere, or out of the workspace by
/// a scheme.
fn problem(
    path: &Path,
    destination: &str,
    documents: &BTreeMap<PathBuf, Document>,
) -> Option<String> {
    if destination.contains("://") || destination.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = match destination.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (destination, None),
    };
    let target = if file.is_empty() {
        path.to_owned()
    } else {
        let beside = path.parent().unwrap_or(Path::new("")).join(file);
        match normal(&beside) {
            Some(target) => target,
            None => return Some("leads out of the workspace".to_owned()),
        }
    };
    if !workspace::root().join(&target).exists() {
        return Some(format!("there is no {}", target.display()));
    }
    let anchor = anchor?;
    let document = documents.get(&target)?;
    (!document.anchors.contains(anchor))
        .then(|| format!("{} has no heading #{anchor}", target.display()))
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let read = |path: PathBuf| {
        let document = Document::parse(&workspace::read(&path));
        (path, document)
    };
    let documents: BTreeMap<_, _> = workspace::files(&["md"]).into_iter().map(read).collect();
    let mut problems = Vec::new();
    for (path, document) in &documents {
        for (destination, line) in &document.links {
            if let Some(problem) = problem(path, destination, &documents) {
                let path = path.display();
                problems.push(format!("{path}:{line}: {destination}: {problem}"));
            }
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn a_broken_link_is_found() {
    let text = "# One `two`: 3\n\n## Same\n\n## Same\n\n[a](#one-two-3) [b](#same-1) [c](#same-2) [d](no.md)\n\
                [e](../out.md) [f](https://example.org/#x) ![g](README.md#nothing)\n";
    let document = Document::parse(text);
    let links = document.links.clone();
    let path = PathBuf::from("README.md");
    let documents = BTreeMap::from([(path.clone(), document)]);
    let broken: Vec<_> = links
        .iter()
        .filter(|(destination, _)| problem(&path, destination, &documents).is_some())
        .map(|(destination, line)| (destination.as_str(), *line))
        .collect();
    assert_eq!(
        broken,
        [
            ("#same-2", 7),
            ("no.md", 7),
            ("../out.md", 8),
            ("README.md#nothing", 8)
        ]
    );
}
