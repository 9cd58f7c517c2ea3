//! What the guest looks like to a client: the shapes of `vmm.ping` and `vm.info`, field by field those of Cloud Hypervisor.

use crate::spec::{DeviceSpec, MachineSpec, SerialSpec};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The answer to `vmm.ping`.
#[derive(Debug, Serialize)]
pub struct Ping {
    build_version: &'static str,
    version: &'static str,
    pid: u32,
    features: [&'static str; 1],
}

impl Ping {
    /// Of this process.
    #[must_use]
    pub fn own() -> Self {
        Self {
            build_version: concat!("ferry ", env!("CARGO_PKG_VERSION")),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            features: ["kvm"],
        }
    }
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// Its vCPUs are in it.
    Running,
    /// They are not.
    Paused,
}

/// The answer to `vm.info`.
#[derive(Debug, Serialize)]
pub struct VmInfo {
    config: Config,
    state: State,
    memory_actual_size: u64,
    device_tree: BTreeMap<String, Node>,
    /// Ferry's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    arriving: Option<Arriving>,
}

/// A device that has been added, in the answer to `vm.add-device`.
#[derive(Debug, Serialize)]
pub struct AddedDevice {
    id: String,
    bdf: String,
}

impl AddedDevice {
    /// The device as the guest has it.
    #[must_use]
    pub fn of(device: &DeviceSpec) -> Self {
        Self {
            id: device.id.clone(),
            bdf: device.guest.to_string(),
        }
    }
}

/// Devices that are being opened.
#[derive(Debug, Serialize)]
struct Arriving {
    ids: Vec<String>,
    memory_populated: u64,
}

#[derive(Debug, Serialize)]
struct Config {
    cpus: Cpus,
    memory: Memory,
    payload: Payload,
    serial: Console,
    console: Console,
    devices: Vec<Device>,
}

#[derive(Debug, Serialize)]
struct Cpus {
    boot_vcpus: u8,
    max_vcpus: u8,
}

#[derive(Debug, Serialize)]
struct Memory {
    size: u64,
    shared: bool,
    hugepages: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hugepage_size: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Payload {
    kernel: PathBuf,
    cmdline: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    initramfs: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Console {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Device {
    path: PathBuf,
    id: String,
    iommu: bool,
    pci_segment: u16,
}

#[derive(Debug, Serialize)]
struct Node {
    id: String,
    resources: [(); 0],
    children: [(); 0],
    pci_bdf: String,
}

impl VmInfo {
    /// Of a guest made to `spec`, which has `devices` now.
    #[must_use]
    pub fn new(spec: &MachineSpec, devices: &[&DeviceSpec], state: State) -> Self {
        Self {
            config: Config {
                cpus: Cpus {
                    boot_vcpus: spec.cpus.get(),
                    max_vcpus: spec.cpus.get(),
                },
                memory: Memory {
                    size: spec.memory.bytes(),
                    shared: true,
                    hugepages: spec.huge_pages.is_some(),
                    hugepage_size: spec.huge_pages.map(|pages| pages.bytes()),
                },
                payload: Payload {
                    kernel: spec.kernel.clone(),
                    cmdline: spec.cmdline.clone(),
                    initramfs: spec.initramfs.clone(),
                },
                serial: Console::of(&spec.serial),
                console: Console {
                    mode: "Off",
                    file: None,
                },
                devices: devices.iter().map(|device| Device::of(device)).collect(),
            },
            state,
            memory_actual_size: spec.memory.bytes(),
            device_tree: devices.iter().map(|device| Node::of(device)).collect(),
            arriving: None,
        }
    }

    /// And these are being opened, for which so many bytes of guest RAM were faulted in.
    #[must_use]
    pub fn with_arriving(mut self, devices: &[DeviceSpec], memory_populated: u64) -> Self {
        let ids: Vec<_> = devices.iter().map(|device| device.id.clone()).collect();
        self.arriving = (!ids.is_empty()).then_some(Arriving {
            ids,
            memory_populated,
        });
        self
    }
}

impl Console {
    fn of(serial: &SerialSpec) -> Self {
        let (mode, file) = match serial {
            SerialSpec::Terminal => ("Tty", None),
            SerialSpec::Absent => ("Off", None),
            SerialSpec::File(path) => ("File", Some(path.clone())),
        };
        Self { mode, file }
    }
}

impl Device {
    fn of(device: &DeviceSpec) -> Self {
        Self {
            path: Path::new("/sys/bus/pci/devices").join(device.host.to_string()),
            id: device.id.clone(),
            iommu: false,
            pci_segment: 0,
        }
    }
}

impl Node {
    fn of(device: &DeviceSpec) -> (String, Self) {
        let node = Self {
            id: device.id.clone(),
            resources: [],
            children: [],
            pci_bdf: device.guest.to_string(),
        };
        (device.id.clone(), node)
    }
}
