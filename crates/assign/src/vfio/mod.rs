//! PCI functions that a guest gets by vfio.

mod lend;
mod node;
mod plan;
mod restore;

pub use plan::check_unmanaged;
pub(crate) use plan::{Tie, check_pf, plan_vf, refuse_bridge};

/// vfio's own driver and its variants (`mlx5_vfio_pci`, `hisi-acc-vfio-pci` …).
pub(crate) fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}
