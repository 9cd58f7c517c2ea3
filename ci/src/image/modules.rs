//! Kernel modules with everything they depend on, taken from `modules.dep` and `modules.builtin`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::program::Tree;

/// The modules of one kernel.
#[derive(Debug)]
pub(super) struct ModuleIndex {
    dir: PathBuf,
    release: String,
    graph: Graph,
}

/// One module of a closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// The name with underscores, as `lsmod` prints it.
    pub(super) name: String,
    file: String,
    needs: Vec<String>,
}

impl Module {
    /// The module's line in a `modules.dep` whose files lie side by side.
    pub(super) fn dependency_line(&self) -> String {
        let needs: String = self
            .needs
            .iter()
            .map(|name| format!(" {name}.ko"))
            .collect();
        format!("{}.ko:{needs}\n", self.name)
    }
}

impl ModuleIndex {
    /// Reads the index of the kernel `release` below `tree`.
    pub(super) fn open(tree: &Path, release: &str) -> Result<Self> {
        let dir = tree.join("lib/modules").join(release);
        let read = |name: &str| {
            fs::read_to_string(dir.join(name))
                .with_context(|| format!("cannot read {}/{name}", dir.display()))
        };
        let graph = Graph::parse(&read("modules.dep")?, &read("modules.builtin")?);
        Ok(Self {
            dir,
            release: release.to_owned(),
            graph,
        })
    }

    /// The kernel these modules belong to.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    /// The modules named and all they need, each after those it needs. Built-in ones are left out.
    pub(super) fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        self.graph
            .closure(names)
            .with_context(|| format!("kernel {}", self.release))
    }

    /// The module's code, decompressed: the loader in busybox takes no compressed modules.
    pub(super) fn code(&self, tools: &Tree, module: &Module) -> Result<Vec<u8>> {
        let path = self.dir.join(&module.file);
        if path.extension().is_some_and(|extension| extension == "xz") {
            return Tree::check(tools.command("usr/bin/xz").arg("-dc").arg(&path));
        }
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

#[derive(Debug, Default)]
struct Graph {
    /// Name → file and the files it needs, the way `modules.dep` lists them.
    modules: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Graph {
    fn parse(dependencies: &str, builtin: &str) -> Self {
        let modules = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                let needs = needs.split_whitespace().map(module_name).collect();
                (module_name(file), (file.to_owned(), needs))
            })
            .collect();
        Self {
            modules,
            builtin: builtin.lines().map(module_name).collect(),
        }
    }

    fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.visit(&module_name(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some((file, needs)) = self.modules.get(name) else {
            bail!("there is no module {name}")
        };
        for need in needs {
            self.visit(need, seen, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            file: file.clone(),
            needs: needs.clone(),
        });
        Ok(())
    }
}

/// `kernel/fs/9p/9p.ko.xz` → `9p`; dashes and underscores mean the same in module names.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split_once(".ko").map_or(file, |(name, _)| name);
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/a/top-one.ko.xz: kernel/a/mid.ko.xz kernel/b/base.ko.xz\n\
                                kernel/a/mid.ko.xz: kernel/b/base.ko.xz\n\
                                kernel/b/base.ko.xz:\n\
                                kernel/c/ring-a.ko: kernel/c/ring-b.ko\n\
                                kernel/c/ring-b.ko: kernel/c/ring-a.ko\n";

    fn names(wanted: &[&str]) -> Vec<String> {
        let graph = Graph::parse(DEPENDENCIES, "kernel/d/virtio-pci.ko\n");
        graph
            .closure(wanted)
            .unwrap()
            .into_iter()
            .map(|module| module.name)
            .collect()
    }

    #[test]
    fn modules_follow_what_they_need() {
        assert_eq!(names(&["top-one"]), ["base", "mid", "top_one"]);
        assert_eq!(names(&["mid", "top_one"]), ["base", "mid", "top_one"]);
    }

    #[test]
    fn built_in_modules_are_left_out() {
        assert!(names(&["virtio_pci"]).is_empty());
    }

    #[test]
    fn dependency_cycle_terminates() {
        assert_eq!(names(&["ring_a"]), ["ring_b", "ring_a"]);
    }

    #[test]
    fn unknown_module_is_an_error() {
        assert!(
            Graph::parse(DEPENDENCIES, "")
                .closure(&["nothing"])
                .is_err()
        );
    }

    #[test]
    fn dependency_line_names_flat_files() {
        let graph = Graph::parse(DEPENDENCIES, "");
        let module = graph.closure(&["top_one"]).unwrap().pop().unwrap();
        assert_eq!(module.dependency_line(), "top_one.ko: mid.ko base.ko\n");
    }
}
