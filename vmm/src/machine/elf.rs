//! What an ELF file says of itself, as far as it takes to tell a kernel from other files (System V
//! ABI, "Object Files" and "Program Loading").

use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const TYPE_RELOCATABLE: u64 = 1;
const TYPE_EXECUTABLE: u64 = 2;
const MACHINE_X86_64: u64 = 62;
const SEGMENT_LOAD: u64 = 1;
/// Segments that the C library's loader needs, and a kernel does not have.
const SEGMENT_DYNAMIC: u64 = 2;
const SEGMENT_INTERPRETER: u64 = 3;
const SEGMENT_THREAD_LOCAL: u64 = 7;

const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;

/// Where an ELF kernel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ElfKernel {
    /// Guest-physical address of its first byte.
    pub start: u64,
    /// First address behind it, its zeroed data included.
    pub end: u64,
}

/// Why an ELF file can't be loaded as a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElfFault {
    /// It is something else; in words.
    NoKernel(&'static str),
    /// It should have this many bytes.
    CutOff(u64),
}

/// Whether a file that begins with `start` is an ELF file.
pub(super) fn is_elf(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// Little-endian number of `len` bytes at `offset`; zero outside.
fn number(bytes: &[u8], offset: usize, len: usize) -> u64 {
    let field = bytes.get(offset..offset + len).unwrap_or_default();
    let digits = field.iter().rev();
    digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reads the headers of a file of `len` bytes.
///
/// # Errors
/// [`ElfFault`].
pub(super) fn inspect(file: &File, len: u64) -> Result<ElfKernel, ElfFault> {
    let mut header = [0; HEADER_LEN];
    if file.read_exact_at(&mut header, 0).is_err() {
        return Err(ElfFault::CutOff(HEADER_LEN as u64));
    }
    let kind = number(&header, 16, 2);
    if header[4] != CLASS_64 || number(&header, 18, 2) != MACHINE_X86_64 {
        return Err(ElfFault::NoKernel("it is an ELF file for another machine"));
    }
    if kind == TYPE_RELOCATABLE {
        return Err(ElfFault::NoKernel(
            "it is an ELF object file, as a kernel module is",
        ));
    }
    if kind != TYPE_EXECUTABLE {
        return Err(ElfFault::NoKernel("it is a program or a library"));
    }
    let (table, count) = (number(&header, 32, 8), number(&header, 56, 2));
    let mut kernel = ElfKernel {
        start: u64::MAX,
        end: 0,
    };
    for index in 0..count {
        let at = table.saturating_add(index * PROGRAM_HEADER_LEN as u64);
        segment(file, len, at, &mut kernel)?;
    }
    if kernel.end == 0 {
        return Err(ElfFault::NoKernel("it is an ELF file without any code"));
    }
    Ok(kernel)
}

/// Takes the segment whose program header is at `at` into account.
fn segment(file: &File, len: u64, at: u64, kernel: &mut ElfKernel) -> Result<(), ElfFault> {
    let mut header = [0; PROGRAM_HEADER_LEN];
    if file.read_exact_at(&mut header, at).is_err() {
        return Err(ElfFault::CutOff(
            at.saturating_add(PROGRAM_HEADER_LEN as u64),
        ));
    }
    match number(&header, 0, 4) {
        SEGMENT_LOAD => {}
        SEGMENT_DYNAMIC | SEGMENT_INTERPRETER | SEGMENT_THREAD_LOCAL => {
            return Err(ElfFault::NoKernel("it is a program"));
        }
        _ => return Ok(()),
    }
    let (offset, address) = (number(&header, 8, 8), number(&header, 24, 8));
    let (in_file, in_memory) = (number(&header, 32, 8), number(&header, 40, 8));
    let needed = offset.saturating_add(in_file);
    if needed > len {
        return Err(ElfFault::CutOff(needed));
    }
    if in_memory > 0 {
        kernel.start = kernel.start.min(address);
        kernel.end = kernel.end.max(address.saturating_add(in_memory));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An ELF file with one segment of each type, each of 16 bytes at 16 MiB and 1 MiB long in memory.
    fn elf(kind: u64, machine: u64, segments: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = CLASS_64;
        bytes[16..18].copy_from_slice(&kind.to_le_bytes()[..2]);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes()[..2]);
        bytes[32..40].copy_from_slice(&(HEADER_LEN as u64).to_le_bytes());
        bytes[56..58].copy_from_slice(&segments.len().to_le_bytes()[..2]);
        let data = (HEADER_LEN + PROGRAM_HEADER_LEN * segments.len()) as u64;
        for segment in segments {
            bytes.extend(&segment.to_le_bytes()[..4]);
            bytes.extend(5_u32.to_le_bytes());
            for field in [data, 0, 16 << 20, 16, 1 << 20, 4096] {
                bytes.extend(field.to_le_bytes());
            }
        }
        bytes.extend([0x90; 16]);
        bytes
    }

    fn inspected(bytes: &[u8]) -> Result<ElfKernel, ElfFault> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        inspect(&file, bytes.len() as u64)
    }

    #[test]
    fn kernel_lies_where_its_segments_say() {
        let kernel = inspected(&elf(TYPE_EXECUTABLE, MACHINE_X86_64, &[SEGMENT_LOAD, 4]));
        let (start, end) = (16 << 20, 17 << 20);
        assert_eq!(kernel, Ok(ElfKernel { start, end }));
    }

    #[test]
    fn other_elf_files_are_named() {
        let reason = |bytes: &[u8]| match inspected(bytes) {
            Err(ElfFault::NoKernel(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let load = [SEGMENT_LOAD];
        assert!(reason(&elf(TYPE_EXECUTABLE, 183, &load)).contains("another machine"));
        assert!(reason(&elf(TYPE_RELOCATABLE, MACHINE_X86_64, &[])).contains("module"));
        assert!(reason(&elf(3, MACHINE_X86_64, &load)).contains("library"));
        let program = [SEGMENT_LOAD, SEGMENT_THREAD_LOCAL];
        assert!(reason(&elf(TYPE_EXECUTABLE, MACHINE_X86_64, &program)).contains("a program"));
        assert!(reason(&elf(TYPE_EXECUTABLE, MACHINE_X86_64, &[])).contains("without any code"));
    }

    #[test]
    fn file_that_is_cut_off_anywhere_is_told_its_length() {
        let whole = elf(TYPE_EXECUTABLE, MACHINE_X86_64, &[SEGMENT_LOAD]);
        for len in 4..whole.len() {
            let fault = inspected(&whole[..len]);
            let needed = match len {
                ..64 => 64,
                64..120 => 120,
                _ => 136,
            };
            assert_eq!(fault, Err(ElfFault::CutOff(needed)), "{len}");
        }
    }

    #[test]
    fn nonsense_in_the_headers_is_survived() {
        let mut bytes = elf(TYPE_EXECUTABLE, MACHINE_X86_64, &[SEGMENT_LOAD]);
        bytes[32..40].fill(0xff);
        assert_eq!(inspected(&bytes), Err(ElfFault::CutOff(u64::MAX)));
        let mut bytes = elf(TYPE_EXECUTABLE, MACHINE_X86_64, &[SEGMENT_LOAD]);
        bytes[HEADER_LEN + 8..HEADER_LEN + 48].fill(0xff);
        assert_eq!(inspected(&bytes), Err(ElfFault::CutOff(u64::MAX)));
    }
}
