//! Unsigned numbers as libvirt reads them.

/// How a number may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Decimal, and no other.
    Ten,
    /// C's rule: `0x1f` hexadecimal, `017` octal, else decimal.
    Any,
    /// Hexadecimal, with or without `0x`.
    Sixteen,
}

/// The unsigned types that attributes have.
pub trait Unsigned: Copy + TryFrom<u64> + Into<u64> {
    /// The type's greatest value.
    const MAX: u64;
}

impl Unsigned for u8 {
    const MAX: u64 = u8::MAX as u64;
}
impl Unsigned for u16 {
    const MAX: u64 = u16::MAX as u64;
}
impl Unsigned for u32 {
    const MAX: u64 = u32::MAX as u64;
}
impl Unsigned for u64 {
    const MAX: u64 = u64::MAX;
}

/// Reads an unsigned number: leading blanks and one `+` are allowed, anything after it is not.
/// `None` for any other text and for numbers beyond 64 bits.
#[must_use]
pub fn parse_unsigned(text: &str, base: Base) -> Option<u64> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let text = text.strip_prefix('+').unwrap_or(text);
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match base {
        Base::Ten => (text, 10),
        Base::Sixteen => (hexadecimal.unwrap_or(text), 16),
        Base::Any => match hexadecimal {
            Some(digits) => (digits, 16),
            None if text.len() > 1 && text.starts_with('0') => (text, 8),
            None => (text, 10),
        },
    };
    // `from_str_radix` would take a sign of its own.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_follow_c() {
        assert_eq!(parse_unsigned("0x1F", Base::Any), Some(31));
        assert_eq!(parse_unsigned("017", Base::Any), Some(15));
        assert_eq!(parse_unsigned("0", Base::Any), Some(0));
        assert_eq!(parse_unsigned(" +42", Base::Any), Some(42));
        assert_eq!(parse_unsigned("017", Base::Ten), Some(17));
        assert_eq!(parse_unsigned("1f", Base::Sixteen), Some(31));
        assert_eq!(
            parse_unsigned("18446744073709551615", Base::Ten),
            Some(u64::MAX)
        );
    }

    #[test]
    fn refuses_what_is_no_number() {
        for text in [
            "",
            " ",
            "-1",
            "+-1",
            "++1",
            "1 ",
            "0x",
            "08",
            "1k",
            "18446744073709551616",
            "٣",
        ] {
            assert_eq!(parse_unsigned(text, Base::Any), None, "{text:?}");
        }
    }
}
