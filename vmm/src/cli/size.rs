//! Memory sizes as people write them.

use super::shown;
use devices::host::Problem;
use vmm::spec::MemorySize;

/// Parses `512M`, `5G`, `1024MiB`; a plain number is MiB, as elsewhere.
pub(super) fn parse(text: &str) -> Result<MemorySize, Problem> {
    let what = format!("--memory {} is no usable size", shown(text));
    let remedy = "give a multiple of 2 MiB from 128M on, e.g. --memory 512M or --memory 5G";
    let problem = |why: String| Problem::new(what.clone(), why, remedy);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| problem("it does not start with a number that fits 64 bits".to_owned()))?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "m" | "mib" => 20,
        "k" | "kib" => 10,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(problem(format!("'{unit}' is no unit (K, M, G or T)"))),
    };
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or_else(|| problem("it is more than 64 bits can address".to_owned()))?;
    MemorySize::new(bytes).ok_or_else(|| {
        problem(if bytes < MemorySize::MIN {
            format!("it is {bytes} bytes, less than 128 MiB")
        } else if bytes > MemorySize::MAX {
            format!("it is {bytes} bytes, more than a guest can address")
        } else {
            format!("it is {bytes} bytes, no multiple of 2 MiB")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_two() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512", 512 << 20),
            ("5G", 5 << 30),
            ("1048576k", 1 << 30),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse(text).unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "number"),
            ("G", "number"),
            ("-1G", "number"),
            ("12X", "unit"),
            ("64M", "less than"),
            ("129M", "multiple"),
            ("99999999999G", "64 bits"),
            ("9999999T", "more than"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.why.contains(why), "{text}: {}", problem.why);
        }
    }
}
