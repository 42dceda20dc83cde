//! Whom a certificate names.

use std::fmt;

use tokio_rustls::rustls::pki_types::CertificateDer;

/// Who a client is, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName {
    /// The subject.
    pub subject: DistinguishedName,
    /// The DNS names among its alternative names.
    pub dns: Vec<String>,
}

impl ClientName {
    /// None if the certificate can't be read.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<ClientName> {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        Some(ClientName {
            subject: DistinguishedName::read(parsed.subject())?,
            dns: parsed.valid_dns_names().map(str::to_owned).collect(),
        })
    }
}

/// The subject, or else the first DNS name.
impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dns.first() {
            Some(name) if self.subject.parts.is_empty() => name.fmt(f),
            _ => self.subject.fmt(f),
        }
    }
}

/// A distinguished name, in the order of the certificate: that is how GnuTLS prints it and libvirt's lists
/// have it, `C=GB,O=Example,CN=client1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistinguishedName {
    /// Most parts are one attribute.
    parts: Vec<Vec<(Attribute, Value)>>,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    /// Of a kind that has no text.
    Other(Vec<u8>),
}

/// A kind of attribute: the bytes of its object identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute(Vec<u8>);

/// Kinds with words of their own. The first of a kind is as GnuTLS prints it, others are OpenSSL's.
const WORDS: [(&str, &[u8]); 19] = [
    ("CN", &[0x55, 4, 3]),
    ("surName", &[0x55, 4, 4]),
    ("SN", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("title", &[0x55, 4, 12]),
    ("givenName", &[0x55, 4, 42]),
    ("GN", &[0x55, 4, 42]),
    (
        "UID",
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
    ),
    (
        "DC",
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
    ),
    ("EMAIL", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    (
        "emailAddress",
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
    ),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("organizationIdentifier", &[0x55, 4, 97]),
];

impl Attribute {
    /// The kind of that word, or of that number in dots.
    pub(super) fn named(word: &str) -> Option<Attribute> {
        let known = WORDS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(word));
        match known {
            Some((_, bytes)) => Some(Attribute(bytes.to_vec())),
            None => dotted(word).map(Attribute),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((word, _)) = WORDS.iter().find(|(_, bytes)| *bytes == self.0) {
            return f.write_str(word);
        }
        let (mut number, mut is_first) = (0u128, true);
        for byte in &self.0 {
            // One that is longer is nobody's, and only shown.
            number = number.wrapping_mul(128) | u128::from(byte & 0x7f);
            if byte & 0x80 != 0 {
                continue;
            }
            if is_first {
                let high = (number / 40).min(2);
                write!(f, "{high}.{}", number - high * 40)?;
            } else {
                write!(f, ".{number}")?;
            }
            (number, is_first) = (0, false);
        }
        Ok(())
    }
}

/// The bytes of an object identifier.
fn dotted(text: &str) -> Option<Vec<u8>> {
    let number = |part: &str| {
        let is_plain = part.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| part.parse::<u32>().ok()).flatten()
    };
    let mut numbers = text.split('.').map(number);
    let (high, low) = (numbers.next()??, numbers.next()??);
    if high > 2 || (high < 2 && low > 39) {
        return None;
    }
    let mut bytes = Vec::new();
    push_number(&mut bytes, high.checked_mul(40)?.checked_add(low)?);
    for number in numbers {
        push_number(&mut bytes, number?);
    }
    Some(bytes)
}

/// Seven bits a byte, the highest first.
fn push_number(bytes: &mut Vec<u8>, number: u32) {
    for shift in [28, 21, 14, 7] {
        if number >> shift != 0 {
            bytes.push(0x80 | u8::try_from((number >> shift) & 0x7f).unwrap_or_default());
        }
    }
    bytes.push(u8::try_from(number & 0x7f).unwrap_or_default());
}

impl DistinguishedName {
    /// Its parts, each with the attributes of which it is made; none stands for what has no text.
    pub(super) fn parts(
        &self,
    ) -> impl Iterator<Item = impl ExactSizeIterator<Item = (&Attribute, Option<&str>)>> {
        self.parts.iter().map(|part| {
            part.iter().map(|(attribute, value)| match value {
                Value::Text(text) => (attribute, Some(text.as_str())),
                Value::Other(_) => (attribute, None),
            })
        })
    }

    /// One of these parts, for tests.
    #[cfg(test)]
    pub(super) fn made(parts: &[&[(&str, &str)]]) -> DistinguishedName {
        let one = |(kind, value): &(&str, &str)| {
            (
                Attribute::named(kind).unwrap(),
                Value::Text((*value).to_owned()),
            )
        };
        DistinguishedName {
            parts: parts
                .iter()
                .map(|part| part.iter().map(one).collect())
                .collect(),
        }
    }

    /// Reads what is inside a certificate's `Name`.
    fn read(mut der: &[u8]) -> Option<DistinguishedName> {
        let mut parts = Vec::new();
        while !der.is_empty() {
            let mut set = element(&mut der, tag::SET)?;
            let mut part = Vec::new();
            while !set.is_empty() {
                let mut pair = element(&mut set, tag::SEQUENCE)?;
                let kind = element(&mut pair, tag::OID)?.to_vec();
                let (tag, bytes) = any_element(&mut pair)?;
                part.push((Attribute(kind), Value::read(tag, bytes)));
            }
            parts.push(part);
        }
        Some(DistinguishedName { parts })
    }
}

/// As GnuTLS prints it, but that control characters are shown as such.
impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.parts.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            for (number, (attribute, value)) in part.iter().enumerate() {
                let plus = if number > 0 { "+" } else { "" };
                write!(f, "{plus}{attribute}={value}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => {
                let last = text.chars().count().saturating_sub(1);
                for (at, c) in text.chars().enumerate() {
                    let is_edge = (at == 0 && "# ".contains(c)) || (at == last && c == ' ');
                    if c.is_control() {
                        write!(f, "{}", c.escape_debug())?;
                    } else if is_edge || ",+\"\\<>;".contains(c) {
                        write!(f, "\\{c}")?;
                    } else {
                        write!(f, "{c}")?;
                    }
                }
            }
            Value::Other(bytes) => {
                f.write_str("#")?;
                for byte in bytes {
                    write!(f, "{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn read(tag: u8, bytes: &[u8]) -> Value {
        let text = match tag {
            tag::UTF8 | tag::PRINTABLE | tag::IA5 | tag::NUMERIC => {
                std::str::from_utf8(bytes).ok().map(str::to_owned)
            }
            // In practice that is Latin-1.
            tag::TELETEX => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
            tag::BMP if bytes.len().is_multiple_of(2) => {
                let units: Vec<u16> = bytes
                    .chunks_exact(2)
                    .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                    .collect();
                String::from_utf16(&units).ok()
            }
            _ => None,
        };
        text.map_or_else(|| Value::Other(bytes.to_vec()), Value::Text)
    }
}

mod tag {
    pub(super) const OID: u8 = 0x06;
    pub(super) const UTF8: u8 = 0x0c;
    pub(super) const NUMERIC: u8 = 0x12;
    pub(super) const PRINTABLE: u8 = 0x13;
    pub(super) const TELETEX: u8 = 0x14;
    pub(super) const IA5: u8 = 0x16;
    pub(super) const BMP: u8 = 0x1e;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
}

/// Takes an element of that kind off the front.
fn element<'a>(der: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let (tag, content) = any_element(der)?;
    (tag == wanted).then_some(content)
}

/// Takes an element off the front: its tag, of one byte, and what it holds.
fn any_element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*length) {
        short @ 0..=0x7f => (short, rest),
        // Nothing in a certificate needs more than two bytes for its length.
        long @ (0x81 | 0x82) => {
            let (length, rest) = rest.split_at_checked(long - 0x80)?;
            let number = length
                .iter()
                .fold(0, |sum, byte| sum * 256 + usize::from(*byte));
            (number, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((*tag, content))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_have_words_or_numbers() {
        for (named, shown) in [
            ("cn", "CN"),
            ("emailaddress", "EMAIL"),
            ("2.5.4.3", "CN"),
            ("0.9.2342.19200300.100.1.25", "DC"),
            ("1.3.6.1.4.1.311.60.2.1.3", "1.3.6.1.4.1.311.60.2.1.3"),
            ("2.999.4294967295", "2.999.4294967295"),
        ] {
            assert_eq!(Attribute::named(named).unwrap().to_string(), shown);
        }
        for none in [
            "",
            "X",
            "1",
            "3.1",
            "1.40",
            "1.2.",
            "1.+2",
            "1.2.4294967296",
        ] {
            assert_eq!(Attribute::named(none), None, "{none}");
        }
    }

    #[test]
    fn texts_are_told_apart_from_what_they_could_be_taken_for() {
        let one = |value: Value| DistinguishedName {
            parts: vec![vec![(Attribute(vec![0x55, 4, 3]), value)]],
        };
        let text = |text: &str| one(Value::Text(text.to_owned())).to_string();
        assert_eq!(text("a,CN=b"), "CN=a\\,CN=b");
        assert_eq!(text(" #x "), "CN=\\ #x\\ ");
        assert_eq!(text("a\nb"), "CN=a\\nb");
        assert_eq!(one(Value::read(0x03, &[0, 255])).to_string(), "CN=#00FF");
        assert_eq!(
            one(Value::read(tag::BMP, &[0, 65, 1, 0])).to_string(),
            "CN=AĀ"
        );
        assert_eq!(one(Value::read(tag::TELETEX, &[0xe9])).to_string(), "CN=é");
        assert_eq!(one(Value::read(tag::UTF8, &[0xe9])).to_string(), "CN=#E9");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(der in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(name) = DistinguishedName::read(&der) {
                let _ = name.to_string();
            }
        }
    }
}
