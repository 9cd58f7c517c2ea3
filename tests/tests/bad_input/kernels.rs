//! Files that are no kernel, or don't fit.

use crate::HOST_SET_UP;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tests::site::Kernel;
use tests::{Attempt, Terminal};

/// A folder for files to be refused.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("file");
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A file that takes no room.
    fn sparse(&self, len: u64) -> PathBuf {
        let path = self.with(&[]);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        path
    }
}

#[track_caller]
fn refuses(path: &Path, what: &str, why: &str) {
    let problem = Attempt::kernel(path, &[]).refused_for_one(HOST_SET_UP);
    problem.tells(&format!("{} {what}", path.display()), why, "");
}

#[test]
fn file_that_is_not_there_or_no_file_is_named() {
    let missing = Path::new("/nonexistent/vmlinuz");
    let problem = Attempt::kernel(missing, &[]).refused_for_one(HOST_SET_UP);
    problem.tells(
        "/nonexistent/vmlinuz can't be read",
        "No such file",
        "ls -ld /nonexistent/vmlinuz",
    );
    refuses(Path::new("/proc"), "can't be read", "it is a folder");
    refuses(
        Path::new("/dev/null"),
        "can't be read",
        "it is no regular file",
    );
}

#[test]
fn file_that_is_no_kernel_is_told_what_it_is() {
    let files = Files::new();
    let no_kernel = "is no x86-64 Linux kernel";
    let text = "A letter, long enough to have all that a kernel's header might have.\n".repeat(20);
    for (bytes, why) in [
        (&b""[..], "it is empty"),
        (&b"text"[..], "it is too short"),
        (text.as_bytes(), "it is neither a bzImage nor an ELF file"),
        (&b"#!/bin/sh\nexit\n"[..], "it is a script"),
        (&b"\x1f\x8b\x08\0\0\0\0\0\0\0"[..], "it is a gzip file"),
    ] {
        refuses(&files.with(bytes), no_kernel, why);
    }
    let problem = Attempt::kernel(&Kernel::Elf.initramfs(), &[]).refused_for_one(HOST_SET_UP);
    problem.tells(no_kernel, "it is a cpio archive", "/boot/vmlinuz-*");
    refuses(
        &fs::canonicalize("/proc/self/exe").unwrap(),
        no_kernel,
        "it is a program",
    );
}

#[test]
fn elf_file_of_another_machine_is_refused() {
    let files = Files::new();
    let mut bytes = fs::read(Kernel::Elf.path()).unwrap();
    bytes.truncate(1 << 20);
    // e_machine: EM_AARCH64.
    bytes[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let path = files.with(&bytes);
    refuses(
        &path,
        "is no x86-64 Linux kernel",
        "an ELF file for another machine",
    );
    // EI_CLASS: ELFCLASS32.
    bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
    bytes[4] = 1;
    let path = files.with(&bytes);
    refuses(
        &path,
        "is no x86-64 Linux kernel",
        "an ELF file for another machine",
    );
}

/// Without the check the guest starts, can't unpack itself, and stands still or resets for ever.
#[test]
fn kernel_that_is_cut_off_is_told_its_length() {
    let files = Files::new();
    for kernel in [Kernel::Packed, Kernel::Older, Kernel::Elf] {
        let whole = fs::read(kernel.path()).unwrap();
        // What follows the last segment of an ELF file is not needed, nor is a signature.
        for len in [1024, whole.len() / 10, whole.len() / 2] {
            let path = files.with(&whole[..len]);
            let why = format!("it has {len} bytes, by its own headers it should have ");
            refuses(&path, "is cut off", &why);
        }
    }
    let whole = fs::read(Kernel::Packed.path()).unwrap();
    let path = files.with(&whole[..whole.len() - 4096]);
    refuses(&path, "is cut off", "by its own headers");
}

#[test]
fn initramfs_that_is_no_file_or_empty_is_refused() {
    let files = Files::new();
    let initramfs = |path: &str| Attempt::run(&["--initramfs", path]).refused_for_one(HOST_SET_UP);
    initramfs("/nonexistent/initrd").tells(
        "/nonexistent/initrd can't be read",
        "No such file",
        "ls -ld",
    );
    initramfs("/proc").tells("/proc can't be read", "it is a folder", "ls -ld /proc");
    let empty = files.with(&[]);
    let problem = initramfs(empty.to_str().unwrap());
    problem.tells("is no initramfs", "it is empty", "/boot/initrd.img-*");
}

#[test]
fn initramfs_that_does_not_fit_is_told_what_is_missing() {
    let files = Files::new();
    let large = files.sparse(600 << 20);
    for kernel in [Kernel::Elf, Kernel::Packed] {
        let terminal = Terminal::open();
        let before = terminal.modes();
        let words = ["--initramfs", large.to_str().unwrap(), "--memory", "512M"];
        let run = Attempt::kernel(&kernel.path(), &words).on(&terminal);
        let problem = run.refused_for_one(HOST_SET_UP);
        problem.tells(
            "doesn't fit the guest's RAM",
            "needs 600 MiB",
            " MiB more --memory",
        );
        assert_eq!(terminal.modes(), before);
        // As much more is enough: the next problem is another.
        let more: u64 = problem
            .fix
            .split(' ')
            .find_map(|word| word.parse().ok())
            .unwrap();
        let enough = format!("{}M", 512 + more);
        let words = [
            words[0],
            words[1],
            "--memory",
            &enough,
            "--cmdline",
            &"a".repeat(5000),
        ];
        let problem = Attempt::kernel(&kernel.path(), &words).refused_for_one(HOST_SET_UP);
        problem.tells(
            "can't be given this command line",
            "command line has 5000 bytes",
            "shorten --cmdline by 2953 bytes",
        );
    }
    let huge = files.sparse(5 << 30);
    let words = ["--initramfs", huge.to_str().unwrap(), "--memory", "6G"];
    let problem = Attempt::run(&words).refused_for_one(HOST_SET_UP);
    problem.tells(
        "doesn't fit",
        "needs 5120 MiB",
        "use a smaller initramfs: no --memory",
    );
}

#[test]
fn kernel_that_does_not_fit_is_told_what_is_missing() {
    let files = Files::new();
    let mut bytes = fs::read(Kernel::Packed.path()).unwrap();
    // init_size of the setup header: 300 MiB from 16 MiB on.
    bytes[0x260..0x264].copy_from_slice(&(300_u32 << 20).to_le_bytes());
    let path = files.with(&bytes);
    let run = Attempt::kernel(&path, &["--memory", "128M"]);
    let problem = run.refused_for_one(HOST_SET_UP);
    problem.tells(
        "doesn't fit",
        "needs 300 MiB of RAM from 0x1000000, but 112 MiB",
        "at least 188 MiB more",
    );
}

/// A command that is pasted names the file and no other.
#[test]
fn path_in_a_command_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it's a kernel; $HOME");
    let problem = Attempt::kernel(&path, &[]).refused_for_one(HOST_SET_UP);
    fs::write(&path, "").unwrap();
    problem.paste();
    fs::remove_file(&path).unwrap();
    let pasted = std::panic::catch_unwind(|| problem.paste());
    assert!(
        pasted.is_err(),
        "the command is about another file: {problem:?}"
    );
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    let problem = Attempt::run(&["--memory", "1T"]).refused_for_one(HOST_SET_UP);
    problem.tells(
        "a guest with 1048576 MiB does not fit this host",
        "MiB in all",
        "give --memory ",
    );
}
