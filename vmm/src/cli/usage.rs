//! What clap finds wrong with a command line, in three lines like every other problem.

use super::suggest::nearest;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use devices::host::Problem;

/// The commands that there are.
const COMMANDS: [&str; 17] = [
    "run",
    "check",
    "devices",
    "bind",
    "unbind",
    "vf",
    "info",
    "stats",
    "add",
    "remove",
    "pause",
    "resume",
    "reboot",
    "power-button",
    "stop",
    "wait",
    "help",
];
/// Those of `ferry vf`.
const OF_VF: [&str; 2] = ["set", "list"];

/// The problem that `error` tells of; none where it is no error but help or the version.
pub(super) fn problem(error: &Error) -> Option<Problem> {
    let word = |kind| text(error, kind).unwrap_or_default();
    // `--cpus <N>` as clap names an argument; without `<N>` it is what one types.
    let option = word(ContextKind::InvalidArg);
    let name = option.split(' ').next().unwrap_or_default();
    let command = command(error);
    let listed = format!("all options are listed by: ferry {command} --help");
    Some(match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return None,
        ErrorKind::UnknownArgument => unknown(error, &option, listed),
        ErrorKind::InvalidSubcommand if command == "vf" => Problem::new(
            "the command line is not understood",
            format!("ferry vf is followed by {}", OF_VF.join(" or ")),
            "write, for example: ferry vf list 01:00.0",
        ),
        ErrorKind::InvalidSubcommand => no_command(&word(ContextKind::InvalidSubcommand)),
        ErrorKind::MissingRequiredArgument if option.starts_with('<') => Problem::new(
            "no device is given",
            format!("ferry {command} is told which by their addresses"),
            format!("ferry {command} 01:00.0; all addresses are listed by: ferry devices"),
        ),
        ErrorKind::MissingRequiredArgument => Problem::new(
            format!("{option} is missing"),
            "without it there is no guest to run",
            "give it, for example: ferry run --kernel /boot/vmlinuz-$(uname -r)",
        ),
        ErrorKind::InvalidValue if word(ContextKind::InvalidValue).is_empty() => Problem::new(
            format!("{name} needs a value"),
            "none follows it",
            format!("write {option}; {listed}"),
        ),
        ErrorKind::ArgumentConflict => {
            conflict(&command, &option, &word(ContextKind::PriorArg), &listed)
        }
        ErrorKind::TooManyValues => Problem::new(
            format!("{name} takes no value"),
            format!("'{}' follows it", word(ContextKind::InvalidValue)),
            format!("write {name}"),
        ),
        _ => Problem::new(
            "the command line is not understood",
            rendered(error),
            listed,
        ),
    })
}

/// An option given twice, or with one that it doesn't go with.
fn conflict(command: &str, option: &str, other: &str, listed: &str) -> Problem {
    let name = option.split(' ').next().unwrap_or_default();
    let other = other.split(' ').next().unwrap_or_default();
    if matches!(name, "--report" | "--save-report") && other != name {
        return Problem::new(
            format!("{name} doesn't go with {other}"),
            "one is about another host, the other about this one",
            format!("leave one of them out; {listed}"),
        );
    }
    let why = match (option.contains(' '), command) {
        (true, "run") => "a guest has only one",
        (true, _) => "only one of its values can be meant",
        (false, _) => "once is enough",
    };
    let remedy = format!("leave one {name} out");
    Problem::new(format!("{name} is given twice"), why, remedy)
}

fn unknown(error: &Error, argument: &str, listed: String) -> Problem {
    let why = if argument.starts_with('-') {
        "there is no such option"
    } else {
        "it belongs to no option"
    };
    let remedy = text(error, ContextKind::SuggestedArg)
        .map_or(listed, |known| format!("did you mean '{known}'?"));
    Problem::new(format!("{argument} is not understood"), why, remedy)
}

fn no_command(word: &str) -> Problem {
    let remedy = match nearest(word, &COMMANDS) {
        // Near to others, and clear.
        _ if word == "start" => "a guest is started by: ferry run --kernel PATH".to_owned(),
        Some(known) => format!("did you mean 'ferry {known}'?"),
        None => "a guest is started by: ferry run --kernel PATH".to_owned(),
    };
    Problem::new(
        format!("ferry {word} is not understood"),
        format!("'{word}' is none of {}", COMMANDS.join(", ")),
        remedy,
    )
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// The command whose usage clap would show: `Usage: ferry bind [OPTIONS] <BDF>...`.
fn command(error: &Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let mut words = usage.split_whitespace().skip(2);
    let mut next = |known: &[&str]| words.next().filter(|word| known.contains(word));
    match next(&COMMANDS) {
        Some("vf") => next(&OF_VF).map_or("vf".to_owned(), |of_vf| format!("vf {of_vf}")),
        Some(command) => command.to_owned(),
        None => "run".to_owned(),
    }
}

/// The first line of clap's own text.
fn rendered(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::Parser;

    fn told(line: &str) -> Option<String> {
        let error = Arguments::try_parse_from(line.split(' ')).err()?;
        problem(&error).map(|problem| problem.to_string())
    }

    fn tells(line: &str, what: &str, remedy: &str) {
        let text = told(line).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with(&format!("{what}\n")), "{text}");
        assert!(text.ends_with(&format!("fix: {remedy}")), "{text}");
    }

    #[test]
    fn what_clap_refuses_is_told_in_three_lines() {
        let list = "all options are listed by: ferry run --help";
        tells(
            "ferry run --kernel k --frob",
            "--frob is not understood",
            list,
        );
        tells(
            "ferry run --kernel k extra",
            "extra is not understood",
            list,
        );
        tells(
            "ferry run --kernel k --memry 1G",
            "--memry is not understood",
            "did you mean '--memory'?",
        );
        tells(
            "ferry run",
            "--kernel <PATH> is missing",
            "give it, for example: ferry run --kernel /boot/vmlinuz-$(uname -r)",
        );
        tells(
            "ferry run --kernel k --cpus",
            "--cpus needs a value",
            &format!("write --cpus <N>; {list}"),
        );
        tells(
            "ferry run --kernel k --kernel k",
            "--kernel is given twice",
            "leave one --kernel out",
        );
        tells(
            "ferry check --report a --save-report b",
            "--report doesn't go with --save-report",
            "leave one of them out; all options are listed by: ferry check --help",
        );
        tells(
            "ferry check --report a --report b",
            "--report is given twice",
            "leave one --report out",
        );
        tells(
            "ferry run --kernel k --no-reboot=1",
            "--no-reboot takes no value",
            "write --no-reboot",
        );
        tells(
            "ferry rnu",
            "ferry rnu is not understood",
            "did you mean 'ferry run'?",
        );
        tells(
            "ferry start",
            "ferry start is not understood",
            "a guest is started by: ferry run --kernel PATH",
        );
    }

    #[test]
    fn what_is_given_twice_is_told_by_what_it_is() {
        for (line, why) in [
            ("ferry run --kernel k --kernel k", "a guest has only one"),
            (
                "ferry run --kernel k --no-reboot --no-reboot",
                "once is enough",
            ),
            ("ferry bind --group --group 01:00.0", "once is enough"),
            ("ferry bind --force 01:00.0 --force", "once is enough"),
            (
                "ferry check --memory 1G --memory 2G",
                "only one of its values can be meant",
            ),
        ] {
            let text = told(line).unwrap();
            assert!(
                text.contains(&format!("is given twice\n  why: {why}\n")),
                "{text}"
            );
        }
    }

    #[test]
    fn help_is_that_of_the_command_that_was_typed() {
        tells(
            "ferry unbind --frob 01:00.0",
            "--frob is not understood",
            "all options are listed by: ferry unbind --help",
        );
        tells(
            "ferry bind --group",
            "no device is given",
            "ferry bind 01:00.0; all addresses are listed by: ferry devices",
        );
        tells(
            "ferry bnd 01:00.0",
            "ferry bnd is not understood",
            "did you mean 'ferry bind'?",
        );
    }

    #[test]
    fn commands_of_vf_are_told_apart() {
        tells(
            "ferry vf list",
            "no device is given",
            "ferry vf list 01:00.0; all addresses are listed by: ferry devices",
        );
        tells(
            "ferry vf set 01:00.0 2 --frob",
            "--frob is not understood",
            "all options are listed by: ferry vf set --help",
        );
        tells(
            "ferry vf make",
            "the command line is not understood",
            "write, for example: ferry vf list 01:00.0",
        );
    }

    #[test]
    fn help_and_version_are_no_problems() {
        for line in [
            "ferry --help",
            "ferry run --help",
            "ferry --version",
            "ferry",
        ] {
            assert_eq!(told(line), None, "{line}");
        }
    }

    #[test]
    fn a_negative_number_is_a_value_and_no_option() {
        assert_eq!(told("ferry run --kernel k --cpus -1 --memory -1"), None);
    }
}
