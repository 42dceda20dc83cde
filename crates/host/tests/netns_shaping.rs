//! Shaping as the real kernel carries it out, in a network namespace of each test's own. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::net::UdpSocket;
use std::process::Command;

use conf::{Bandwidth, Rate};
use host::{HostError, Links, LinuxHost, Paths};
use rustix::thread::UnshareFlags;

const ENODEV: i32 = 19;

/// Runs a test on a thread with a network namespace of its own, with two connected devices, `left`
/// and `right`, both up.
fn in_namespace(test: impl FnOnce(&LinuxHost) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
        rustix::thread::unshare(UnshareFlags::NEWNET).expect("network namespaces need root");
        run("ip link add left type veth peer name right");
        run("ip link set left up");
        run("ip link set right up");
        test(&LinuxHost::new(Paths::default()));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a command prints.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = (Command::new(words.next().unwrap()).args(words))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn index(netdev: &str) -> u32 {
    let shown = run(&format!("ip -o link show {netdev}"));
    shown.split(':').next().unwrap().parse().unwrap()
}

/// KiB a second, and KiB.
fn rate(average: u64, peak: Option<u64>, burst: Option<u64>) -> Option<Rate> {
    Some(Rate {
        average: Some(average),
        peak,
        floor: None,
        burst,
    })
}

fn inbound(rate: Option<Rate>) -> Bandwidth {
    Bandwidth {
        inbound: rate,
        outbound: None,
    }
}

fn outbound(rate: Option<Rate>) -> Bandwidth {
    Bandwidth {
        inbound: None,
        outbound: rate,
    }
}

/// The disciplines of a device, but the kernel's own.
fn disciplines(netdev: &str) -> String {
    let shown = run(&format!("tc qdisc show dev {netdev}"));
    let ours = shown.lines().filter(|line| !line.contains("noqueue"));
    ours.collect()
}

#[test]
fn what_goes_to_the_guest_has_a_rate_a_peak_and_a_burst() {
    in_namespace(|host| {
        let left = index("left");
        let wanted = inbound(rate(1000, Some(2000), Some(64)));
        host.set_bandwidth(left, &wanted).unwrap();
        let class = run("tc class show dev left");
        assert!(
            class.contains("rate 8192Kbit ceil 16384Kbit burst 64Kb"),
            "{class}"
        );
        host.set_bandwidth(left, &inbound(rate(500, None, None)))
            .unwrap();
        let class = run("tc class show dev left");
        assert!(class.contains("rate 4096Kbit ceil 4096Kbit"), "{class}");
        host.set_bandwidth(left, &Bandwidth::default()).unwrap();
        assert_eq!(disciplines("left"), "");
        host.set_bandwidth(left, &Bandwidth::default()).unwrap();
    });
}

#[test]
fn rates_beyond_32_bits_are_told_whole() {
    in_namespace(|host| {
        let left = index("left");
        // 200 Gbit/s and something.
        host.set_bandwidth(left, &inbound(rate(25_000_000, None, None)))
            .unwrap();
        let class = run("tc class show dev left");
        assert!(class.contains("rate 204800Mbit"), "{class}");
    });
}

/// Bytes that a device has received.
fn received(netdev: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = (table.lines().map(str::trim_start)).find(|line| line.starts_with(netdev));
    let columns = line.unwrap().split_once(':').unwrap().1;
    columns.split_whitespace().next().unwrap().parse().unwrap()
}

/// Bytes that arrive of those that are sent at once, and those that are sent.
fn sent_at_once(host: &LinuxHost, bandwidth: &Bandwidth) -> (u64, u64) {
    host.set_bandwidth(index("left"), bandwidth).unwrap();
    let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let before = received("right");
    // The rest is refused once the queue has filled the socket's buffer.
    let sent = (0..100).take_while(|_| socket.send_to(&[0; 1000], "10.0.0.2:9").is_ok());
    let sent = 1000 * sent.count() as u64;
    (received("right") - before, sent)
}

#[test]
fn frames_wait_for_their_turn() {
    in_namespace(|host| {
        run("ip addr add 10.0.0.1/24 dev left");
        run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev left");
        let (arrived, sent) = sent_at_once(host, &Bandwidth::default());
        assert!(
            arrived >= sent && sent == 100_000,
            "{arrived} of {sent} without shaping"
        );
        // The rest would take six seconds and more.
        let (arrived, sent) = sent_at_once(host, &inbound(rate(8, None, Some(16))));
        assert!(sent >= 50_000, "{sent}");
        assert!(
            (10_000..40_000).contains(&arrived),
            "{arrived} of {sent} with a burst of 16 KiB"
        );
    });
}

#[test]
fn what_a_guest_sends_by_a_macvtap_leaves_the_macvtap() {
    in_namespace(|host| {
        run("ip link add link left name over type macvtap mode bridge");
        host.set_bandwidth(index("over"), &outbound(rate(1000, None, None)))
            .unwrap();
        let class = run("tc class show dev over");
        assert!(class.contains("rate 8192Kbit"), "{class}");
    });
}

/// Where the kernel has no policers that is said, and what was already set is taken back.
#[test]
fn what_comes_from_the_guest_is_policed_or_all_is_taken_back() {
    in_namespace(|host| {
        let both = Bandwidth {
            inbound: rate(1000, None, None),
            outbound: rate(2000, Some(3000), Some(100)),
        };
        match host.set_bandwidth(index("left"), &both) {
            Ok(()) => {
                let filter = run("tc filter show dev left ingress");
                assert!(filter.contains("rate 16384Kbit burst 100Kb"), "{filter}");
                assert!(run("tc class show dev left").contains("rate 8192Kbit"));
                host.set_bandwidth(index("left"), &Bandwidth::default())
                    .unwrap();
            }
            Err(error) => {
                assert!(
                    matches!(&error, HostError::Unsupported { target, reason }
                        if target == "'left'" && reason.contains("act_police")),
                    "{error}"
                );
            }
        }
        assert_eq!(disciplines("left"), "");
    });
}

#[test]
fn filters_of_another_program_stay() {
    in_namespace(|host| {
        run("tc qdisc add dev left clsact");
        let error =
            (host.set_bandwidth(index("left"), &outbound(rate(1, None, None)))).unwrap_err();
        assert!(
            matches!(&error, HostError::Unsupported { reason, .. } if reason.contains("clsact")),
            "{error}"
        );
        host.set_bandwidth(index("left"), &inbound(rate(1000, None, None)))
            .unwrap();
        host.set_bandwidth(index("left"), &Bandwidth::default())
            .unwrap();
        assert!(disciplines("left").contains("clsact"));
    });
}

#[test]
fn what_can_not_be_is_refused_by_name() {
    in_namespace(|host| {
        let guaranteed = inbound(Some(Rate {
            average: Some(10),
            floor: Some(5),
            ..Rate::default()
        }));
        let error = host.set_bandwidth(index("left"), &guaranteed).unwrap_err();
        assert!(error.to_string().contains("'floor'"), "{error}");
        let error = (host.set_bandwidth(4242, &inbound(rate(1, None, None)))).unwrap_err();
        assert_eq!(error.errno(), Some(ENODEV));
        assert_eq!(error.to_string(), "setting the bandwidth of device 4242");
    });
}
