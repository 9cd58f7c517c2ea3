//! VFIO: probing a host function, planning its passthrough, and carrying the plan out.
