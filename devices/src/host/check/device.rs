//! What `ferry check` says of one device.

use super::{CheckRequest, Findings, Mark};
use crate::host::binding::{self, BindingObstacle};
use crate::host::function::{self, HostFunction};
use crate::host::limits::ProcessLimits;
use crate::host::problem::Problem;
use crate::host::root::HostRoot;
use crate::host::{iommu, vfio_node};
use crate::pci::HostSbdf;

pub(super) fn check(
    root: &HostRoot,
    request: &CheckRequest<'_>,
    sbdf: HostSbdf,
    limits: &dyn ProcessLimits,
    findings: &mut Findings,
) {
    let function = match root.function(sbdf) {
        Ok(function) => function,
        Err(error) => return findings.unreadable("device", &error),
    };
    if !driver(root, &function, findings) {
        return;
    }
    host_uses(root, &function, findings);
    match function.group {
        Some(group) => whole_group(root, request, &function, group, findings),
        None => without_group(root, sbdf, findings),
    }
    if let (Some(group), true) = (function.group, function.on_vfio()) {
        node(root, limits, (sbdf, group), findings);
    }
    reset(root, sbdf, findings);
    interrupts(root, sbdf, findings);
    bars(root, sbdf, findings);
    virtual_functions(root, sbdf, findings);
    numa_node(root, sbdf, findings);
}

/// Who has it; `false` for a bridge, of which nothing else matters.
fn driver(root: &HostRoot, function: &HostFunction, findings: &mut Findings) -> bool {
    const TOPIC: &str = "driver";
    match binding::check(root, function) {
        Ok(None) => {
            let driver = function.driver.as_deref().unwrap_or_default();
            findings.tell(Mark::Good, TOPIC, driver);
        }
        Ok(Some(obstacle)) => {
            findings.problem(TOPIC, &obstacle.problem());
            return !matches!(obstacle, BindingObstacle::Bridge { .. });
        }
        Err(error) => findings.unreadable(TOPIC, &error),
    }
    true
}

/// What the host would lose. A vfio driver has it, and the host nothing of it.
fn host_uses(root: &HostRoot, function: &HostFunction, findings: &mut Findings) {
    const TOPIC: &str = "in use";
    if function.on_vfio() {
        return;
    }
    match root.host_uses_by_processes(function.sbdf) {
        Ok(uses) if uses.is_empty() => {}
        Ok(uses) => {
            let uses: Vec<_> = uses.iter().map(ToString::to_string).collect();
            let what = format!("{}; the host would lose that", uses.join("; "));
            let remedy =
                "have the host use something else first, or choose another device: ferry devices";
            findings.problem(TOPIC, &Problem::new("", what, remedy));
        }
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

fn without_group(root: &HostRoot, sbdf: HostSbdf, findings: &mut Findings) {
    const TOPIC: &str = "group";
    match iommu::explain_absence(root, sbdf) {
        Ok(obstacle) => findings.problem(TOPIC, &obstacle.problem()),
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

fn whole_group(
    root: &HostRoot,
    request: &CheckRequest<'_>,
    function: &HostFunction,
    id: u32,
    findings: &mut Findings,
) {
    const TOPIC: &str = "group";
    let sbdf = function.sbdf;
    match iommu::check_group(root, sbdf, id) {
        Ok(None) => {}
        Ok(Some(obstacle)) => return findings.problem(TOPIC, &obstacle.problem()),
        Err(error) => return findings.unreadable(TOPIC, &error),
    }
    let members = match root.group(id) {
        Ok(group) => group.members,
        Err(error) => return findings.unreadable(TOPIC, &error),
    };
    match binding::check_group(root, sbdf, id, request.devices) {
        Ok(None) => findings.tell(Mark::Good, TOPIC, members_of(id, sbdf, &members)),
        Ok(Some(obstacle)) => findings.problem(TOPIC, &obstacle.problem()),
        Err(error) => findings.unreadable(TOPIC, &error),
    }
    if members.len() > 1 {
        match root.why_shared(sbdf, &members) {
            Ok(fact) => findings.tell(Mark::Caution, "isolation", fact),
            Err(error) => findings.unreadable("isolation", &error),
        }
    }
}

fn members_of(id: u32, sbdf: HostSbdf, members: &[HostFunction]) -> String {
    let others: Vec<_> = members
        .iter()
        .filter(|member| member.sbdf != sbdf)
        .map(|member| match &member.driver {
            Some(driver) => format!("{} ({driver})", member.sbdf),
            None => format!("{} (no driver)", member.sbdf),
        })
        .collect();
    if others.is_empty() {
        return format!("{id}, alone in it");
    }
    format!("{id}, with {}", others.join(", "))
}

fn node(
    root: &HostRoot,
    limits: &dyn ProcessLimits,
    (sbdf, group): (HostSbdf, u32),
    findings: &mut Findings,
) {
    const TOPIC: &str = "node";
    match vfio_node::check_group(root, limits, sbdf, group) {
        Ok(None) => {
            findings.tell(
                Mark::Good,
                TOPIC,
                format!("/dev/vfio/{group} can be opened"),
            );
        }
        Ok(Some(obstacle)) => findings.problem(TOPIC, &obstacle.problem()),
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

fn reset(root: &HostRoot, sbdf: HostSbdf, findings: &mut Findings) {
    const TOPIC: &str = "reset";
    match root.reset_methods(sbdf) {
        Ok(methods) if methods.is_empty() => findings.tell(
            Mark::Caution,
            TOPIC,
            "none: a guest finds the device as its last user left it",
        ),
        Ok(methods) => findings.tell(Mark::Good, TOPIC, methods.join(", ")),
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

fn interrupts(root: &HostRoot, sbdf: HostSbdf, findings: &mut Findings) {
    const TOPIC: &str = "interrupts";
    let Some(vectors) = root.vectors(sbdf) else {
        return findings.tell(Mark::Caution, TOPIC, "only root can read which it has");
    };
    let mut kinds = Vec::new();
    if vectors.msix > 0 {
        kinds.push(format!("MSI-X {}", vectors.msix));
    }
    if vectors.msi > 0 {
        kinds.push(format!("MSI {}", vectors.msi));
    }
    if vectors.intx {
        kinds.push("INTx".to_owned());
    }
    let line = root
        .interrupt_line(sbdf)
        .filter(|line| !line.users.is_empty());
    match line.filter(|_| vectors.intx && vectors.msix == 0 && vectors.msi == 0) {
        Some(line) => {
            let users = line.users.join(", ");
            let fact = format!("INTx only, on IRQ {} with {users}", line.irq);
            findings.tell(Mark::Caution, TOPIC, fact);
        }
        None if kinds.is_empty() => findings.tell(Mark::Good, TOPIC, "none"),
        None => findings.tell(Mark::Good, TOPIC, kinds.join(", ")),
    }
}

/// The sizes of its BARs, as the kernel has placed them (`resource`, six lines before the ROM's).
fn bars(root: &HostRoot, sbdf: HostSbdf, findings: &mut Findings) {
    const MEMORY: u64 = 0x200;
    let text = root.text_or_empty(function::directory(sbdf).join("resource"));
    let sizes = text.lines().take(6).filter_map(|line| {
        let mut numbers = line
            .split_whitespace()
            .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        let (start, end, flags) = (numbers.next()?, numbers.next()?, numbers.next()?);
        (flags & MEMORY != 0 && end > start).then(|| (end - start).saturating_add(1))
    });
    let (mut largest, mut total) = (0, 0_u64);
    for size in sizes {
        largest = size.max(largest);
        total = total.saturating_add(size);
    }
    if total == 0 {
        return;
    }
    let fact = format!("{} of memory, the largest {}", size(total), size(largest));
    // They lie above guest RAM, at a multiple of the largest.
    let needed = total.saturating_add(largest);
    match root.physical_bits().filter(|bits| *bits < 64) {
        Some(bits) if needed > 1 << bits => {
            let why = format!("{fact}, and this CPU has addresses of {bits} bits only");
            let remedy = "make the largest smaller where the device can (resizable BAR), as told by: lspci -vv";
            findings.problem("BARs", &Problem::new("", why, remedy));
        }
        _ => findings.tell(Mark::Good, "BARs", fact),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// Virtual functions: how many it has, or whose it is one of.
fn virtual_functions(root: &HostRoot, sbdf: HostSbdf, findings: &mut Findings) {
    const TOPIC: &str = "SR-IOV";
    match root.virtual_functions(sbdf) {
        Ok(Some(some)) => findings.tell(
            Mark::Good,
            TOPIC,
            format!("{} of {} virtual functions", some.enabled, some.total),
        ),
        Ok(None) => {
            if let Ok(Some(physical)) = root.physical_function(sbdf) {
                findings.tell(
                    Mark::Good,
                    TOPIC,
                    format!("a virtual function of {physical}"),
                );
            }
        }
        Err(error) => findings.unreadable(TOPIC, &error),
    }
}

fn numa_node(root: &HostRoot, sbdf: HostSbdf, findings: &mut Findings) {
    // -1 where there is but one.
    let node = root.text_or_empty(function::directory(sbdf).join("numa_node"));
    if node.parse::<u32>().is_ok() {
        findings.tell(Mark::Good, "NUMA node", node);
    }
}
