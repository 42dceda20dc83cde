//! Where a guest runs counts when a device is chosen for it; where it can't run it is not started.
//! The simulated host has two NUMA nodes of four CPUs each, and every second PF on the other one.

use rpc::*;

use crate::harness::*;

/// A network over `sim0` on NUMA node 0 and `sim1` on node 1.
async fn two_pfs(client: &Client, numa: &str) {
    let net = client
        .define_network(&format!(
            "<network xmlns:virtnic='urn:virtnic:1'><name>n1</name>\
             <forward mode='hostdev' managed='yes'><pf dev='sim0'/><pf dev='sim1'/></forward>\
             <virtnic:pool spread='balance' numa='{numa}'/></network>"
        ))
        .await;
    client.ok(NetworkCreate { net }).await;
}

fn guest_at(name: &str, placement: &str) -> String {
    guest_xml(name, &on_network("n1")).replacen("<vcpu>1</vcpu>", placement, 1)
}

fn on_node(name: &str, node: u32) -> String {
    let memory = format!("<memory mode='preferred' nodeset='{node}'/>");
    guest_at(
        name,
        &format!("<vcpu>1</vcpu><numatune>{memory}</numatune>"),
    )
}

/// The PF that a guest got its VF from.
async fn pf_of(client: &Client, guest: &str) -> Option<String> {
    let lent = client.who().await;
    let mut own = lent
        .into_iter()
        .filter(|lent| lent.guest.as_deref() == Some(guest));
    own.next()?.pf
}

#[tokio::test]
async fn a_guest_gets_a_device_of_the_node_that_it_runs_on() {
    let root = Root::new();
    let _daemon = root.start_on("pfs=2,vfs=8");
    let client = root.client().await;
    two_pfs(&client, "prefer").await;
    // Left to themselves the devices would be taken in turn.
    let placements = [
        ("<vcpu cpuset='4-7'>1</vcpu>", "sim1"),
        (
            "<vcpu>1</vcpu><cputune><vcpupin vcpu='0' cpuset='5'/></cputune>",
            "sim1",
        ),
        (
            "<vcpu>1</vcpu><cputune><emulatorpin cpuset='6'/></cputune>",
            "sim1",
        ),
        (
            "<vcpu cpuset='4'>1</vcpu><numatune><memory nodeset='0'/></numatune>",
            "sim0",
        ),
    ];
    for (number, (placement, pf)) in placements.into_iter().enumerate() {
        let name = format!("g{number}");
        let dom = client.define_guest(&guest_at(&name, placement)).await;
        client.start(&dom).await;
        assert_eq!(
            pf_of(&client, &name).await.as_deref(),
            Some(pf),
            "{placement}"
        );
    }
}

#[tokio::test]
async fn a_far_device_is_better_than_none_unless_the_network_says_otherwise() {
    for (numa, far) in [("prefer", Some("sim0")), ("require", None)] {
        let root = Root::new();
        let _daemon = root.start_on("pfs=2,vfs=2");
        let client = root.client().await;
        two_pfs(&client, numa).await;
        let first = client.define_guest(&on_node("first", 1)).await;
        client.start(&first).await;
        assert_eq!(pf_of(&client, "first").await.as_deref(), Some("sim1"));
        let dom = client.define_guest(&on_node("second", 1)).await;
        match far {
            Some(pf) => {
                client.start(&dom).await;
                assert_eq!(pf_of(&client, "second").await.as_deref(), Some(pf));
            }
            None => {
                let args = DomainCreateWithFlags {
                    dom,
                    flags: Default::default(),
                };
                let parts = &["NUMA node 0", "numa='prefer'"];
                client
                    .refuses(&root, args, Code::InternalError, parts)
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn cpus_and_nodes_that_the_host_lacks_are_refused_by_name() {
    let root = Root::new();
    let _daemon = root.start_on("pfs=2,vfs=2");
    let client = root.client().await;
    two_pfs(&client, "prefer").await;
    let xml_desc = guest_at(
        "g1",
        "<vcpu cpuset='7-9'>1</vcpu><numatune><memory nodeset='1-2'/></numatune>",
    );
    let parts = &[
        "'g1'",
        "<vcpu cpuset> asks for CPU 8-9; this host has 0-7",
        "<numatune> asks for NUMA node 2; this host has 0-1",
    ];
    let dom = client.define_guest(&xml_desc).await;
    let start = DomainCreateWithFlags {
        dom: dom.clone(),
        flags: Default::default(),
    };
    client
        .refuses(&root, start, Code::ConfigUnsupported, parts)
        .await;
    let of = PlanOf::Guest(dom.name);
    let report = client.ok(VirtnicPlan { of }).await;
    assert!(!report.would_start);
    let [obstacle] = &report.obstacles[..] else {
        panic!("{:?}", report.obstacles);
    };
    assert!(obstacle.contains("NUMA node 2"), "{obstacle}");
}

/// The most memory that the daemon had at once, KiB.
fn peak_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_set_of_all_cpus_for_all_virtual_cpus_costs_next_to_nothing() {
    let root = Root::new();
    let daemon = root.start_on("pfs=2,vfs=2");
    let client = root.read_only_client().await;
    let plan = |elements: &str| PlanOf::Document(guest_at("g1", elements));
    let of = plan("<vcpu>1</vcpu>");
    client.ok(VirtnicPlan { of }).await;
    let before = peak_kib(&daemon);
    let of = plan("<vcpu cpuset='0-16383'>65535</vcpu>");
    let report = client.ok(VirtnicPlan { of }).await;
    assert!(
        report.obstacles[0].contains("<vcpu cpuset> asks for CPU 8-16383; this host has 0-7"),
        "{:?}",
        report.obstacles
    );
    let more = peak_kib(&daemon) - before;
    assert!(more < 8 << 10, "{more} KiB");
}
