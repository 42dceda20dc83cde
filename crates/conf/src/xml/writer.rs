//! libvirt's canonical form: two spaces a level, single quotes, a line an element.

use std::fmt::{self, Write as _};

use super::{Keyword, RawXml, ToXml, YesNo};

/// Writes a document.
///
/// An element's attributes come before its children:
/// ```
/// let mut writer = conf::xml::Writer::new();
/// writer.element("forward", |w| {
///     w.attribute("mode", "hostdev");
///     w.element("pf", |w| w.attribute("dev", "eth0"));
/// });
/// assert_eq!(writer.finish(), "<forward mode='hostdev'>\n  <pf dev='eth0'/>\n</forward>\n");
/// ```
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
    depth: usize,
    inside: Inside,
}

/// Where the next thing is written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// In a start tag, which may still get attributes.
    Tag,
    /// After text: the end tag follows at once.
    Text,
    /// Between elements, each on its own line.
    #[default]
    Content,
}

impl Writer {
    /// An empty document.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty document whose elements start `depth` levels in.
    #[must_use]
    pub fn at_depth(depth: usize) -> Self {
        Self {
            depth,
            ..Self::default()
        }
    }

    /// An element with what the closure writes in it; `<name/>` if it writes no content.
    pub fn element(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.open(name);
        inside(self);
        self.close(name, "/>");
    }

    /// As [`Writer::element`], with an end tag even if there is no content.
    pub fn element_with_end(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.open(name);
        inside(self);
        if self.inside == Inside::Tag {
            self.out.push_str(">\n");
            self.inside = Inside::Content;
        }
        self.close(name, "/>");
    }

    /// As [`Writer::element`]; without content it ends with ` />`, as some of libvirt's do.
    pub fn element_spaced(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.open(name);
        inside(self);
        self.close(name, " />");
    }

    /// An element that is written only if the closure writes an attribute or content.
    pub fn element_unless_empty(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        let (length, before) = (self.out.len(), self.inside);
        self.open(name);
        let opened = self.out.len();
        inside(self);
        if self.out.len() == opened && self.inside == Inside::Tag {
            self.out.truncate(length);
            self.depth -= 1;
            self.inside = before;
        } else {
            self.close(name, "/>");
        }
    }

    /// `<name>text</name>`.
    pub fn text_element(&mut self, name: &str, text: impl fmt::Display) {
        self.element(name, |w| w.text(text));
    }

    /// `<name>text</name>`, if there is a text.
    pub fn optional_text_element(&mut self, name: &str, text: Option<impl fmt::Display>) {
        if let Some(text) = text {
            self.text_element(name, text);
        }
    }

    /// An attribute of the element that was opened last.
    pub fn attribute(&mut self, name: &str, value: impl fmt::Display) {
        debug_assert_eq!(self.inside, Inside::Tag, "attribute {name} after content");
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("='");
        self.escaped(value, true);
        self.out.push('\'');
    }

    /// An attribute, if it has a value.
    pub fn optional_attribute(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.attribute(name, value);
        }
    }

    /// An attribute whose value is a word.
    pub fn keyword(&mut self, name: &str, value: impl Keyword) {
        self.attribute(name, value.word());
    }

    /// An attribute whose value is a word, if it has one.
    pub fn optional_keyword(&mut self, name: &str, value: Option<impl Keyword>) {
        if let Some(value) = value {
            self.keyword(name, value);
        }
    }

    /// An attribute of `yes` or `no`.
    pub fn yes_no(&mut self, name: &str, value: bool) {
        self.keyword(name, YesNo::from(value));
    }

    /// An attribute of `yes` or `no`, if it has a value.
    pub fn optional_yes_no(&mut self, name: &str, value: Option<bool>) {
        if let Some(value) = value {
            self.yes_no(name, value);
        }
    }

    /// An attribute of `on` or `off`, if it has a value.
    pub fn optional_on_off(&mut self, name: &str, value: Option<bool>) {
        self.optional_keyword(name, value.map(super::OnOff::from));
    }

    /// Text inside the element that was opened last; its end tag follows on the same line.
    pub fn text(&mut self, text: impl fmt::Display) {
        if self.inside == Inside::Tag {
            self.out.push('>');
        }
        self.inside = Inside::Text;
        self.escaped(text, false);
    }

    /// A piece that was carried through, on a line of its own.
    pub fn raw(&mut self, raw: &RawXml) {
        self.line();
        self.out.push_str(raw.as_str().trim());
        self.out.push('\n');
    }

    /// Pieces that were carried through, in order.
    pub fn raws<'r>(&mut self, raws: impl IntoIterator<Item = &'r RawXml>) {
        for raw in raws {
            self.raw(raw);
        }
    }

    /// A noun, as it writes itself.
    pub fn write(&mut self, noun: &impl ToXml) {
        noun.write_xml(self);
    }

    /// A noun, if there is one.
    pub fn write_optional(&mut self, noun: Option<&impl ToXml>) {
        if let Some(noun) = noun {
            noun.write_xml(self);
        }
    }

    /// The document, with a newline at its end.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    fn open(&mut self, name: &str) {
        self.line();
        self.out.push('<');
        self.out.push_str(name);
        self.inside = Inside::Tag;
        self.depth += 1;
    }

    fn close(&mut self, name: &str, empty: &str) {
        self.depth -= 1;
        match self.inside {
            Inside::Tag => self.out.push_str(empty),
            Inside::Text => self.end_tag(name),
            Inside::Content => {
                self.indent();
                self.end_tag(name);
            }
        }
        self.out.push('\n');
        self.inside = Inside::Content;
    }

    fn end_tag(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Starts a line of its own for a child.
    fn line(&mut self) {
        if self.inside == Inside::Tag {
            self.out.push_str(">\n");
        } else if self.inside == Inside::Text {
            self.out.push('\n');
        }
        self.inside = Inside::Content;
        self.indent();
    }

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.out.push_str("  ");
        }
    }

    fn escaped(&mut self, value: impl fmt::Display, attribute: bool) {
        let mut escape = Escape {
            out: &mut self.out,
            attribute,
        };
        // Writing to a string can't fail, and `Display` of our values doesn't.
        let _ = write!(escape, "{value}");
    }
}

/// Escapes what passes through it.
struct Escape<'o> {
    out: &'o mut String,
    attribute: bool,
}

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '&' => self.out.push_str("&amp;"),
                '\'' => self.out.push_str("&apos;"),
                '"' => self.out.push_str("&quot;"),
                // Written plainly these would be read back as a blank, or as a line feed.
                '\n' if self.attribute => self.out.push_str("&#10;"),
                '\t' if self.attribute => self.out.push_str("&#9;"),
                '\r' => self.out.push_str("&#13;"),
                '\n' | '\t' => self.out.push(c),
                // XML has no way to say these.
                '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
                _ => self.out.push(c),
            }
        }
        Ok(())
    }
}
