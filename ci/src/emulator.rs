//! The one correction that the lab makes to its copy of QEMU.
//!
//! QEMU's `helper_vmrun` (target/i386/tcg/system/svm_helper.c) delivers an interrupt that the hypervisor injects with
//! VMRUN at once, but leaves its vector in `CPUState::exception_index`, which asks the main loop to deliver it again.
//! Nobody looks there until the next VMEXIT, unless another thread kicks the virtual processor before: then the guest
//! takes the same interrupt twice, the second time with its interrupts disabled, and locks up in its timer interrupt.
//! Kicks come from changes of the memory map, that is, whenever a device's BARs are turned on or off.
//!
//! The store of the vector has no other reader, so it is replaced by a no-op of the same length. It is found by its
//! surroundings, not by its address: another build of QEMU is corrected too, and one without the defect is left alone.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};

/// How far before the delivery the vector may be stored, in bytes.
const REACH: usize = 80;

/// What [`correct`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Correction {
    /// The defect was there and is gone.
    Made,
    /// No such code: a QEMU without the defect, or one built so differently that nobody can tell.
    NothingFound,
}

/// Takes the defect out of the QEMU at `path`.
pub(crate) fn correct(path: &Path) -> Result<Correction> {
    let mut image =
        fs::read(path).with_context(|| format!("cannot read the emulator {}", path.display()))?;
    let found = vector_store(&image)
        .with_context(|| format!("{} is no program that can be read", path.display()))?;
    let Some(store) = found else {
        return Ok(Correction::NothingFound);
    };
    image[store].copy_from_slice(&NOP6);
    fs::write(path, image)
        .with_context(|| format!("cannot write the emulator {}", path.display()))?;
    Ok(Correction::Made)
}

/// `nopw 0(%rax,%rax,1)`: one instruction of six bytes.
const NOP6: [u8; 6] = [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Where in the file the store is.
fn vector_store(image: &[u8]) -> Result<Option<Range<usize>>> {
    let file = object::File::parse(image)?;
    let symbol = |name: &str| {
        file.dynamic_symbols()
            .find(|symbol| symbol.name() == Ok(name))
    };
    let (Some(vmrun), Some(deliver)) = (symbol("helper_vmrun"), symbol("do_interrupt_x86_hardirq"))
    else {
        return Ok(None);
    };
    let Some(section) = file.sections().find(|section| {
        (section.address()..section.address() + section.size()).contains(&vmrun.address())
    }) else {
        return Ok(None);
    };
    let Some(code) = section.data_range(vmrun.address(), vmrun.size())? else {
        return Ok(None);
    };
    let Some(store) = store_before_call(code, vmrun.address(), deliver.address()) else {
        return Ok(None);
    };
    let (in_file, _) = section
        .file_range()
        .context("code that is not in the file")?;
    let start = usize::try_from(in_file + (vmrun.address() - section.address()))?;
    Ok(Some(start + store.start..start + store.end))
}

/// The only store of a register to a field before `env` (as `CPUState`'s are) shortly before the only call of `callee`.
fn store_before_call(code: &[u8], address: u64, callee: u64) -> Option<Range<usize>> {
    let call = only((0..code.len()).filter(|&at| call_target(code, address, at) == Some(callee)))?;
    only((call.saturating_sub(REACH)..call).filter(|&at| is_vector_store(&code[at..call])))
        .map(|at| at..at + NOP6.len())
}

/// Where the instruction at `at` calls, if it is `call rel32`.
fn call_target(code: &[u8], address: u64, at: usize) -> Option<u64> {
    let (&[0xe8, a, b, c, d], _) = code.get(at..)?.split_first_chunk()? else {
        return None;
    };
    let next = address + u64::try_from(at + 5).ok()?;
    next.checked_add_signed(i32::from_le_bytes([a, b, c, d]).into())
}

/// `mov %r32,disp32(%r64)` with a negative displacement and no prefix.
fn is_vector_store(code: &[u8]) -> bool {
    let Some(&[0x89, mod_rm, _, _, _, sign]) = code.first_chunk() else {
        return false;
    };
    let with_sib = mod_rm & 7 == 4;
    mod_rm >> 6 == 0b10 && !with_sib && sign == 0xff
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u64 = 0x8c_9797;
    const CALLEE: u64 = 0x94_1650;

    /// `vector` to a register, error code, vector and two more fields stored, then the call; as compilers write it.
    fn injection() -> Vec<u8> {
        let mut code = vec![0x41, 0x0f, 0xb6, 0xf4];
        code.extend([0x44, 0x89, 0xab, 0x80, 0x34, 0x00, 0x00]);
        code.extend([0x89, 0xb3, 0x50, 0xc2, 0xff, 0xff]);
        code.extend([0xc7, 0x83, 0x84, 0x34, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]);
        code.extend([0xba, 0x01, 0x00, 0x00, 0x00, 0x48, 0x89, 0xdf]);
        code.extend(call_from(ADDRESS + code.len() as u64));
        code
    }

    fn call_from(address: u64) -> Vec<u8> {
        let distance = i32::try_from(CALLEE as i64 - (address as i64 + 5)).unwrap();
        [&[0xe8][..], &distance.to_le_bytes()].concat()
    }

    #[test]
    fn the_store_of_the_vector_is_found() {
        assert_eq!(
            store_before_call(&injection(), ADDRESS, CALLEE),
            Some(11..17)
        );
    }

    #[test]
    fn code_without_the_store_is_left_alone() {
        let mut code = injection();
        code[11..17].copy_from_slice(&NOP6);
        assert_eq!(store_before_call(&code, ADDRESS, CALLEE), None);
    }

    #[test]
    fn two_possible_stores_are_left_alone() {
        let mut code = injection();
        code.splice(17..17, [0x89, 0xb3, 0x54, 0xc2, 0xff, 0xff]);
        let call = code.len() - 5;
        code.truncate(call);
        code.extend(call_from(ADDRESS + call as u64));
        assert_eq!(store_before_call(&code, ADDRESS, CALLEE), None);
    }

    #[test]
    fn two_calls_are_left_alone() {
        let mut code = injection();
        code.extend(call_from(ADDRESS + code.len() as u64));
        assert_eq!(store_before_call(&code, ADDRESS, CALLEE), None);
    }

    #[test]
    fn a_file_that_is_no_program_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let error = correct(file.path()).unwrap_err();
        assert!(format!("{error:#}").contains("is no program"), "{error:#}");
    }
}
