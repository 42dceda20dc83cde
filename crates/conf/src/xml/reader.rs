//! Documents and their elements, with typed attributes.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fmt::Display;

use super::number::{Base, Unsigned, parse_unsigned};
use super::position::Positions;
use super::raw::first_name;
use super::{Keyword, Limits, OnOff, RawXml, VIRTNIC_NAMESPACE, YesNo, namespace, prescan};
use crate::error::shortened;
use crate::{Error, ErrorKind};

/// A well-formed document within the limits of this module.
#[derive(Debug)]
pub struct Document<'t> {
    tree: roxmltree::Document<'t>,
    /// Made when the first fault is told.
    positions: OnceCell<Positions>,
}

/// An element of a [`Document`].
///
/// Names are local names without a namespace unless said otherwise; libvirt's own elements have
/// none. Only the first child of a name counts where a method gives one.
#[derive(Debug, Clone, Copy)]
pub struct Element<'d> {
    node: roxmltree::Node<'d, 'd>,
    positions: &'d OnceCell<Positions>,
}

impl<'t> Document<'t> {
    /// Reads a document.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`], with the place, for malformed text and for anything beyond the limits.
    pub fn parse(text: &'t str) -> Result<Self, Error> {
        Self::parse_within(text, Limits::READ)
    }

    /// Reads one that is only asked about: it has at most [`super::MAX_ASKED_NODES`] nodes.
    ///
    /// # Errors
    /// As those of [`Document::parse`].
    pub fn parse_asked(text: &'t str) -> Result<Self, Error> {
        Self::parse_within(text, Limits::ASKED)
    }

    /// Refuses a text of ours that, once it was kept, could not be read again.
    pub(crate) fn check_kept(text: &'t str) -> Result<(), Error> {
        match Self::parse_within(text, Limits::KEPT) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(
                ErrorKind::ConfigUnsupported,
                format!(
                    "the definition is too large to be kept as it is written: {}",
                    error.message
                ),
            )),
        }
    }

    fn parse_within(text: &'t str, limits: Limits) -> Result<Self, Error> {
        prescan::prescan(text, limits.bytes).map_err(|finding| Error {
            position: finding
                .offset
                .map(|offset| Positions::of(text).at(text, offset)),
            ..Error::new(ErrorKind::Xml, finding.message)
        })?;
        let options = roxmltree::ParsingOptions {
            allow_dtd: false,
            nodes_limit: limits.nodes,
            ..roxmltree::ParsingOptions::default()
        };
        match roxmltree::Document::parse_with_options(text, options) {
            Ok(tree) => Ok(Self {
                tree,
                positions: OnceCell::new(),
            }),
            Err(roxmltree::Error::UnclosedRootNode) => Err(unclosed(text)),
            Err(error) => Err(malformed(&error, limits)),
        }
    }

    /// The outermost element.
    #[must_use]
    pub fn root(&self) -> Element<'_> {
        Element {
            node: self.tree.root_element(),
            positions: &self.positions,
        }
    }

    /// The outermost element, if it has this name and no namespace.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] naming both.
    pub fn root_named(&self, name: &str) -> Result<Element<'_>, Error> {
        let root = self.root();
        if root.is(name) {
            return Ok(root);
        }
        let message = match root.namespace() {
            Some(namespace) => format!(
                "expected <{name}>, found <{}> of the namespace '{namespace}'",
                root.name()
            ),
            None => format!("expected <{name}>, found <{}>", root.name()),
        };
        Err(root.error(ErrorKind::Xml, message))
    }

    /// Reads the outermost element, if it has this name, and refuses whatever of it is virtnic's own,
    /// or looks so, and is read by nobody.
    ///
    /// # Errors
    /// As [`Document::root_named`], or all that is wrong in it, what the reader found first.
    pub(crate) fn read_definition<'d, T>(
        &'d self,
        name: &str,
        read: impl FnOnce(Element<'d>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.root_named(name)?;
        self.read_any_definition(read)
    }

    /// The same, whatever its outermost element is.
    pub(crate) fn read_any_definition<'d, T>(
        &'d self,
        read: impl FnOnce(Element<'d>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let root = self.root();
        match (read(root), root.check_namespaces(namespace::PLACES)) {
            (read, Ok(())) => read,
            (Ok(_), Err(error)) => Err(error),
            (Err(first), Err(second)) => Err(first.with(second)),
        }
    }

    /// The outermost element, if it has this name, of a document in which nothing is virtnic's own.
    ///
    /// # Errors
    /// As [`Document::root_named`], and [`ErrorKind::Xml`] for what is, or looks so.
    pub(crate) fn plain_named(&self, name: &str) -> Result<Element<'_>, Error> {
        let root = self.root_named(name)?;
        root.check_namespaces(&[])?;
        Ok(root)
    }
}

impl<'d> Element<'d> {
    /// Its node in the parser's tree.
    pub(crate) fn node(self) -> roxmltree::Node<'d, 'd> {
        self.node
    }

    /// Another element of its document.
    pub(super) fn at(self, node: roxmltree::Node<'d, 'd>) -> Self {
        Self { node, ..self }
    }

    /// Its local name.
    #[must_use]
    pub fn name(self) -> &'d str {
        self.node.tag_name().name()
    }

    /// Its namespace's URI; none after `xmlns=''`, which is the way back into none.
    #[must_use]
    pub fn namespace(self) -> Option<&'d str> {
        let uri = self.node.tag_name().namespace();
        uri.filter(|uri| !uri.is_empty())
    }

    /// Whether it has this name and no namespace.
    #[must_use]
    pub fn is(self, name: &str) -> bool {
        self.name() == name && self.namespace().is_none()
    }

    /// Its name with the document's prefix; in virtnic's own namespace the prefix is `virtnic`.
    pub(crate) fn qualified_name(self) -> std::borrow::Cow<'d, str> {
        if self.namespace() == Some(super::VIRTNIC_NAMESPACE) {
            return format!("virtnic:{}", self.name()).into();
        }
        self.written_name().into()
    }

    /// Its name as the document writes it, with its prefix.
    pub(super) fn written_name(self) -> &'d str {
        first_name(&self.node.document().input_text()[self.node.range()])
    }

    /// Its attributes with the document's prefixes, namespace declarations included; that of
    /// virtnic's own namespace is left out, being written where it is needed.
    pub(crate) fn all_attributes(self) -> Vec<(String, &'d str)> {
        let text = self.node.document().input_text();
        let outer = self.node.parent_element();
        let scope = self.declares_any().then(|| self.node.namespaces());
        let declared = scope.into_iter().flatten().filter(|namespace| {
            let inherited = outer.and_then(|outer| outer.lookup_namespace_uri(namespace.name()));
            namespace.name() != Some("xml")
                && namespace.uri() != super::VIRTNIC_NAMESPACE
                && inherited != Some(namespace.uri())
        });
        let declarations = declared.map(|namespace| match namespace.name() {
            Some(prefix) => (format!("xmlns:{prefix}"), namespace.uri()),
            None => ("xmlns".to_owned(), namespace.uri()),
        });
        let attributes = self.node.attributes();
        let attributes = attributes.map(|a| (text[a.range_qname()].to_owned(), a.value()));
        declarations.chain(attributes).collect()
    }

    /// Its name as errors show it: with our prefix, where it is ours.
    pub(super) fn label(self) -> String {
        match self.namespace() {
            Some(VIRTNIC_NAMESPACE) => format!("virtnic:{}", self.name()),
            _ => self.name().to_owned(),
        }
    }

    /// Its child elements, those of other namespaces included.
    pub fn children(self) -> impl Iterator<Item = Element<'d>> {
        self.node
            .children()
            .filter(|node| node.is_element())
            .map(move |node| self.at(node))
    }

    /// Its children of that name.
    pub fn children_named(self, name: &str) -> impl Iterator<Item = Element<'d>> {
        self.children().filter(move |child| child.is(name))
    }

    /// Its first child of that name.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Element<'d>> {
        self.children_named(name).next()
    }

    /// Its first child of that name, or an error that says it is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`].
    pub fn require_child(self, name: &str) -> Result<Element<'d>, Error> {
        self.child(name).ok_or_else(|| {
            self.error(
                ErrorKind::Xml,
                format!("<{}> needs a <{name}>", self.label()),
            )
        })
    }

    /// Its children of a name in a namespace.
    pub fn children_in(self, uri: &str, name: &str) -> impl Iterator<Item = Element<'d>> {
        self.children()
            .filter(move |child| child.name() == name && child.namespace() == Some(uri))
    }

    /// Reads its first child of that name as a noun, if there is one.
    ///
    /// # Errors
    /// The noun's own.
    pub fn parse_child<T: super::FromXml>(self, name: &str) -> Result<Option<T>, Error> {
        self.child(name).map(T::from_xml).transpose()
    }

    /// The element around it.
    #[must_use]
    pub fn parent(self) -> Option<Element<'d>> {
        self.node.parent_element().map(|node| self.at(node))
    }

    /// Its text as it stands; where elements stand in it, without these and the blanks around.
    #[must_use]
    pub fn text(self) -> String {
        let text = self.own_text();
        match self.children().next() {
            None => text,
            Some(_) => text.trim().to_owned(),
        }
    }

    /// The text directly inside it, between its children.
    pub(crate) fn own_text(self) -> String {
        let texts = self.node.children().filter(|node| node.is_text());
        texts.filter_map(|node| node.text()).collect()
    }

    /// The text of its first child of that name; none if the child is missing or empty.
    #[must_use]
    pub fn child_text(self, name: &str) -> Option<String> {
        let text = self.child(name)?.text();
        (!text.is_empty()).then_some(text)
    }

    /// Its attributes without a namespace, by name.
    pub fn attributes(self) -> impl Iterator<Item = (&'d str, &'d str)> {
        self.node
            .attributes()
            .filter(|attribute| attribute.namespace().is_none())
            .map(|attribute| (attribute.name(), attribute.value()))
    }

    /// An attribute's value.
    #[must_use]
    pub fn attribute(self, name: &str) -> Option<&'d str> {
        self.node.attribute(name)
    }

    /// An attribute's value as a string of its own.
    #[must_use]
    pub fn attribute_string(self, name: &str) -> Option<String> {
        self.attribute(name).map(str::to_owned)
    }

    /// An attribute that must be there; it may be empty.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] naming element and attribute.
    pub fn require(self, name: &str) -> Result<&'d str, Error> {
        self.attribute(name)
            .ok_or_else(|| self.missing(ErrorKind::Xml, name))
    }

    /// An attribute of `yes` or `no`.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for any other word.
    pub fn yes_no(self, name: &str) -> Result<Option<bool>, Error> {
        Ok(self.keyword::<YesNo>(name)?.map(bool::from))
    }

    /// An attribute of `on` or `off`.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for any other word.
    pub fn on_off(self, name: &str) -> Result<Option<bool>, Error> {
        Ok(self.keyword::<OnOff>(name)?.map(bool::from))
    }

    /// An attribute whose value is one of a few words.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for any other word, with the expected ones.
    pub fn keyword<K: Keyword>(self, name: &str) -> Result<Option<K>, Error> {
        self.keyword_or(ErrorKind::Xml, name)
    }

    /// As [`Element::keyword`], with an error of another kind.
    ///
    /// # Errors
    /// `kind` for any other word, with the expected ones.
    pub fn keyword_or<K: Keyword>(self, kind: ErrorKind, name: &str) -> Result<Option<K>, Error> {
        let Some(value) = self.attribute(name) else {
            return Ok(None);
        };
        match K::from_word(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(kind, name, K::expected())),
        }
    }

    /// An attribute that is an unsigned number in decimal.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for anything else, with the range.
    pub fn number<T: Unsigned>(self, name: &str) -> Result<Option<T>, Error> {
        self.number_in(name, Base::Ten, T::MAX)
    }

    /// An attribute that is an unsigned number, not above `max`.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for anything else, with the range.
    pub fn number_in<T: Unsigned>(
        self,
        name: &str,
        base: Base,
        max: u64,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.attribute(name) else {
            return Ok(None);
        };
        let value = parse_unsigned(text, base).filter(|&value| value <= max);
        match value.and_then(|value| T::try_from(value).ok()) {
            Some(value) => Ok(Some(value)),
            None => {
                let max = max.min(T::MAX);
                Err(self.invalid(
                    ErrorKind::Xml,
                    name,
                    format_args!("a number from 0 to {max}"),
                ))
            }
        }
    }

    /// An attribute that reads itself from text.
    ///
    /// # Errors
    /// `kind`, with the type's own words.
    pub fn parsed<T>(self, kind: ErrorKind, name: &str) -> Result<Option<T>, Error>
    where
        T: std::str::FromStr<Err: Display>,
    {
        let Some(text) = self.attribute(name) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|error: T::Err| self.attribute_error(kind, name, error.to_string()))
    }

    /// The element as it stands, byte for byte.
    #[must_use]
    pub fn raw(self) -> RawXml {
        let text = self.node.document().input_text();
        let mut piece = text[self.node.range()].to_owned();
        let name_end = first_name(&piece).len() + 1;
        let mut declarations = String::new();
        for (prefix, uri) in self.needed_namespaces() {
            declarations.push_str(&match prefix {
                Some(prefix) => format!(" xmlns:{prefix}='{}'", escape(uri)),
                None => format!(" xmlns='{}'", escape(uri)),
            });
        }
        piece.insert_str(name_end, &declarations);
        RawXml(piece)
    }

    /// Where it is, as `/network/forward/pf`.
    #[must_use]
    pub fn path(self) -> String {
        let mut names: Vec<_> = self
            .node
            .ancestors()
            .filter(|node| node.is_element())
            .map(|node| self.at(node).label())
            .collect();
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// Line and column of its start, from 1.
    #[must_use]
    pub fn position(self) -> (u32, u32) {
        self.position_of(self.node.range().start)
    }

    /// An error at this element.
    #[must_use]
    pub fn error(self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            position: Some(self.position()),
            path: Some(shortened(self.path())),
            ..Error::new(kind, message)
        }
    }

    /// An error at an attribute of this element.
    #[must_use]
    pub fn attribute_error(self, kind: ErrorKind, name: &str, message: impl Into<String>) -> Error {
        let mut error = self.error(kind, message);
        if let Some(attribute) = self.node.attribute_node(name) {
            error.position = Some(self.position_of(attribute.range().start));
        }
        error.path = Some(shortened(format!("{}/@{name}", self.path())));
        error
    }

    /// An error for an attribute whose value is not what was expected.
    #[must_use]
    pub fn invalid(self, kind: ErrorKind, name: &str, expected: impl Display) -> Error {
        let value: String = self
            .attribute(name)
            .unwrap_or_default()
            .chars()
            .take(80)
            .collect();
        self.attribute_error(
            kind,
            name,
            format!(
                "{name}='{value}' on <{}>: expected {expected}",
                self.label()
            ),
        )
    }

    /// An error for an attribute that is not there.
    #[must_use]
    pub fn missing(self, kind: ErrorKind, name: &str) -> Error {
        self.error(
            kind,
            format!("<{}> needs the attribute '{name}'", self.label()),
        )
    }

    pub(super) fn position_of(self, offset: usize) -> (u32, u32) {
        let text = self.node.document().input_text();
        let positions = self.positions.get_or_init(|| Positions::of(text));
        positions.at(text, offset)
    }

    /// Namespaces that this element or one inside it uses and that are declared further out.
    fn needed_namespaces(self) -> Vec<(Option<&'d str>, &'d str)> {
        let Some(parent) = self.node.parent_element() else {
            return Vec::new();
        };
        if parent.namespaces().all(|outer| outer.name() == Some("xml")) {
            return Vec::new();
        }
        let mut used = HashSet::new();
        for node in self.node.descendants() {
            used.extend(node.tag_name().namespace());
            used.extend(
                node.attributes()
                    .filter_map(|attribute| attribute.namespace()),
            );
        }
        if used.is_empty() {
            return Vec::new();
        }
        let tag = self.start_tag();
        parent
            .namespaces()
            .filter(|outer| outer.name() != Some("xml") && used.contains(outer.uri()))
            .filter(|outer| {
                // Declared here, whether anew or inherited: only the latter is the same one.
                let here = self.node.lookup_namespace_uri(outer.name());
                here == Some(outer.uri()) && !declares(&tag, outer.name())
            })
            .map(|outer| (outer.name(), outer.uri()))
            .collect()
    }

    /// Whether its own tag declares a namespace.
    fn declares_any(self) -> bool {
        let mut scope = self.node.namespaces();
        scope.any(|namespace| namespace.name() != Some("xml")) && self.start_tag().contains("xmlns")
    }

    fn start_tag(self) -> String {
        start_tag(&self.node.document().input_text()[self.node.range()])
    }
}

/// Whether a start tag declares that prefix.
fn declares(tag: &str, prefix: Option<&str>) -> bool {
    let name = match prefix {
        Some(prefix) => format!("xmlns:{prefix}"),
        None => "xmlns".to_owned(),
    };
    tag.match_indices(&name).any(|(at, _)| {
        tag[..at].ends_with([' ', '\t', '\r', '\n'])
            && tag[at + name.len()..].trim_start().starts_with('=')
    })
}

/// An element's text up to the end of its start tag, attribute values left out.
fn start_tag(text: &str) -> String {
    let mut tag = String::new();
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (None, '>') => break,
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => tag.push(c),
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
        }
    }
    tag
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('\'', "&apos;")
}

/// The parser knows only that something was left open at the end.
fn unclosed(text: &str) -> Error {
    let start = prescan::unclosed(text).unwrap_or_default();
    let name: String = first_name(&text[start..]).chars().take(80).collect();
    Error {
        position: Some(Positions::of(text).at(text, start)),
        ..Error::new(
            ErrorKind::Xml,
            format!("not well-formed: <{name}> is never closed"),
        )
    }
}

/// roxmltree ends its messages with the place, which ours carry apart.
fn malformed(error: &roxmltree::Error, limits: Limits) -> Error {
    let position = error.pos();
    let text = error.to_string();
    let place = format!(" at {position}");
    let message = match error {
        roxmltree::Error::NodesLimitReached => format!(
            "the document has more than {} nodes, which is the most that is read",
            limits.nodes
        ),
        roxmltree::Error::NoRootNode => "not well-formed: the document is empty".to_owned(),
        _ => format!("not well-formed: {}", text.replace(&place, "")),
    };
    Error {
        position: placed(error).then_some((position.row, position.col)),
        ..Error::new(ErrorKind::Xml, message)
    }
}

/// Whether the parser knew a place; otherwise it says 1:1.
fn placed(error: &roxmltree::Error) -> bool {
    !matches!(
        error,
        roxmltree::Error::NoRootNode
            | roxmltree::Error::DtdDetected
            | roxmltree::Error::NodesLimitReached
            | roxmltree::Error::AttributesLimitReached
            | roxmltree::Error::NamespacesLimitReached
    )
}
