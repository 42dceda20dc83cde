//! Bytes into lines, none longer than is wanted.

/// Splits bytes into lines, and skips those that are too long.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    skipping: bool,
    /// How many lines were too long.
    long_lines: u64,
    /// How many bytes were skipped since somebody asked.
    skipped: usize,
}

impl Lines {
    /// Takes bytes up to the end of a line, and returns the line if that completes one of at most
    /// `limit` bytes. To be called until `bytes` is empty.
    pub(super) fn feed(&mut self, bytes: &mut &[u8], limit: usize) -> Option<Vec<u8>> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let (piece, rest) = match end {
            Some(end) => (&bytes[..end], &bytes[end + 1..]),
            None => (*bytes, &[][..]),
        };
        *bytes = rest;
        if !self.skipping && self.partial.len() + piece.len() > limit {
            self.skip(limit);
        }
        if self.skipping {
            self.skipped += piece.len();
        } else {
            self.partial.extend_from_slice(piece);
        }
        end?;
        if std::mem::take(&mut self.skipping) {
            return None;
        }
        let mut line = std::mem::take(&mut self.partial);
        if line.ends_with(b"\r") {
            line.pop();
        }
        (!line.is_empty()).then_some(line)
    }

    /// How many bytes were skipped since the last time.
    pub(super) fn take_skipped(&mut self) -> usize {
        std::mem::take(&mut self.skipped)
    }

    fn skip(&mut self, limit: usize) {
        self.long_lines += 1;
        // Told of ever fewer of them.
        if self.long_lines.is_power_of_two() {
            let number = self.long_lines;
            tracing::warn!(limit, number, "a line from QEMU is too long: skipped");
        }
        self.skipped += self.partial.len();
        self.partial = Vec::new();
        self.skipping = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]], limit: usize) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let line = lines.feed(&mut rest, limit);
                found.extend(line.map(|line| String::from_utf8(line).unwrap()));
            }
        }
        found
    }

    #[test]
    fn lines_are_found_wherever_the_bytes_are_cut() {
        assert_eq!(
            split(&[b"a\r\nb", b"c\n\n", b"d", b"e\nrest"], 100),
            ["a", "bc", "de"]
        );
    }

    #[test]
    fn a_line_beyond_the_limit_is_skipped_and_the_next_is_read() {
        assert_eq!(split(&[b"xxxxx", b"xxx", b"more\nnext\n"], 7), ["next"]);
        assert_eq!(split(&[b"too long in one\nnext\n"], 7), ["next"]);
    }

    #[test]
    fn no_more_than_the_limit_is_kept_of_a_line_without_an_end() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            lines.feed(&mut &[b'x'; 1000][..], 4096);
            assert!(lines.partial.capacity() <= 8192);
        }
        assert_eq!(lines.take_skipped(), 1_000_000);
        assert_eq!(lines.take_skipped(), 0);
    }
}
