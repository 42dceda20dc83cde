//! A cheap pass over a text before a tree is made of it, so that no limit is passed at a cost.
//!
//! It knows just enough of XML to count; what is malformed is left for the parser to refuse.

use super::{MAX_ATTRIBUTES, MAX_DEPTH, MAX_NAMESPACES};

/// What was found, and at which byte.
pub(super) struct Finding {
    pub(super) message: String,
    pub(super) offset: Option<usize>,
}

/// Refuses what is too large, too deep, in another encoding, or has a document type.
pub(super) fn prescan(text: &str, max_bytes: usize) -> Result<(), Finding> {
    if text.len() > max_bytes {
        return Err(Finding {
            message: format!(
                "the document has {} bytes; at most {max_bytes} are read",
                text.len()
            ),
            offset: None,
        });
    }
    if let Some(offset) = text.bytes().position(|byte| byte == 0) {
        return Err(at(offset, "the document contains a NUL character"));
    }
    encoding(text)?;
    Scan::of(text).run()
}

/// Where the innermost element starts that is never closed.
pub(super) fn unclosed(text: &str) -> Option<usize> {
    let mut scan = Scan::of(text);
    scan.run().ok()?;
    scan.open.pop()
}

fn at(offset: usize, message: impl Into<String>) -> Finding {
    Finding {
        message: message.into(),
        offset: Some(offset),
    }
}

/// The text is UTF-8 already, so a declaration that says otherwise contradicts it.
fn encoding(text: &str) -> Result<(), Finding> {
    let start = text.len() - text.trim_start_matches('\u{feff}').len();
    let Some(declaration) = text[start..].strip_prefix("<?xml") else {
        return Ok(());
    };
    let declaration = declaration.split("?>").next().unwrap_or_default();
    let Some((_, value)) = declaration.split_once("encoding") else {
        return Ok(());
    };
    let value = value.trim_start().trim_start_matches('=').trim_start();
    let name = match value.chars().next() {
        Some(quote @ ('\'' | '"')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => return Ok(()), // malformed: the parser says so
    };
    let known = ["utf-8", "utf8", "us-ascii", "ascii"];
    if known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    let name: String = name.chars().take(40).collect();
    Err(at(
        start,
        format!("the document says that its encoding is '{name}'; only UTF-8 is read"),
    ))
}

struct Scan<'t> {
    text: &'t [u8],
    at: usize,
    /// Where the elements around this place start.
    open: Vec<usize>,
    namespaces: usize,
}

impl<'t> Scan<'t> {
    fn of(text: &'t str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            open: Vec::new(),
            namespaces: 0,
        }
    }

    fn run(&mut self) -> Result<(), Finding> {
        while let Some(step) = self.rest().iter().position(|&byte| byte == b'<') {
            self.at += step;
            let rest = self.rest();
            if rest.starts_with(b"<!--") {
                self.skip_past(4, b"-->");
            } else if rest.starts_with(b"<![CDATA[") {
                self.skip_past(9, b"]]>");
            } else if rest.starts_with(b"<?") {
                self.skip_past(2, b"?>");
            } else if rest.starts_with(b"<!") {
                return Err(at(
                    self.at,
                    "the document has a document type or entity declarations; they are not read",
                ));
            } else if rest.starts_with(b"</") {
                self.open.pop();
                self.skip_past(2, b">");
            } else {
                self.tag()?;
            }
        }
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        &self.text[self.at..]
    }

    /// Goes past `end`, looked for from `from` bytes on; to the end of the text if there is none.
    fn skip_past(&mut self, from: usize, end: &[u8]) {
        let rest = &self.text[self.at + from..];
        self.at = match rest.windows(end.len()).position(|window| window == end) {
            Some(position) => self.at + from + position + end.len(),
            None => self.text.len(),
        };
    }

    /// The parser takes a name with an empty prefix for one without any, and so for another name.
    fn name_at(&self, place: usize) -> Result<(), Finding> {
        match self.text.get(place) {
            Some(b':') => Err(at(place, "not well-formed: a name starts with ':'")),
            _ => Ok(()),
        }
    }

    /// A start tag: counts its attributes, which the parser compares pair by pair.
    fn tag(&mut self) -> Result<(), Finding> {
        let start = self.at;
        let mut attributes = 0;
        let mut word = start + 1;
        self.at += 1;
        self.name_at(word)?;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\'' | b'"' => {
                    let rest = &self.text[self.at + 1..];
                    self.at = match rest.iter().position(|&other| other == byte) {
                        Some(position) => self.at + 1 + position,
                        None => self.text.len(),
                    };
                }
                b'=' => {
                    attributes += 1;
                    self.name_at(word)?;
                    if self.text[word..].starts_with(b"xmlns") {
                        self.namespaces += 1;
                    }
                    if attributes > MAX_ATTRIBUTES {
                        return Err(at(
                            start,
                            format!("the element has more than {MAX_ATTRIBUTES} attributes"),
                        ));
                    }
                    if self.namespaces > MAX_NAMESPACES {
                        return Err(at(
                            start,
                            format!(
                                "the document has more than {MAX_NAMESPACES} namespace \
                                 declarations"
                            ),
                        ));
                    }
                }
                b'>' => {
                    if self.text[self.at - 1] != b'/' {
                        self.open.push(start);
                    }
                    if self.open.len() > MAX_DEPTH {
                        return Err(at(
                            start,
                            format!("elements are nested more than {MAX_DEPTH} deep"),
                        ));
                    }
                    self.at += 1;
                    return Ok(());
                }
                b'<' => return Ok(()), // malformed: the parser says so
                b' ' | b'\t' | b'\r' | b'\n' => {
                    word = self.at + 1;
                }
                _ => {}
            }
            self.at += 1;
        }
        self.at = self.text.len();
        Ok(())
    }
}
