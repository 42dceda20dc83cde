//! Taking PCI functions from the host, giving them back, and resetting them.

use assign::{DetachError, ErrorKind};
use conf::PciAddress;
use lending::Ledger;
use rpc::{Code, Domain, Error};

use super::devices::{NodeSubject, missing, unless_gone};
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result, lending::with_advice};

impl Daemon {
    /// Takes a PCI function from the host's driver: for the one that fits it best for guests, or for
    /// that one.
    pub(crate) async fn detach_node_device(
        &self,
        name: String,
        driver: Option<String>,
    ) -> Result<()> {
        let driver = chosen(driver)?;
        let detach =
            move |ledger: &Ledger, address| ledger.detach(address, driver.as_deref()).map(drop);
        self.with_function(name, detach).await
    }

    /// Gives it back to the host.
    pub(crate) async fn reattach_node_device(&self, name: String) -> Result<()> {
        let reattach = |ledger: &Ledger, address| ledger.reattach(address).map(drop);
        self.with_function(name, reattach).await
    }

    /// Resets a PCI function that nobody uses.
    pub(crate) async fn reset_node_device(&self, name: String) -> Result<()> {
        self.with_function(name, |ledger, address| ledger.reset(address))
            .await
    }

    /// Does something to the PCI function of that name, on a thread that may wait.
    async fn with_function(
        &self,
        name: String,
        work: impl FnOnce(&Ledger, PciAddress) -> std::result::Result<(), DetachError> + Send + 'static,
    ) -> Result<()> {
        let (devices, ledger) = (self.devices(), std::sync::Arc::clone(&self.lender));
        let done = blocking(Domain::NodeDevice, move || {
            let found = unless_gone(devices.find(&name)).map(Option::flatten);
            match found.map_err(fault::host(Domain::NodeDevice))? {
                Some(NodeSubject::Pci(pci)) => {
                    work(&ledger, pci.address).map_err(|error| fault(&error))
                }
                Some(_) => {
                    let detail = format!("device {name} is not a PCI device");
                    Err(Error::new(Code::InvalidArg, Domain::NodeDevice, detail))
                }
                None => Err(missing(&name)),
            }
        });
        done.await?
    }
}

/// The driver that is asked for; none: the best one. libvirt's word for vfio, whichever that is, is no
/// driver's name.
fn chosen(driver: Option<String>) -> Result<Option<String>> {
    match driver.as_deref() {
        None | Some("") => Ok(None),
        Some("vfio") => Ok(Some("vfio-pci".to_owned())),
        Some(old @ ("kvm" | "xen")) => {
            let detail = format!(
                "there is no driver '{old}' any more; name 'vfio', or a driver of the host's"
            );
            Err(Error::new(
                Code::ArgumentUnsupported,
                Domain::NodeDevice,
                detail,
            ))
        }
        Some(_) => Ok(driver),
    }
}

fn fault(error: &DetachError) -> Error {
    let code = match error.kind() {
        ErrorKind::ConfigUnsupported => Code::ConfigUnsupported,
        ErrorKind::OperationInvalid => Code::OperationInvalid,
        ErrorKind::System(_) => Code::SystemError,
        ErrorKind::Internal => Code::InternalError,
    };
    // What can't be restored is the kernel's failure, not ours.
    let words = match code {
        Code::InternalError => Code::OperationFailed,
        code => code,
    };
    let detail = with_advice(error, error.advice());
    Error::worded(code, words, Domain::NodeDevice, detail)
}
