//! The compressed ELF kernel inside a bzImage (Linux x86 boot protocol 2.08, `payload_offset` and `payload_length`).

/// How the payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Zstd,
}

/// The payload of a bzImage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    pub(super) data: &'a [u8],
    pub(super) compression: Compression,
}

const SETUP_SECTORS: usize = 0x1f1;
const SIGNATURE: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// The kernel build appends the unpacked size to every format that does not end with it anyway.
const APPENDED_SIZE: usize = 4;

/// Finds the payload; `None` if `image` is not a bzImage, is cut short, or uses an unknown compression.
pub(super) fn payload(image: &[u8]) -> Option<Payload<'_>> {
    if image.get(SIGNATURE..SIGNATURE + 4)? != b"HdrS" {
        return None;
    }
    let version = u16::from_le_bytes(image.get(VERSION..VERSION + 2)?.try_into().ok()?);
    if version < 0x0208 {
        return None;
    }
    // Zero stands for four, from the days when boot sectors did not say.
    let sectors = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + dword(image, PAYLOAD_OFFSET)?;
    let data = image.get(start..start.checked_add(dword(image, PAYLOAD_LENGTH)?)?)?;
    let compression = match data {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => return None,
    };
    let data = match compression {
        Compression::Gzip => data,
        Compression::Xz | Compression::Zstd => {
            data.get(..data.len().checked_sub(APPENDED_SIZE)?)?
        }
    };
    Some(Payload { data, compression })
}

fn dword(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 0x40];
        image[SETUP_SECTORS] = 1;
        image[SIGNATURE..SIGNATURE + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020fu16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&0x40u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn payload_is_found_behind_the_setup_sectors() {
        let gzip = image(b"\x1f\x8bdata");
        assert_eq!(
            payload(&gzip),
            Some(Payload {
                data: b"\x1f\x8bdata",
                compression: Compression::Gzip
            })
        );
    }

    #[test]
    fn appended_size_is_cut_off() {
        let zstd = image(b"\x28\xb5\x2f\xfddata\x01\x02\x03\x04");
        assert_eq!(
            payload(&zstd),
            Some(Payload {
                data: b"\x28\xb5\x2f\xfddata",
                compression: Compression::Zstd
            })
        );
    }

    #[test]
    fn damaged_images_are_refused() {
        assert_eq!(payload(b""), None);
        assert_eq!(payload(&image(b"plain")), None);
        let mut cut = image(b"\x1f\x8bdata");
        cut.pop();
        assert_eq!(payload(&cut), None);
        let mut old = image(b"\x1f\x8bdata");
        old[VERSION] = 7;
        assert_eq!(payload(&old), None);
        let mut far = image(b"\x1f\x8bdata");
        far[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].fill(0xff);
        assert_eq!(payload(&far), None);
    }
}
