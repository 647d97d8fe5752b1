//! Lines of JSON, out of pieces that are cut anywhere.

use bytes::{Bytes, BytesMut};

/// The longest line, in bytes: 16 MiB, well above a whole transaction of a watch.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Takes a stream's pieces and gives its lines. It holds one line at most, beside the piece it was given last.
#[derive(Debug)]
pub struct Lines {
    held: BytesMut,
    /// How much of `held` is known to have no line's end in it, so that no byte is looked at twice.
    searched: usize,
    longest: usize,
}

/// A line that is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {longest} bytes")]
pub struct LineTooLong {
    /// The most bytes of a line, its end left out.
    pub longest: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self::with_longest(MAX_LINE_BYTES)
    }
}

impl Lines {
    /// Lines of at most `longest` bytes.
    pub fn with_longest(longest: usize) -> Self {
        Self {
            held: BytesMut::new(),
            searched: 0,
            longest,
        }
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next whole line without its end, skipping empty ones; `None` until more is pushed.
    ///
    /// # Errors
    /// [`LineTooLong`], and again at each further call: such a stream can't go on.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        loop {
            let Some(end) = self.held[self.searched..].iter().position(|b| *b == b'\n') else {
                self.searched = self.held.len();
                return self.within_bound(self.held.len()).map(|()| None);
            };
            self.within_bound(self.searched + end)?;
            let line = self.held.split_to(self.searched + end + 1).freeze();
            self.searched = 0;
            let line = line.slice(..line.len() - 1);
            let line = line
                .strip_suffix(b"\r")
                .map_or_else(|| line.clone(), |cut| line.slice_ref(cut));
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// How many bytes of an unfinished line are held; a stream that ends with some was cut.
    pub fn unfinished(&self) -> usize {
        self.held.len()
    }

    fn within_bound(&self, length: usize) -> Result<(), LineTooLong> {
        if length <= self.longest {
            Ok(())
        } else {
            Err(LineTooLong {
                longest: self.longest,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LineTooLong, Lines};
    use proptest::prelude::*;

    fn drain(lines: &mut Lines) -> Vec<String> {
        std::iter::from_fn(|| lines.next_line().unwrap())
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn lines_come_out_wherever_the_pieces_are_cut(
            lines in proptest::collection::vec("[a-z{}\u{e9} ]{0,20}", 0..8),
            cuts in proptest::collection::vec(1..7_usize, 1..40),
        ) {
            let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            let (mut rest, mut cuts) = (text.as_bytes(), cuts.iter().cycle());
            let (mut decoder, mut got) = (Lines::default(), Vec::new());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                decoder.push(piece);
                got.extend(drain(&mut decoder));
                rest = more;
            }
            let expected: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(decoder.unfinished(), 0);
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_the_bound_and_no_longer() {
        let mut lines = Lines::with_longest(4);
        lines.push(b"1234\n\r\n12\r\n");
        assert_eq!(drain(&mut lines), ["1234", "12"]);
        lines.push(b"12345");
        assert_eq!(lines.next_line(), Err(LineTooLong { longest: 4 }));
        lines.push(b"\n");
        assert_eq!(lines.next_line(), Err(LineTooLong { longest: 4 }));
    }

    #[test]
    fn what_is_unfinished_is_known() {
        let mut lines = Lines::default();
        lines.push(b"one\ntwo");
        assert_eq!(drain(&mut lines), ["one"]);
        assert_eq!(lines.unfinished(), 3);
    }
}
