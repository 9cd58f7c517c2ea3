//! Shell completions and man pages, made of the description that the command line is parsed by.

use super::Arguments;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_complete::aot::generate;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The program.
const NAME: &str = "ferry";

/// Where each shell looks below a prefix's `share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/ferry"),
    (Shell::Zsh, "zsh/site-functions/_ferry"),
    (Shell::Fish, "fish/vendor_completions.d/ferry.fish"),
];
const MAN: &str = "man/man1";

/// Writes all of it below `share`, a prefix's folder of this name, and tells the files.
pub(crate) fn write(share: &Path) -> io::Result<Vec<PathBuf>> {
    let completions = COMPLETIONS.map(|(shell, place)| (place.to_owned(), completions(shell)));
    let pages = man_pages(command())?.into_iter();
    let pages = pages.map(|(name, page)| (format!("{MAN}/{name}"), page));
    let files = completions.into_iter().chain(pages);
    files
        .map(|(place, text)| {
            let path = share.join(place);
            fs::create_dir_all(path.parent().unwrap_or(share))?;
            fs::write(&path, text)?;
            Ok(path)
        })
        .collect()
}

fn command() -> Command {
    // Each command has a page: nobody needs "help" as a command in them.
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut command(), NAME, &mut text);
    text
}

/// Pages of a command and all below it, by file name.
fn man_pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = vec![man_page(command.clone())?];
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        pages.extend(man_pages(below.clone())?);
    }
    Ok(pages)
}

fn man_page(mut command: Command) -> io::Result<(String, Vec<u8>)> {
    let usage = command.render_usage().to_string();
    let has_commands = command.has_subcommands();
    let is_top = command.get_name() == NAME;
    let page = Man::new(command);
    let file = page.get_filename();
    let title = file.trim_end_matches(".1");
    // clap_mangen leaves an empty date out, and what follows takes its place.
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(".TH {title} 1 \"\" \"Ferry {version}\" \"Ferry\"\n").into_bytes();
    page.render_name_section(&mut text)?;
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    // clap_mangen's own has each option, and no option's value.
    synopsis.text([roman(usage.trim_start_matches("Usage: "))]);
    synopsis.to_writer(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if has_commands {
        page.render_subcommands_section(&mut text)?;
    }
    if !is_top {
        let mut above = Roff::new();
        above.control("SH", ["SEE ALSO"]);
        above.text([bold(NAME), roman("(1)")]);
        above.to_writer(&mut text)?;
    }
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    Ok((file, in_ascii(&text).into_bytes()))
}

/// Other letters by roff's names for them, which every roff reads whatever encoding it is told.
fn in_ascii(text: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_ascii() {
            true => ascii.push(letter),
            false => ascii.push_str(&format!("\\[u{:04X}]", u32::from(letter))),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Visible commands by their names, and those below them.
    fn commands(command: &Command, above: &str) -> Vec<String> {
        let name = format!("{above}{}", command.get_name());
        let below = command
            .get_subcommands()
            .filter(|below| !below.is_hide_set());
        let mut all = vec![name.clone()];
        all.extend(below.flat_map(|below| commands(below, &format!("{name}-"))));
        all
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_shell_completes_every_command_and_its_options() {
        for (shell, _) in COMPLETIONS {
            let script = text(completions(shell));
            let has = |word: &str| {
                let mut words =
                    script.split(|letter: char| !letter.is_alphanumeric() && letter != '-');
                words.any(|other| other == word)
            };
            for command in command().get_subcommands() {
                assert!(has(command.get_name()), "{shell}: {}", command.get_name());
                for option in command.get_arguments().filter_map(|one| one.get_long()) {
                    // fish and zsh have them with and without the dashes.
                    let dashed = format!("--{option}");
                    assert!(has(&dashed) || has(option), "{shell}: {dashed}");
                }
            }
        }
    }

    #[test]
    fn every_command_has_a_page_that_says_its_name_and_what_it_does() {
        let pages = man_pages(command()).unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.clone()).collect();
        let expected = commands(&command(), "");
        let expected: Vec<_> = expected.iter().map(|name| format!("{name}.1")).collect();
        assert_eq!(names, expected);
        assert!(names.contains(&"ferry-run.1".to_owned()));
        assert!(names.contains(&"ferry-vf-set.1".to_owned()));
        for (file, page) in pages {
            let page = text(page);
            let name = page.split(".SH NAME\n").nth(1).unwrap();
            let name = name.lines().next().unwrap().replace("\\-", "-");
            let (command, does) = name.split_once(" - ").unwrap_or((&name, ""));
            assert_eq!(format!("{command}.1"), file);
            assert!(does.len() > 10, "{file}: {name}");
            assert!(page.is_ascii(), "{file}");
        }
    }

    #[test]
    fn files_lie_where_programs_look_for_them() {
        let prefix = tempfile::tempdir().unwrap();
        let files = write(prefix.path()).unwrap();
        assert!(files.len() > COMPLETIONS.len() + 10);
        for place in [
            "bash-completion/completions/ferry",
            "man/man1/ferry-vf-list.1",
        ] {
            assert!(files.contains(&prefix.path().join(place)), "{place}");
        }
        assert!(
            files
                .iter()
                .all(|file| file.metadata().unwrap().len() > 100)
        );
        // Again over those that are there.
        assert_eq!(write(prefix.path()).unwrap(), files);
        assert!(write(&files[0]).is_err());
    }
}
