//! A VF with a virtio card that stands by, as clients write it themselves: two elements with
//! `<teaming>`.

use rpc::*;

use super::*;
use crate::guest_links::{CONFIG, LIVE};
use crate::hotplug::{attach, by_alias, count, detach};
use crate::in_process::until;

const STANDBY: &str = "ua-standby";
const OF_PAIR: &str = "<teaming type='transient' persistent='ua-standby'/>";

fn standby() -> String {
    format!(
        "<interface type='direct'><mac address='{MAC}'/><source dev='sim0' mode='bridge'/>\
         <model type='virtio'/><teaming type='persistent'/><alias name='{STANDBY}'/></interface>"
    )
}

fn machine(site: &Site, dom: &Dom) -> qemu::SimulatedGuest {
    site.simulation.guests.guest(dom.uuid).unwrap()
}

fn has_vf(site: &Site, dom: &Dom) -> bool {
    machine(site, dom)
        .devices()
        .contains(&"hostdev0".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_lives_with_its_guest() {
    for vf in [
        vf_interface(VF, MANAGED, OF_PAIR),
        host_device(VF, MANAGED, OF_PAIR),
    ] {
        let site = Site::new();
        let daemon = site.start().await;
        let client = site.root.client().await;
        let xml = roomy("g1").replace("</devices>", &format!("{}{vf}</devices>", standby()));
        let dom = client.define_guest(&xml).await;
        let off = client.picture(&site.root).await;
        let dom = client.start(&dom).await;
        // It is the guest's from the start, and plugged in when its driver asked for it.
        assert_eq!(client.who().await.len(), 2, "{vf}");
        assert!(!has_vf(&site, &dom));
        machine(&site, &dom).negotiate_failover(STANDBY);
        until("the VF is plugged in", async || has_vf(&site, &dom)).await;

        client.ok(DomainSuspend { dom: dom.clone() }).await;
        client.ok(DomainResume { dom: dom.clone() }).await;
        machine(&site, &dom).reboot();
        machine(&site, &dom).negotiate_failover(STANDBY);
        until("it has it after a reboot", async || has_vf(&site, &dom)).await;
        assert_eq!(driver(&site, VF).as_deref(), Some("vfio-pci"));
        drop(client);
        daemon.stop().await;

        let _daemon = site.start().await;
        let client = site.root.client().await;
        let states = async || {
            let who = client.who().await;
            let mut states: Vec<_> = who.into_iter().map(|lent| lent.state).collect();
            states.sort();
            states
        };
        until("it is found as it was", async || {
            states().await == ["lent", "lent"]
        })
        .await;
        assert!(has_vf(&site, &dom));
        client.ok(DomainDestroy { dom }).await;
        assert_eq!(client.picture(&site.root).await, off);
        assert_eq!(driver(&site, VF).as_deref(), Some("simvf"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vf_of_a_pair_goes_and_comes_by_its_own_element() {
    for (vf, name) in [
        (vf_interface(VF, MANAGED, OF_PAIR), "interface"),
        (host_device(VF, MANAGED, OF_PAIR), "hostdev"),
    ] {
        let site = Site::new();
        let _daemon = site.start().await;
        let client = site.root.client().await;
        let xml = roomy("g1").replace("</devices>", &format!("{}{vf}</devices>", standby()));
        let dom = client.define_guest(&xml).await;
        let dom = client.start(&dom).await;
        machine(&site, &dom).negotiate_failover(STANDBY);
        until("the VF is plugged in", async || has_vf(&site, &dom)).await;
        // The standby stays for as long as there is a VF.
        let error = client.refused(by_alias(&dom, STANDBY)).await;
        assert_eq!(error.code(), Code::OperationFailed, "{error}");

        for _ in 0..3 {
            let live = client.guest_dump(&dom, 0).await;
            let start = live.find(OF_PAIR).unwrap();
            let start = live[..start].rfind(&format!("<{name} ")).unwrap();
            let shown = element(&live[start..], name);
            client.ok(detach(&dom, &shown, LIVE)).await;
            until("the VF is gone", async || !has_vf(&site, &dom)).await;
            let live = client.guest_dump(&dom, 0).await;
            assert_eq!(count(&live, OF_PAIR), 0, "{live}");
            assert_eq!(count(&live, STANDBY), 1, "{live}");
            until("it is the host's", async || {
                driver(&site, VF).as_deref() == Some("simvf")
            })
            .await;
            client.ok(attach(&dom, &shown, LIVE)).await;
            until("it is plugged in again", async || has_vf(&site, &dom)).await;
        }
        client.ok(DomainDestroy { dom: dom.clone() }).await;
        if name == "interface" {
            continue; // its MAC is that of both
        }
        client.ok(detach(&dom, &vf, CONFIG)).await;
        let kept = client.guest_dump(&dom, 0).await;
        assert_eq!(
            (count(&kept, OF_PAIR), count(&kept, STANDBY)),
            (0, 1),
            "{kept}"
        );
        client.ok(attach(&dom, &vf, CONFIG)).await;
    }
}
