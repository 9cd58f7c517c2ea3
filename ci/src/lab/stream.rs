//! Bringing a stream of L1 to the host, byte for byte.
//!
//! A serial port of a virtual machine has no end of file. L1 therefore closes each stream with a mark chosen at random by
//! the host for this run; everything before it is passed on at once, unless it might be the start of the mark.

use std::io::{self, Read, Write};

/// Copies from `from` to `to` up to the mark (not included) or the end. Returns whether the mark was seen.
///
/// If `to` fails (a closed pipe), reading goes on: a full port would stop the machine.
pub(super) fn copy_to_mark(
    from: &mut impl Read,
    to: &mut impl Write,
    mark: &[u8],
) -> io::Result<bool> {
    let mut held: Vec<u8> = Vec::new();
    let mut buffer = [0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // QEMU ended with the stream open.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        held.extend_from_slice(&buffer[..count]);
        if let Some(end) = held.windows(mark.len()).position(|window| window == mark) {
            pass(to, &held[..end]);
            return Ok(true);
        }
        if count == 0 {
            pass(to, &held);
            return Ok(false);
        }
        let keep = partial_mark(&held, mark);
        pass(to, &held[..held.len() - keep]);
        held.drain(..held.len() - keep);
    }
}

fn pass(to: &mut impl Write, bytes: &[u8]) {
    if !bytes.is_empty() && to.write_all(bytes).is_ok() {
        let _ = to.flush();
    }
}

/// The length of the longest end of `bytes` that begins `mark`.
fn partial_mark(bytes: &[u8], mark: &[u8]) -> usize {
    (1..mark.len().min(bytes.len() + 1))
        .rev()
        .find(|&length| bytes.ends_with(&mark[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out its pieces one read at a time.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn copied(pieces: &[&'static [u8]]) -> (bool, Vec<u8>) {
        let mut out = Vec::new();
        let ended = copy_to_mark(&mut Pieces(pieces.to_vec()), &mut out, b"<<END>>").unwrap();
        (ended, out)
    }

    #[test]
    fn mark_split_over_reads_ends_the_stream() {
        assert_eq!(
            copied(&[b"a\r\n\0\xff<<E", b"ND>", b">ignored"]),
            (true, b"a\r\n\0\xff".to_vec())
        );
        assert_eq!(copied(&[b"<<END>>"]), (true, b"".to_vec()));
    }

    #[test]
    fn false_start_of_a_mark_is_passed_on() {
        assert_eq!(
            copied(&[b"x<<E", b"<<EN", b"D<", b"<END>>"]),
            (true, b"x<<E<<END".to_vec())
        );
    }

    #[test]
    fn stream_without_mark_is_kept_whole() {
        assert_eq!(copied(&[b"abc<<"]), (false, b"abc<<".to_vec()));
    }

    #[test]
    fn closed_output_does_not_stop_reading() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ended = copy_to_mark(
            &mut Pieces(vec![b"a", b"b<<END>>"]),
            &mut Closed,
            b"<<END>>",
        )
        .unwrap();
        assert!(ended);
    }
}
