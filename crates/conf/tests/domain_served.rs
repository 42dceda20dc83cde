//! What management programs give every guest: clocks, power management, the agent's channel, inputs.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use conf::{Domain, ErrorKind, Form, TickPolicy, TimerName, UnixChannel, UsbInput};

fn guest(top: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'><name>g</name><memory>65536</memory>{top}
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{devices}</devices></domain>"
    )
}

fn defined(top: &str, devices: &str) -> Domain {
    let mut domain = Domain::parse(&guest(top, devices)).unwrap();
    domain.fill_defaults();
    domain.assign_addresses(&|_| true).unwrap();
    domain.validate().unwrap();
    domain
}

/// What the guest would miss, by its place.
fn missing(top: &str, devices: &str) -> Vec<String> {
    let domain = defined(top, devices);
    domain
        .unsupported()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn clocks_and_power_are_read_and_written() {
    let top = "<clock offset='utc'>\
        <timer tickpolicy='catchup' name='rtc'/><timer name='hpet' present='no'/>\
        <timer name='kvmclock'/></clock>\
        <pm><suspend-to-disk enabled='no'/><suspend-to-mem enabled='yes'/></pm>\
        <features><vmport state='off'/><acpi/></features>";
    let domain = defined(top, "");
    let timers: Vec<_> = domain
        .timers
        .iter()
        .map(|t| (t.name, t.tick_policy))
        .collect();
    assert_eq!(
        timers,
        [
            (TimerName::Rtc, Some(TickPolicy::Catchup)),
            (TimerName::Hpet, None),
            (TimerName::KvmClock, None)
        ]
    );
    assert_eq!(domain.power.suspend_to_mem, Some(true));
    assert_eq!(domain.features.vmport, Some(false));
    assert_eq!(domain.unsupported(), []);
    let xml = domain.to_xml(Form::Inactive);
    for piece in [
        "    <timer name='rtc' tickpolicy='catchup'/>\n    <timer name='hpet' present='no'/>\n    \
         <timer name='kvmclock'/>\n",
        "  <pm>\n    <suspend-to-mem enabled='yes'/>\n    <suspend-to-disk enabled='no'/>\n  </pm>\n",
        "    <acpi/>\n    <vmport state='off'/>\n",
    ] {
        assert!(xml.contains(piece), "{piece} in\n{xml}");
    }
}

#[test]
fn a_clock_that_nobody_can_set_is_named() {
    let timer = |inside: &str| missing(&format!("<clock offset='utc'>{inside}</clock>"), "");
    assert_eq!(
        timer("<timer name='rtc' track='wall'><catchup limit='1'/></timer><timer name='tsc'/>"),
        [
            "/domain/clock/timer/@track",
            "/domain/clock/timer/catchup",
            "/domain/clock/timer[2]/@name='tsc'"
        ]
    );
    assert_eq!(
        timer("<timer name='hpet' tickpolicy='merge'/>"),
        ["/domain/clock/timer[1]/@tickpolicy='merge'"]
    );
    for (faulty, kind) in [
        ("<timer/>", ErrorKind::Xml),
        ("<timer name='sundial'/>", ErrorKind::Xml),
        ("<timer name='pit' tickpolicy='ignore'/>", ErrorKind::Xml),
        (
            "<timer name='pit'/><timer name='pit'/>",
            ErrorKind::ConfigUnsupported,
        ),
    ] {
        let text = guest(&format!("<clock offset='utc'>{faulty}</clock>"), "");
        assert_eq!(Domain::parse(&text).unwrap_err().kind, kind, "{faulty}");
    }
}

#[test]
fn an_agents_channel_has_a_port_of_its_own() {
    let agent =
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    let other = "<channel type='unix'><source mode='bind' path='/run/x'/>\
        <target type='virtio' name='x'/></channel>";
    let domain = defined("", &format!("{agent}{other}"));
    let channels: Vec<_> = domain
        .devices
        .others
        .iter()
        .filter_map(|o| o.unix_channel())
        .collect();
    let channel = |name: &str, path: Option<&str>, port| UnixChannel {
        name: Some(name.to_owned()),
        path: path.map(str::to_owned),
        controller: 0,
        port,
    };
    assert_eq!(
        channels,
        [
            channel("org.qemu.guest_agent.0", None, 1),
            channel("x", Some("/run/x"), 2)
        ]
    );
    assert_eq!(domain.unsupported(), []);
}

#[test]
fn channels_and_inputs_of_other_kinds_are_refused() {
    let target = "<target type='virtio' name='a'/>";
    for channel in [
        format!("<channel type='spicevmc'>{target}</channel>"),
        format!("<channel type='unix'><source mode='connect' path='/a'/>{target}</channel>"),
        format!("<channel type='unix'><log file='/l'/>{target}</channel>"),
        "<channel type='unix'><target type='guestfwd' address='10.0.2.1' port='1'/></channel>"
            .to_owned(),
    ] {
        assert_eq!(
            missing("", &channel),
            ["/domain/devices/channel"],
            "{channel}"
        );
    }
    for unknown in [
        "<channel type='unix'><target type='serial' name='a'/></channel>",
        "<channel type='unix'><target name='a'/></channel>",
        "<input type='trackball' bus='usb'/>",
    ] {
        let error = Domain::parse(&guest("", unknown)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConfigUnsupported, "{error}");
    }
    let tablet = "<input type='tablet' bus='usb'/>";
    let domain = defined("", tablet);
    let inputs: Vec<_> = domain
        .devices
        .others
        .iter()
        .filter_map(|o| o.usb_input())
        .collect();
    assert_eq!(inputs, [UsbInput::Tablet]);
    assert_eq!(missing("", tablet), [""; 0]);
    for input in [
        "<input type='tablet' bus='virtio'/>",
        "<input type='passthrough' bus='virtio'><source evdev='/e'/></input>",
        "<input type='mouse' bus='usb'><driver iommu='on'/></input>",
    ] {
        assert_eq!(missing("", input), ["/domain/devices/input"], "{input}");
    }
}
