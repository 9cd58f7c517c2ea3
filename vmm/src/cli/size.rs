//! Guest RAM as people write it: `--memory SIZE` or `--memory size=SIZE[,hugepages=2M|1G]`.

use super::shown;
use super::suggest::nearest;
use devices::host::{HugePageSize, Problem};
use vmm::spec::MemorySize;

/// The keys of `--memory`.
const KEYS: [&str; 2] = ["size", "hugepages"];

/// How much RAM, and of which pages if not of the smallest.
pub(super) type Memory = (MemorySize, Option<HugePageSize>);

/// Parses the argument of `--memory`.
pub(super) fn parse(text: &str) -> Result<Memory, Problem> {
    if !text.contains('=') && !text.contains(',') {
        return size(text, text).map(|size| (size, None));
    }
    let usage = "write --memory size=SIZE[,hugepages=2M|1G], e.g. --memory size=4G,hugepages=1G";
    let problem = |why: String, remedy: &str| {
        Problem::new(
            format!("--memory {} is not understood", shown(text)),
            why,
            remedy,
        )
    };
    let (mut bytes, mut pages) = (None, None);
    for option in text.split(',') {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            problem(
                format!("{} is not of the form key=value", shown(option)),
                usage,
            )
        })?;
        let again = match key {
            "size" => bytes.replace(size(text, value)?).is_some(),
            "hugepages" => {
                let size = page_size(value).ok_or_else(|| {
                    let why = format!("{} is no size of huge pages", shown(value));
                    problem(why, "write hugepages=2M or hugepages=1G")
                })?;
                pages.replace(size).is_some()
            }
            _ => {
                let why = format!("'{key}' is no key of --memory ({})", KEYS.join(", "));
                let remedy = nearest(key, &KEYS).map_or_else(
                    || usage.to_owned(),
                    |known| format!("did you mean '{known}='?"),
                );
                return Err(problem(why, &remedy));
            }
        };
        if again {
            return Err(problem(format!("'{key}' is given twice"), "leave one out"));
        }
    }
    let bytes = bytes.ok_or_else(|| problem("size= is missing".to_owned(), usage))?;
    match pages {
        Some(page) if !bytes.bytes().is_multiple_of(page.bytes()) => {
            Err(no_multiple(text, bytes, page))
        }
        _ => Ok((bytes, pages)),
    }
}

fn page_size(text: &str) -> Option<HugePageSize> {
    [HugePageSize::Mib2, HugePageSize::Gib1]
        .into_iter()
        .find(|size| {
            let word = size.word();
            text.eq_ignore_ascii_case(word) || text.eq_ignore_ascii_case(&format!("{word}iB"))
        })
}

/// Only 1 GiB can be meant: every size is a multiple of 2 MiB.
fn no_multiple(text: &str, bytes: MemorySize, page: HugePageSize) -> Problem {
    let whole = bytes.bytes().div_ceil(page.bytes());
    Problem::new(
        format!("--memory {} is no usable size", shown(text)),
        format!(
            "{} MiB are no multiple of huge pages of {page}",
            bytes.bytes() >> 20
        ),
        format!("write --memory size={whole}G,hugepages=1G, or hugepages=2M"),
    )
}

/// Parses `512M`, `5G`, `1024MiB`; a plain number is MiB, as elsewhere. `whole` is what the user wrote.
fn size(whole: &str, text: &str) -> Result<MemorySize, Problem> {
    let what = format!("--memory {} is no usable size", shown(whole));
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
            assert_eq!(parse(text).unwrap().0.bytes(), bytes, "{text}");
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

    #[test]
    fn huge_pages_are_of_2_mib_or_1_gib() {
        let two = (MemorySize::new(2 << 30).unwrap(), Some(HugePageSize::Mib2));
        assert_eq!(parse("size=2G,hugepages=2M").unwrap(), two);
        assert_eq!(parse("hugepages=2mib,size=2048").unwrap(), two);
        let one = (two.0, Some(HugePageSize::Gib1));
        assert_eq!(parse("size=2G,hugepages=1G").unwrap(), one);
        assert_eq!(parse("size=2G").unwrap(), (two.0, None));
    }

    #[test]
    fn wrong_keys_and_sizes_are_told_with_what_to_write() {
        for (text, why, remedy) in [
            (
                "size=2G,hugepages=4M",
                "4M is no size of huge pages",
                "hugepages=2M or",
            ),
            (
                "size=2G,hugepages",
                "not of the form key=value",
                "write --memory size=",
            ),
            (
                "2G,hugepages=2M",
                "not of the form key=value",
                "write --memory size=",
            ),
            ("hugepages=2M", "size= is missing", "write --memory size="),
            ("size=2G,size=3G", "'size' is given twice", "leave one out"),
            (
                "size=2G,hugepage=2M",
                "'hugepage' is no key",
                "did you mean 'hugepages='?",
            ),
            (
                "size=2500M,hugepages=1G",
                "2500 MiB are no multiple of huge pages of 1 GiB",
                "size=3G,hugepages=1G, or",
            ),
            (
                "size=129M,hugepages=2M",
                "no multiple of 2 MiB",
                "give a multiple",
            ),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.why.contains(why), "{text}: {}", problem.why);
            assert!(
                problem.remedy.contains(remedy),
                "{text}: {}",
                problem.remedy
            );
        }
    }
}
