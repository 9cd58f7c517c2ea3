//! The setup header of a bzImage, read before the kernel is loaded, since it says where to load it.

use linux_loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// This many bytes from the start of a kernel image hold its setup header.
pub const SETUP_HEADER_READ_LEN: usize = SETUP_HEADER_OFFSET + size_of::<setup_header>();

/// `header` of every kernel since protocol 2.00, "HdrS".
pub(super) const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

/// Where the header starts in the image, as in the zero page.
const SETUP_HEADER_OFFSET: usize = 0x1F1;
/// A jump over the rest of the header: its displacement, counted from behind it, tells where the header ends.
const JUMP_DISPLACEMENT_OFFSET: usize = 0x201;

/// The setup header in the first [`SETUP_HEADER_READ_LEN`] bytes of a kernel image; none if this is no bzImage.
///
/// Fields behind the end of the header, which a newer protocol added, read as zero.
#[must_use]
pub fn read_setup_header(image: &[u8]) -> Option<setup_header> {
    let displacement = usize::from(*image.get(JUMP_DISPLACEMENT_OFFSET)?);
    let end = (JUMP_DISPLACEMENT_OFFSET + 1 + displacement).min(SETUP_HEADER_READ_LEN);
    let bytes = image.get(SETUP_HEADER_OFFSET..end)?;
    let mut header = setup_header::default();
    header
        .as_mut_slice()
        .get_mut(..bytes.len())?
        .copy_from_slice(bytes);
    (header.header == HEADER_MAGIC).then_some(header)
}
