//! `<metadata>`: what other programs keep in a document, an element each, told apart by their
//! namespaces.
//!
//! A program hands in its element without a namespace and gets it back so; in the document it has the
//! program's namespace, under a prefix of the program's choice. All else stays byte for byte.

use std::ops::Range;

use crate::xml::{Document, RawXml, edited};
use crate::{Error, ErrorKind};

/// The element of that namespace among the children of `<metadata>`, without its namespace.
#[must_use]
pub fn metadata_element(metadata: &RawXml, uri: &str) -> Option<String> {
    let document = Document::parse(metadata.as_str()).ok()?;
    let found = document
        .root()
        .children()
        .find(|child| child.namespace() == Some(uri))?;
    let text = found.raw().0;
    Some(without_namespace(&text, uri).unwrap_or(text))
}

/// `<metadata>` with that element as the one of the namespace, under the prefix `key`; `None`
/// takes the namespace's element away. Without any element there is no `<metadata>`.
///
/// # Errors
/// [`ErrorKind::Xml`] for an element that is not well-formed; [`ErrorKind::InvalidArgument`] for a
/// prefix or a namespace that can't be one, or for an element that has another namespace already.
pub fn set_metadata_element(
    metadata: Option<&RawXml>,
    uri: &str,
    element: Option<(&str, &str)>,
) -> Result<Option<RawXml>, Error> {
    let kept = match metadata {
        Some(metadata) => without_element(metadata.as_str(), uri)?,
        None => None,
    };
    let Some((key, xml)) = element else {
        return Ok(kept.map(RawXml));
    };
    let element = in_namespace(xml, uri, key)?;
    let before = match &kept {
        Some(kept) => kept.trim_end().trim_end_matches("</metadata>").trim_end(),
        None => "<metadata>",
    };
    let changed = RawXml(format!("{before}\n    {element}\n  </metadata>"));
    // A prefix or a namespace that means something else by now would hide it from its owner.
    if uri.is_empty() || metadata_element(&changed, uri).is_none() {
        return Err(invalid(format!(
            "'{uri}' with the prefix '{key}' can't be a namespace of metadata"
        )));
    }
    Ok(Some(changed))
}

/// `<metadata>` without the elements of a namespace; `None` if no other is in it.
fn without_element(metadata: &str, uri: &str) -> Result<Option<String>, Error> {
    let document = Document::parse(metadata)?;
    let mut edits = Vec::new();
    let mut others = false;
    for child in document.root().children() {
        if child.namespace() == Some(uri) {
            let Range { start, end } = child.node().range();
            let start = metadata[..start].trim_end().len();
            edits.push((start..end, String::new()));
        } else {
            others = true;
        }
    }
    Ok(others.then(|| edited(metadata, edits)))
}

/// The element and those in it, as far as they have no namespace, in that one.
fn in_namespace(xml: &str, uri: &str, key: &str) -> Result<String, Error> {
    if !is_prefix(key) {
        return Err(invalid(format!("'{key}' can't be a namespace's prefix")));
    }
    let document = Document::parse(xml)?;
    let root = document.root();
    let node = root.node();
    match root.namespace() {
        None => {}
        Some(own) if own == uri => return Ok(xml[node.range()].to_owned()),
        Some(other) => {
            return Err(invalid(format!(
                "<{}> is in the namespace '{other}' already, and not in '{uri}'",
                root.name()
            )));
        }
    }
    let mut edits = Vec::new();
    for inner in node.descendants().filter(|node| node.is_element()) {
        if inner.tag_name().namespace().is_none_or(str::is_empty) {
            let prefix = format!("{key}:");
            edits.extend(names(xml, inner.range()).map(|at| (at..at, prefix.clone())));
        }
    }
    let name_end = node.range().start + 1 + root.name().len();
    let uri = uri.replace('&', "&amp;").replace('<', "&lt;");
    let declaration = format!(" xmlns:{key}=\"{}\"", uri.replace('"', "&quot;"));
    edits.push((name_end..name_end, declaration));
    let Range { start, end } = node.range();
    let behind = xml.len() - end;
    let changed = edited(xml, edits);
    Ok(changed[start..changed.len() - behind].to_owned())
}

/// An element without that namespace; `None` where an attribute needs it.
fn without_namespace(xml: &str, uri: &str) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    let mut edits = Vec::new();
    let root = document.root().node();
    for node in root.descendants().filter(|node| node.is_element()) {
        if node.attributes().any(|a| a.namespace() == Some(uri)) {
            return None;
        }
        if node.tag_name().namespace() == Some(uri) {
            for at in names(xml, node.range()) {
                let local = xml[at..].find(node.tag_name().name())?;
                edits.push((at..at + local, String::new()));
            }
        }
        for (range, name) in attributes(xml, node.range().start) {
            let declared = match name.strip_prefix("xmlns") {
                Some("") => node.lookup_namespace_uri(None),
                Some(rest) => rest
                    .strip_prefix(':')
                    .and_then(|prefix| node.lookup_namespace_uri(Some(prefix))),
                None => continue,
            };
            if declared == Some(uri) {
                edits.push((range, String::new()));
            }
        }
    }
    Some(edited(xml, edits))
}

/// Where the names in an element's tags begin.
fn names(xml: &str, element: Range<usize>) -> impl Iterator<Item = usize> {
    let text = &xml[element.clone()];
    let closing = text.rfind("</").filter(|_| !text.ends_with("/>"));
    [Some(1), closing.map(|at| at + 2)]
        .into_iter()
        .flatten()
        .map(move |at| element.start + at)
}

/// The attributes in a start tag of a well-formed document, declarations included: each with the
/// blanks before it, and its name.
fn attributes(xml: &str, start: usize) -> Vec<(Range<usize>, &str)> {
    let mut found = Vec::new();
    let is_end = |c: char| c.is_ascii_whitespace() || c == '/' || c == '>';
    let mut at = start + xml[start..].find(is_end).unwrap_or(0);
    loop {
        let rest = xml[at..].trim_start();
        if rest.starts_with(['/', '>']) {
            return found;
        }
        let Some(equals) = rest.find('=') else {
            return found;
        };
        let value = rest[equals + 1..].trim_start();
        let quote = value.chars().next().unwrap_or('"');
        let Some(closing) = value[1..].find(quote) else {
            return found;
        };
        let end = xml.len() - value.len() + closing + 2;
        found.push((at..end, rest[..equals].trim_end()));
        at = end;
    }
}

/// Letters of ASCII, digits and `-_.`, as prefixes are in practice.
fn is_prefix(key: &str) -> bool {
    let mut chars = key.chars();
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    chars.next().is_some_and(starts)
        && chars.all(|c| starts(c) || c.is_ascii_digit() || matches!(c, '-' | '.'))
        && !key.to_ascii_lowercase().starts_with("xml")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(metadata: Option<&RawXml>, uri: &str, key: &str, xml: &str) -> RawXml {
        let changed = set_metadata_element(metadata, uri, Some((key, xml)));
        changed.unwrap().unwrap()
    }

    #[test]
    fn an_element_gets_its_namespace_and_is_given_back_without() {
        let xml = "<a b=\"c\"><d/>text<e>x</e></a>";
        let metadata = set(None, "http://x/1?a&b", "k", xml);
        assert_eq!(
            metadata.as_str(),
            "<metadata>\n    <k:a xmlns:k=\"http://x/1?a&amp;b\" b=\"c\"><k:d/>text<k:e>x</k:e></k:a>\n  \
             </metadata>"
        );
        let back = metadata_element(&metadata, "http://x/1?a&b").unwrap();
        assert_eq!(back, xml);
        assert_eq!(metadata_element(&metadata, "http://x/1"), None);
    }

    #[test]
    fn others_stay_byte_for_byte() {
        let others = "<metadata xmlns:o='urn:o'>\n    <o:one  a = '1' ><!-- here --></o:one>\n    \
                      <app xmlns='urn:app'><in/></app>\n  </metadata>";
        let metadata = RawXml(others.to_owned());
        assert_eq!(
            metadata_element(&metadata, "urn:o").unwrap(),
            "<one  a = '1' ><!-- here --></one>"
        );
        assert_eq!(
            metadata_element(&metadata, "urn:app").unwrap(),
            "<app><in/></app>"
        );
        let more = set(Some(&metadata), "urn:k", "k", "<a/>\n");
        assert_eq!(
            more.as_str(),
            others.replace(
                "\n  </metadata>",
                "\n    <k:a xmlns:k=\"urn:k\"/>\n  </metadata>"
            )
        );
        let less = set_metadata_element(Some(&more), "urn:k", None)
            .unwrap()
            .unwrap();
        assert_eq!(less, metadata);
        let less = set_metadata_element(Some(&less), "urn:o", None)
            .unwrap()
            .unwrap();
        let none = set_metadata_element(Some(&less), "urn:app", None).unwrap();
        assert_eq!(none, None);
    }

    #[test]
    fn a_second_one_replaces_the_first() {
        let first = set(None, "urn:k", "k", "<a/>");
        let second = set(Some(&first), "urn:k", "other", "<b/>");
        assert_eq!(
            second.as_str(),
            "<metadata>\n    <other:b xmlns:other=\"urn:k\"/>\n  </metadata>"
        );
    }

    #[test]
    fn what_has_its_namespace_already_stays_as_it_is() {
        let xml = "<k:a xmlns:k='urn:k' k:b='1'/>";
        let metadata = set(None, "urn:k", "k", xml);
        assert!(metadata.as_str().contains(xml));
        // The attribute needs the namespace.
        assert_eq!(metadata_element(&metadata, "urn:k").unwrap(), xml);
    }

    #[test]
    fn what_can_not_be_found_again_is_refused() {
        for (uri, key, xml) in [
            ("urn:k", "k", "<a"),
            ("urn:k", "k", "<!DOCTYPE a><a/>"),
            ("urn:k", "", "<a/>"),
            ("urn:k", "k:x", "<a/>"),
            ("urn:k", "xmlns", "<a/>"),
            ("urn:k", "k", "<a xmlns='urn:other'/>"),
            ("urn:k", "k", "<a xmlns:k='urn:other'/>"),
            ("", "k", "<a/>"),
            ("two\nlines", "k", "<a/>"),
        ] {
            let refused = set_metadata_element(None, uri, Some((key, xml)));
            assert!(refused.is_err(), "{uri} {key} {xml}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_document(
            uri in "[a-z:/&<>'\"]{0,6}", key in "[a-zA-Z:_]{0,3}", xml in "[<>/ a-c='\":x]{0,24}"
        ) {
            if let Ok(Some(metadata)) = set_metadata_element(None, &uri, Some((&key, &xml))) {
                prop_assert!(Document::parse(metadata.as_str()).is_ok());
                prop_assert!(metadata_element(&metadata, &uri).is_some());
                let none = set_metadata_element(Some(&metadata), &uri, None).unwrap();
                prop_assert_eq!(none, None);
            }
        }
    }
}
