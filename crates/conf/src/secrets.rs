//! What a document tells only to who may know it (`VIR_DOMAIN_XML_SECURE`): passwords of displays,
//! wherever they stand, and the cookies by which a disk is fetched.

use std::borrow::Cow;

use crate::xml::{Document, RawXml, edited};

/// What libvirt shows in a password's place.
pub(crate) const HIDDEN: &str = "*****";

/// Attributes that are passwords.
const SECRET_ATTRIBUTES: [&str; 1] = ["passwd"];

/// Elements that are left out as a whole.
const SECRET_ELEMENTS: [&str; 2] = ["cookies", "cookie"];

/// Whether an attribute is a password, by its name.
pub(crate) fn is_secret(attribute: &str) -> bool {
    SECRET_ATTRIBUTES.contains(&attribute)
}

/// Whether a document shows what stands in a password's place: it was made for somebody who may not know it. One
/// that can't be read has none.
#[must_use]
pub fn has_hidden_secrets(xml: &str) -> bool {
    if !xml.contains(HIDDEN) {
        return false;
    }
    let Ok(document) = Document::parse(xml) else {
        return false;
    };
    let mut rest = vec![document.root()];
    while let Some(element) = rest.pop() {
        if element.namespace().is_some() {
            continue;
        }
        let mut secrets = SECRET_ATTRIBUTES.iter();
        if secrets.any(|name| element.node().attribute(*name) == Some(HIDDEN)) {
            return true;
        }
        rest.extend(element.children());
    }
    false
}

/// A piece of a document without its secrets. What is in other programs' namespaces is theirs.
pub(crate) fn without_secrets(raw: &RawXml) -> Cow<'_, RawXml> {
    let text = raw.as_str();
    let may_have = |name: &&str| text.contains(name);
    if !SECRET_ATTRIBUTES
        .iter()
        .chain(&SECRET_ELEMENTS)
        .any(may_have)
    {
        return Cow::Borrowed(raw);
    }
    let Ok(document) = Document::parse(text) else {
        // Nobody could say what is in it.
        return Cow::Owned(RawXml(format!("<{}/>", raw.name())));
    };
    let root = document.root();
    let mut edits = Vec::new();
    let mut rest = vec![root];
    while let Some(element) = rest.pop() {
        if element.namespace().is_some() {
            continue;
        }
        if SECRET_ELEMENTS.contains(&element.name()) {
            edits.push((element.node().range(), String::new()));
            continue;
        }
        for name in SECRET_ATTRIBUTES {
            if let Some(attribute) = element.node().attribute_node(name) {
                edits.push((attribute.range_value(), HIDDEN.to_owned()));
            }
        }
        rest.extend(element.children());
    }
    if SECRET_ELEMENTS.contains(&root.name()) {
        return Cow::Owned(RawXml(format!("<{}/>", raw.name())));
    }
    Cow::Owned(RawXml(edited(text, edits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str) -> String {
        without_secrets(&RawXml(text.to_owned())).into_owned().0
    }

    #[test]
    fn passwords_and_cookies_go_and_all_else_stays() {
        assert_eq!(
            hidden("<a  passwd = \"x&amp;'y\" b='passwd'><c><d passwd=''/>passwd='z'</c></a>"),
            "<a  passwd = \"*****\" b='passwd'><c><d passwd='*****'/>passwd='z'</c></a>"
        );
        assert_eq!(
            hidden(
                "<source protocol='https'><cookies><cookie name='a'>b</cookie></cookies><x/></source>"
            ),
            "<source protocol='https'><x/></source>"
        );
        assert_eq!(
            hidden("<cookies><cookie name='a'>b</cookie></cookies>"),
            "<cookies/>"
        );
    }

    #[test]
    fn a_hidden_password_is_seen() {
        for (xml, expected) in [
            ("<a><graphics passwd='*****'/></a>", true),
            ("<a><graphics passwd='x*****'/></a>", false),
            ("<a><title>*****</title></a>", false),
            ("<a><q:b xmlns:q='urn:q' passwd='*****'/></a>", false),
            ("<a passwd='*****'", false),
        ] {
            assert_eq!(has_hidden_secrets(xml), expected, "{xml}");
        }
    }

    #[test]
    fn what_has_no_secret_is_not_copied() {
        let raw = RawXml("<a b='c'/>".to_owned());
        assert!(matches!(without_secrets(&raw), Cow::Borrowed(_)));
    }

    #[test]
    fn other_programs_elements_are_theirs() {
        let theirs = "<q:env xmlns:q='urn:q' passwd='p'/>";
        assert_eq!(hidden(theirs), theirs);
    }

    #[test]
    fn an_empty_namespace_is_none() {
        assert_eq!(
            hidden("<a xmlns='' passwd='p'><cookies xmlns=''>c</cookies></a>"),
            "<a xmlns='' passwd='*****'></a>"
        );
    }
}
