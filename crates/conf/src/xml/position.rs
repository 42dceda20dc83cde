//! Lines and columns of a text's bytes, for errors.

/// How many bytes are counted at most for one position.
const STEP: usize = 1024;

/// Where lines are in one text, so that to place a fault costs the same wherever it is.
#[derive(Debug)]
pub(super) struct Positions {
    /// The line and column of every so many bytes, both from 1.
    marks: Vec<(u32, u32)>,
}

impl Positions {
    pub(super) fn of(text: &str) -> Self {
        let mut place = (1, 1);
        let mut marks = vec![place];
        for piece in text.as_bytes().chunks(STEP) {
            place = advance(place, piece);
            marks.push(place);
        }
        Self { marks }
    }

    /// Line and column, from 1, of a byte of that same text; a column is a character.
    pub(super) fn at(&self, text: &str, offset: usize) -> (u32, u32) {
        let mark = offset / STEP;
        let piece = text.as_bytes().get(mark * STEP..offset);
        let start = self.marks.get(mark).copied().unwrap_or((1, 1));
        advance(start, piece.unwrap_or_default())
    }
}

/// The place behind some bytes.
fn advance((mut line, mut column): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for &byte in bytes {
        match byte {
            b'\n' => (line, column) = (line + 1, 1),
            // The further bytes of a character.
            0x80..=0xbf => {}
            _ => column += 1,
        }
    }
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_line_and_column() {
        let text = "ab\n\u{e9}\u{1f980}x\n\n".repeat(700) + "end";
        let positions = Positions::of(&text);
        let mut place = (1, 1);
        for (offset, c) in text.char_indices() {
            assert_eq!(positions.at(&text, offset), place, "{offset}");
            place = match c {
                '\n' => (place.0 + 1, 1),
                _ => (place.0, place.1 + 1),
            };
        }
        assert_eq!(positions.at(&text, text.len()), place);
    }

    #[test]
    fn a_place_is_found_without_counting_the_text_before_it() {
        let text = "x".repeat(1 << 20);
        let positions = Positions::of(&text);
        assert_eq!(positions.marks.len(), text.len() / STEP + 1);
        assert_eq!(positions.at(&text, text.len() - 1), (1, 1 << 20));
    }
}
