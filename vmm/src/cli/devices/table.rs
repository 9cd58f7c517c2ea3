//! The table of `ferry devices`, which fits a terminal of 80 columns.

use devices::host::{ListedFunction, PciNames, Standing, Vectors};
use devices::pci::HostSbdf;
use std::fmt::Write;

const WIDTH: usize = 80;
const GAP: usize = 2;

/// What is above each column; the last one is what it is all about.
const HEADINGS: [&str; 8] = [
    "DEVICE", "DRIVER", "GROUP", "OTHERS", "RESET", "VECTORS", "VFS", "READY",
];
/// The columns that give way when a row is too long, the first one first, and how far.
const YIELDING: [(usize, usize); 2] = [(1, 8), (4, 5)];

/// Two lines and more a function, its `notes` the last, and a line of headings above them.
pub(in crate::cli) fn table(
    shown: &[&ListedFunction],
    names: &PciNames,
    notes: &[(HostSbdf, String)],
) -> String {
    if shown.is_empty() {
        return "No PCI device of this host can be given to a guest.\n".to_owned();
    }
    let short = shown
        .iter()
        .all(|listed| short(listed.function.sbdf).is_some());
    let rows: Vec<_> = shown.iter().map(|listed| cells(listed, short)).collect();
    let widths = widths(&rows);
    let mut text = String::new();
    line(&mut text, &HEADINGS.map(str::to_owned), &widths);
    for (listed, row) in shown.iter().zip(&rows) {
        line(&mut text, row, &widths);
        let kind = names.kind(&listed.function);
        let title = format!("{kind}: {}", names.title(&listed.function));
        let of_it = notes.iter().filter(|(of, _)| *of == listed.function.sbdf);
        let notes = of_it.map(|(_, words)| words.clone());
        for words in [Some(title), note(listed, short)]
            .into_iter()
            .flatten()
            .chain(notes)
        {
            below(&mut text, &widths, &words);
        }
    }
    text
}

/// What to say of those that are not shown.
pub(super) fn left_out(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "\n1 device that no guest can have: ferry devices --all\n".to_owned(),
        _ => format!("\n{count} devices that no guest can have: ferry devices --all\n"),
    }
}

/// What to say where records, or the processes that they name, can't be seen.
pub(super) fn unseen(hidden: bool) -> &'static str {
    match hidden {
        true => "\nOnly root can see whether a ferry run that was killed has left devices bound.\n",
        false => "",
    }
}

/// The address without its segment, where that is 0.
fn short(sbdf: HostSbdf) -> Option<String> {
    sbdf.to_string().strip_prefix("0000:").map(str::to_owned)
}

fn address(sbdf: HostSbdf, shortened: bool) -> String {
    match short(sbdf) {
        Some(text) if shortened => text,
        _ => sbdf.to_string(),
    }
}

fn cells(listed: &ListedFunction, short: bool) -> [String; 8] {
    let function = &listed.function;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        address(function.sbdf, short),
        or_none(function.driver.clone()),
        or_none(function.group.map(|group| group.to_string())),
        or_none(some(listed.members.len())),
        or_none(listed.reset.first().cloned()),
        listed.vectors.map_or_else(|| "?".to_owned(), vectors),
        or_none(
            listed
                .virtual_functions
                .map(|vfs| format!("{}/{}", vfs.enabled, vfs.total)),
        ),
        match &listed.standing {
            Standing::Now => "yes",
            Standing::AfterBind => "bind",
            Standing::AfterBindOfGroup(_) => "bind --group",
            Standing::InUse(_) => "in use",
            Standing::Never(_) => "never",
        }
        .to_owned(),
    ]
}

fn some(count: usize) -> Option<String> {
    (count > 0).then(|| count.to_string())
}

/// The kind that has most; a guest uses one kind at a time.
fn vectors(vectors: Vectors) -> String {
    match vectors {
        Vectors { msix: 1.., .. } => format!("{} MSI-X", vectors.msix),
        Vectors { msi: 1.., .. } => format!("{} MSI", vectors.msi),
        Vectors { intx: true, .. } => "INTx".to_owned(),
        _ => "none".to_owned(),
    }
}

/// What stands in the way, with names.
fn note(listed: &ListedFunction, short: bool) -> Option<String> {
    match &listed.standing {
        Standing::Now | Standing::AfterBind => None,
        Standing::AfterBindOfGroup(others) => {
            let others: Vec<_> = others.iter().map(|other| address(*other, short)).collect();
            Some(format!("its group holds {} too", others.join(", ")))
        }
        Standing::InUse(uses) => {
            let uses: Vec<_> = uses.iter().map(ToString::to_string).collect();
            Some(format!("in use: {}", uses.join("; ")))
        }
        Standing::Never(hindrance) => Some(hindrance.to_string()),
    }
}

/// How wide each column is.
fn widths(rows: &[[String; 8]]) -> [usize; 8] {
    let mut widths = HEADINGS.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (column, least) in YIELDING {
        let total: usize = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
        let excess = total.saturating_sub(WIDTH);
        if let Some(width) = widths.get_mut(column) {
            *width = width.saturating_sub(excess).max(least.min(*width));
        }
    }
    widths
}

fn line(text: &mut String, cells: &[String; 8], widths: &[usize; 8]) {
    let padded: Vec<_> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{:<width$}", cut(cell, *width)))
        .collect();
    text.push_str(padded.join(&" ".repeat(GAP)).trim_end());
    text.push('\n');
}

/// A line that belongs to the row above.
fn below(text: &mut String, widths: &[usize; 8], words: &str) {
    let indent = widths.first().copied().unwrap_or_default() + GAP;
    let _ = writeln!(text, "{:indent$}{}", "", cut(words, WIDTH - indent));
}

/// At most `width` characters, with an ellipsis for what is left out.
fn cut(words: &str, width: usize) -> String {
    if words.chars().count() <= width {
        return words.to_owned();
    }
    let kept: String = words.chars().take(width.saturating_sub(1)).collect();
    kept.trim_end().to_owned() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::host::{Hindrance, HostFunction, HostUse, VirtualFunctions};
    use proptest::prelude::*;

    fn nic() -> ListedFunction {
        ListedFunction {
            function: HostFunction {
                sbdf: "0000:01:00.0".parse().unwrap(),
                vendor: 0x8086,
                device: 0x10c9,
                class: 0x02_0000,
                driver: Some("igb".to_owned()),
                group: Some(16),
            },
            members: Vec::new(),
            reset: vec!["flr".to_owned(), "bus".to_owned()],
            vectors: Some(Vectors {
                msix: 10,
                msi: 1,
                intx: true,
            }),
            virtual_functions: Some(VirtualFunctions {
                enabled: 0,
                total: 7,
            }),
            standing: Standing::AfterBind,
        }
    }

    #[test]
    fn a_row_tells_all_of_a_function() {
        let text = table(&[&nic()], &PciNames::default(), &[]) + &left_out(3);
        assert_eq!(
            text,
            "DEVICE   DRIVER  GROUP  OTHERS  RESET  VECTORS   VFS  READY\n\
             01:00.0  igb     16     -       flr    10 MSI-X  0/7  bind\n         \
             Ethernet controller: [8086:10c9]\n\n\
             3 devices that no guest can have: ferry devices --all\n"
        );
    }

    #[test]
    fn a_segment_is_shown_where_one_is_not_0() {
        let mut other = nic();
        other.function.sbdf = "0001:01:00.0".parse().unwrap();
        let text = table(&[&nic(), &other], &PciNames::default(), &[]);
        assert!(
            text.contains("\n0000:01:00.0 ") && text.contains("\n0001:01:00.0 "),
            "{text}"
        );
    }

    #[test]
    fn what_stands_in_the_way_is_named_below() {
        let mut shared = nic();
        shared.standing = Standing::AfterBindOfGroup(vec!["0000:01:00.1".parse().unwrap()]);
        let mut used = nic();
        used.standing = Standing::InUse(vec![HostUse::DefaultRoute {
            interface: "eth0".to_owned(),
        }]);
        let mut bridge = nic();
        bridge.standing = Standing::Never(Hindrance::Bridge);
        let text = table(&[&shared, &used, &bridge], &PciNames::default(), &[]);
        assert!(text.contains("bind --group\n"), "{text}");
        assert!(
            text.contains("         its group holds 01:00.1 too\n"),
            "{text}"
        );
        assert!(
            text.contains("         in use: eth0 carries the default route\n"),
            "{text}"
        );
        assert!(
            text.contains("         a bridge, which stays with the host\n"),
            "{text}"
        );
    }

    #[test]
    fn what_a_killed_run_has_left_is_told() {
        let left = [(nic().function.sbdf, super::super::LEFT.to_owned())];
        let text = table(&[&nic()], &PciNames::default(), &left);
        assert!(
            text.ends_with("killed: sudo ferry unbind --stale\n"),
            "{text}"
        );
    }

    #[test]
    fn a_host_without_devices_is_told_so() {
        let text = table(&[], &PciNames::default(), &[]);
        assert!(text.starts_with("No PCI device"), "{text}");
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_80(
            segment in 0_u16..3,
            driver in "[a-z_-]{0,40}",
            reset in "[a-z_]{1,20}",
            group in 0_u32..1_000_000,
            others in 0_usize..40,
            msix in 0_u16..=2048,
            total in 0_u64..300,
        ) {
            let mut one = nic();
            one.function.sbdf = format!("{segment:04x}:01:00.0").parse().unwrap();
            one.function.driver = Some(driver);
            one.function.group = Some(group);
            one.members = vec!["0000:02:00.0".parse().unwrap(); others];
            one.standing = Standing::AfterBindOfGroup(one.members.clone());
            one.reset = vec![reset];
            one.vectors = Some(Vectors { msix, msi: 0, intx: false });
            one.virtual_functions = Some(VirtualFunctions { enabled: total, total });
            for line in table(&[&one, &nic()], &PciNames::default(), &[]).lines() {
                prop_assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}
