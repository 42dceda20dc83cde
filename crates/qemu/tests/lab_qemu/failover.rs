//! What a real QEMU does with a failover pair when a real guest negotiates: what simulated guests do,
//! and what rests on it. A card of QEMU's own plays the VF, and its netdev the host's address.

use std::time::Duration;

use conf::Domain;
use qemu::{
    Guest, GuestEvent, GuestEvents, LaunchSpec, Launched, Launcher, RefusalKind, Unplugging,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::SOON;

/// For a guest to start, which is emulated where there is no KVM.
const START: Duration = Duration::from_secs(120);

const STANDBY: &str = "ua-standby";

struct Bench {
    _directory: TempDir,
    guest: Guest,
    events: GuestEvents,
}

impl Bench {
    /// A guest whose pair has no other half yet.
    async fn start() -> Self {
        let file = |name: &str| std::env::var(name).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let port =
            |index| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>");
        let ports: String = (1..=3).map(port).collect();
        let xml = format!(
            "<domain type='qemu'><name>web</name><memory>131072</memory>
               <os><type arch='x86_64' machine='q35'>hvm</type>
                 <kernel>{}</kernel><initrd>{}</initrd>
                 <cmdline>console=ttyS0 quiet</cmdline></os>
               <features><acpi/></features>
               <devices>
                 <controller type='pci' index='0' model='pcie-root'/>{ports}
                 <controller type='usb' model='none'/>
                 <interface type='user'><mac address='52:54:00:00:00:01'/>
                   <model type='virtio'/><alias name='{STANDBY}'/>
                   <teaming type='persistent'/></interface>
                 <memballoon model='none'/>
               </devices></domain>",
            file("LAB_GUEST_KERNEL"),
            file("LAB_GUEST_INITRD"),
        );
        let mut domain = Domain::parse(&xml).unwrap();
        domain.fill_defaults();
        domain.assign_addresses(&|_| true).unwrap();
        domain.assign_aliases();
        let root = directory.path();
        let spec = LaunchSpec::new(domain, root.join("run"), root.join("log"));
        let Launched { guest, events, .. } = Launcher::Qemu.launch(spec).await.unwrap();
        let web = Self {
            _directory: directory,
            guest,
            events,
        };
        for netdev in ["first", "second"] {
            let arguments = json!({ "type": "user", "id": netdev });
            web.guest
                .qmp()
                .unwrap()
                .netdev_add(arguments)
                .await
                .unwrap();
        }
        web
    }

    async fn told(&mut self, wanted: GuestEvent) {
        loop {
            let event = tokio::time::timeout(START, self.events.recv()).await;
            if event.unwrap().unwrap() == wanted {
                return;
            }
        }
    }

    async fn negotiated(&mut self) {
        let alias = STANDBY.to_owned();
        self.told(GuestEvent::FailoverNegotiated { alias }).await;
    }

    async fn plug(&self, alias: &str, netdev: &str) -> Result<(), qemu::QmpError> {
        let arguments = json!({
            "driver": "virtio-net-pci", "id": alias, "netdev": netdev, "bus": "pci.3",
            "mac": "52:54:00:00:00:01", "failover_pair_id": STANDBY,
        });
        self.guest.qmp().unwrap().device_add(arguments).await
    }

    /// Has the guest let the primary go, which it does once its driver has it.
    async fn unplug(&mut self) {
        let asked = self.guest.unplug("ua-vf").await.unwrap();
        assert_eq!(asked, Unplugging::Asked);
        let alias = "ua-vf".to_owned();
        self.told(GuestEvent::DeviceDeleted { alias }).await;
        assert_eq!(self.primary().await, None);
    }

    /// What the primary that is there stands on.
    async fn primary(&self) -> Option<Value> {
        if !self.guest.device_aliases().await.unwrap().contains("ua-vf") {
            return None;
        }
        let place = json!({ "path": "/machine/peripheral/ua-vf", "property": "netdev" });
        let qmp = self.guest.qmp().unwrap();
        Some(
            qmp.execute("qom-get", place, Vec::new(), SOON)
                .await
                .unwrap(),
        )
    }
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU and a guest"]
async fn the_first_primary_comes_back_as_the_guest_starts_anew() {
    let mut web = Bench::start().await;
    web.negotiated().await;
    let negotiated = web.guest.has_negotiated_failover(STANDBY).await;
    assert_eq!(negotiated.unwrap(), Some(true));
    assert_eq!(web.primary().await, None);

    web.plug("ua-vf", "first").await.unwrap();
    assert_eq!(web.primary().await, Some(json!("first")));
    web.unplug().await;
    let error = web.plug("ua-other", "second").await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::OtherPrimary), "{error}");
    web.plug("ua-vf", "second").await.unwrap();
    assert_eq!(web.primary().await, Some(json!("second")));
    web.guest.reset().await.unwrap();
    web.negotiated().await;
    assert_eq!(
        web.primary().await,
        Some(json!("second")),
        "the one that is there stays"
    );

    web.unplug().await;
    web.guest.reset().await.unwrap();
    web.negotiated().await;
    assert_eq!(web.primary().await, Some(json!("first")), "asked by nobody");

    // What can't be made then is forgotten.
    web.unplug().await;
    let qmp = web.guest.qmp().unwrap();
    qmp.netdev_del("first").await.unwrap();
    web.guest.reset().await.unwrap();
    web.negotiated().await;
    assert_eq!(web.primary().await, None);
    // And what failed to be plugged in is remembered.
    web.plug("ua-vf", "first").await.unwrap_err();
    let error = web.plug("ua-other", "second").await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::OtherPrimary), "{error}");
    web.guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU and a guest"]
async fn a_primary_of_before_is_made_as_the_guest_negotiates() {
    let mut web = Bench::start().await;
    web.plug("ua-vf", "first").await.unwrap();
    assert_eq!(
        web.guest.unplug("ua-vf").await.unwrap(),
        Unplugging::NotThere
    );
    assert_eq!(web.primary().await, None);
    web.negotiated().await;
    assert_eq!(web.primary().await, Some(json!("first")));
    // A guest that has not let it go as it starts anew has it no more.
    web.guest.suspend().await.unwrap();
    assert_eq!(web.guest.unplug("ua-vf").await.unwrap(), Unplugging::Asked);
    web.guest.reset().await.unwrap();
    let alias = "ua-vf".to_owned();
    web.told(GuestEvent::DeviceDeleted { alias }).await;
    web.guest.destroy().await.unwrap();
}
