//! KVM's own statistics of a VM or a vCPU (Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_STATS_FD`).
//!
//! The file is a header, an id, descriptors and data, each where the header says. What it means is all in it, so a newer
//! kernel's statistics are there without a change here.

use super::sys;
use kvm_bindings::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Values by the kernel's names.
pub type Statistics = BTreeMap<String, u64>;

/// What is read at once: more than a vCPU has. Each vCPU is asked whenever a client wants figures.
const PIECE: usize = 8 << 10;
/// Longer than any such file; nothing past it is read.
const MAX_LEN: usize = 256 << 10;
/// `struct kvm_stats_header`.
const HEADER_LEN: usize = 24;
/// `struct kvm_stats_desc` without the name, which follows it.
const DESCRIPTOR_LEN: usize = 16;
const VALUE_LEN: usize = 8;

/// The statistics of one VM or vCPU. It keeps the VM alive.
pub struct StatisticsFile {
    file: File,
}

impl StatisticsFile {
    /// `None` where the kernel has none, which takes nothing away but figures.
    pub(super) fn of(owner: &impl AsRawFd) -> Option<Self> {
        match sys::statistics_file(owner) {
            Ok(file) => Some(Self { file }),
            Err(error) => {
                log::debug!("KVM_GET_STATS_FD: {error}");
                None
            }
        }
    }

    /// The statistics as of now, histograms left out; `None` if they can't be read.
    #[must_use]
    pub fn read(&self) -> Option<Statistics> {
        let read = read_whole(|buffer, at| self.file.read_at(buffer, at));
        match read {
            Ok(bytes) => parse(&bytes),
            Err(error) => {
                log::debug!("KVM's statistics can't be read: {error}");
                None
            }
        }
    }
}

fn read_whole(read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_LEN {
        let len = bytes.len();
        bytes.resize((len + PIECE).min(MAX_LEN), 0);
        let rest = bytes.get_mut(len..).unwrap_or_default();
        let more = read(rest, len as u64)?;
        bytes.truncate(len + more);
        if more == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// What a file says; `None` if it is none. A descriptor that makes no sense is left out.
fn parse(file: &[u8]) -> Option<Statistics> {
    let header = file.get(..HEADER_LEN)?;
    let [_flags, name_len, count, _id, descriptors, data] =
        [0, 4, 8, 12, 16, 20].map(|at| u32_at(header, at));
    let descriptor_len = DESCRIPTOR_LEN.checked_add(name_len?)?;
    let descriptors = file.get(descriptors?..)?;
    let data = file.get(data?..)?;
    let all = descriptors.chunks_exact(descriptor_len).take(count?);
    Some(all.filter_map(|one| statistic(one, data)).collect())
}

fn statistic(descriptor: &[u8], data: &[u8]) -> Option<(String, u64)> {
    let flags = u32::from_le_bytes(descriptor.get(..4)?.try_into().ok()?);
    if !matches!(
        flags & KVM_STATS_TYPE_MASK,
        KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_TYPE_INSTANT | KVM_STATS_TYPE_PEAK
    ) {
        return None;
    }
    let count = u16::from_le_bytes(descriptor.get(6..8)?.try_into().ok()?);
    let values = data.get(u32_at(descriptor, 8)?..)?;
    let values = values.get(..usize::from(count).checked_mul(VALUE_LEN)?)?;
    let value = values
        .chunks_exact(VALUE_LEN)
        .filter_map(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)))
        .fold(0, u64::saturating_add);
    let name = descriptor.get(DESCRIPTOR_LEN..)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    let told = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_graphic());
    told.then(|| (name.to_owned(), value))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::{KVM_STATS_TYPE_LINEAR_HIST, KVM_STATS_TYPE_LOG_HIST};
    use proptest::prelude::*;

    const NAME_LEN: usize = 16;
    /// Not right behind the descriptors: only the header says where it is.
    const DATA: usize = 1024;

    /// A file of statistics `(type, offset into the data, how many values, name)` and data.
    fn file(statistics: &[(u32, u32, u16, &str)], data: &[u64]) -> Vec<u8> {
        let number = |value: usize| u32::try_from(value).unwrap();
        let descriptors = number(HEADER_LEN + NAME_LEN);
        let fields = [
            0,
            number(NAME_LEN),
            number(statistics.len()),
            number(HEADER_LEN),
            descriptors,
            number(DATA),
        ];
        let mut bytes: Vec<u8> = fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        bytes.extend([b'k'; NAME_LEN]);
        for (kind, offset, count, name) in statistics {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((-9_i16).to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            let mut padded = [0; NAME_LEN];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(padded);
        }
        bytes.resize(DATA, 0xff);
        bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    fn told(file: &[u8]) -> Vec<(String, u64)> {
        parse(file).unwrap().into_iter().collect()
    }

    #[test]
    fn values_are_found_where_their_descriptors_say() {
        let all = [
            (KVM_STATS_TYPE_CUMULATIVE, 8, 1, "exits"),
            (KVM_STATS_TYPE_INSTANT, 0, 1, "pages_2m"),
            (KVM_STATS_TYPE_PEAK, 16, 2, "two"),
        ];
        assert_eq!(
            told(&file(&all, &[7, 12, 1, 2])),
            [
                ("exits".into(), 12),
                ("pages_2m".into(), 7),
                ("two".into(), 3)
            ]
        );
    }

    #[test]
    fn histograms_and_types_of_the_future_are_left_out() {
        let all = [
            (KVM_STATS_TYPE_LINEAR_HIST, 0, 2, "linear"),
            (KVM_STATS_TYPE_LOG_HIST, 0, 2, "logarithmic"),
            (9, 0, 1, "unheard of"),
            // The unit and the base are above the type.
            (KVM_STATS_TYPE_CUMULATIVE | 0x120, 0, 1, "halt_wait_ns"),
        ];
        assert_eq!(told(&file(&all, &[5, 6])), [("halt_wait_ns".into(), 5)]);
    }

    #[test]
    fn a_descriptor_that_points_out_of_the_file_costs_only_itself() {
        let all = [
            (KVM_STATS_TYPE_CUMULATIVE, u32::MAX, 1, "far"),
            (KVM_STATS_TYPE_CUMULATIVE, 8, 1, "behind"),
            (KVM_STATS_TYPE_CUMULATIVE, 0, u16::MAX, "long"),
            (KVM_STATS_TYPE_CUMULATIVE, 0, 1, ""),
            (KVM_STATS_TYPE_CUMULATIVE, 0, 1, "good"),
        ];
        assert_eq!(told(&file(&all, &[3])), [("good".into(), 3)]);
    }

    #[test]
    fn a_file_that_ends_early_tells_nothing() {
        let whole = file(&[(KVM_STATS_TYPE_CUMULATIVE, 0, 1, "exits")], &[1]);
        for len in 0..HEADER_LEN {
            assert_eq!(parse(&whole[..len]), None);
        }
        assert_eq!(parse(&whole[..DATA - 1]), None);
        assert_eq!(told(&whole[..DATA]), []);
    }

    #[test]
    fn a_file_is_read_to_its_end_in_whatever_pieces_and_no_further_than_makes_sense() {
        let whole = file(&[(KVM_STATS_TYPE_CUMULATIVE, 0, 1, "exits")], &[1]);
        let pieces = |buffer: &mut [u8], at: u64| {
            let rest = &whole[usize::try_from(at).unwrap()..];
            let len = rest.len().min(buffer.len()).min(100);
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        };
        assert_eq!(read_whole(pieces).unwrap(), whole);
        assert_eq!(
            read_whole(|buffer, _| Ok(buffer.len())).unwrap().len(),
            MAX_LEN
        );
        assert!(read_whole(|_, _| Err(io::Error::from_raw_os_error(libc::EIO))).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_find_more_than_there_is(
            mut header in proptest::collection::vec(0_u32..2048, 6),
            wild in proptest::option::of((0_usize..6, any::<u32>())),
            rest in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            if let Some((field, value)) = wild {
                header[field] = value;
            }
            let mut bytes: Vec<u8> = header.iter().flat_map(|field| field.to_le_bytes()).collect();
            bytes.extend(rest);
            let told = parse(&bytes).unwrap_or_default();
            prop_assert!(told.len() <= bytes.len() / DESCRIPTOR_LEN);
            prop_assert!(told.keys().all(|name| !name.is_empty() && name.len() <= bytes.len()));
        }
    }
}
