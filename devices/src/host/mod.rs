//! The host as sysfs shows it: PCI functions, their drivers and IOMMU groups.
