//! No text of a document becomes more than the one value that it is.

use std::collections::BTreeMap;

use conf::{CharBackend, CpuModel, DiskSource, Domain};
use proptest::prelude::*;

use super::{CommandLine, Resources, command_line};

/// A guest with each kind of text that reaches the command line.
fn guest() -> Domain {
    let xml = "<domain type='kvm'><name>g</name><memory>131072</memory><vcpu>2</vcpu>
       <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><kernel>/k</kernel>
         <initrd>/i</initrd><cmdline>quiet</cmdline></os>
       <cpu mode='custom' match='exact'><model>Haswell</model>
         <feature policy='require' name='vmx'/></cpu>
       <devices>
         <controller type='pci' index='0' model='pcie-root'/>
         <controller type='pci' index='1' model='pcie-root-port'>
           <model name='pcie-root-port'/></controller>
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
           <source file='/d'/><target dev='vda' bus='virtio'/></disk>
         <interface type='user'><mac address='52:54:00:00:00:01'/><model type='e1000'/>
           <rom file='/r'/></interface>
         <serial type='file'><source path='/log'/></serial>
         <channel type='unix'><source mode='bind' path='/c'/>
           <target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         <memballoon model='virtio'/>
       </devices></domain>";
    let mut domain = Domain::parse(xml).unwrap();
    domain.fill_defaults();
    domain.assign_addresses(&|_| true).unwrap();
    domain.assign_aliases();
    domain
}

/// The places of texts in that guest.
type Place = (&'static str, fn(&mut Domain, String));

const PLACES: [Place; 14] = [
    ("name", |d, text| d.name = text),
    ("machine", |d, text| d.os.machine = text),
    ("a machine's version", |d, text| {
        d.os.machine = format!("pc-q35-{text}");
    }),
    ("kernel", |d, text| d.os.kernel = Some(text)),
    ("initrd", |d, text| d.os.initrd = Some(text)),
    ("cmdline", |d, text| d.os.cmdline = Some(text)),
    ("cpu model", |d, text| {
        let name = text;
        let model = CpuModel {
            fallback: None,
            name,
        };
        d.cpu.as_mut().unwrap().model = Some(model);
    }),
    ("cpu feature", |d, text| {
        d.cpu.as_mut().unwrap().features[0].1 = text;
    }),
    ("image", |d, text| {
        d.devices.disks[0].source = Some(DiskSource::File(text));
    }),
    ("network card", |d, text| {
        d.devices.interfaces[0].model = Some(text);
    }),
    ("rom", |d, text| {
        let rom = d.devices.interfaces[0].info.rom.as_mut().unwrap();
        rom.file = Some(text);
    }),
    ("serial port's file", |d, path| {
        let append = None;
        d.devices.serials[0].backend = CharBackend::File { path, append };
    }),
    ("entropy", |d, text| d.devices.rngs[0].source = Some(text)),
    ("alias", |d, text| {
        // What refers to it goes along.
        d.devices.serials[0].info.alias = Some(text);
    }),
];

/// Which options there are, and which keys in each: as QEMU splits them.
fn shape(line: &CommandLine) -> Vec<(String, BTreeMap<String, usize>)> {
    const WHOLE: [&str; 4] = ["-kernel", "-initrd", "-append", "-uuid"];
    const FLAGS: [&str; 5] = [
        "-S",
        "-no-user-config",
        "-nodefaults",
        "-no-shutdown",
        "-no-reboot",
    ];
    let mut args = line.args.iter();
    let mut shape = Vec::new();
    while let Some(option) = args.next() {
        if FLAGS.contains(&option.as_str()) {
            shape.push((option.clone(), BTreeMap::new()));
            continue;
        }
        let value = args.next().unwrap();
        let mut keys = BTreeMap::new();
        if WHOLE.contains(&option.as_str()) {
            // One value, whatever it is.
        } else if value.starts_with('{') {
            let object: serde_json::Value = serde_json::from_str(value).unwrap();
            for key in object.as_object().unwrap().keys() {
                keys.insert(key.clone(), 1);
            }
        } else {
            // QEMU knows no doubled comma in a processor.
            let pieces = match option.as_str() {
                "-cpu" => value.split(',').map(str::to_owned).collect(),
                _ => split(value),
            };
            for (index, piece) in pieces.into_iter().enumerate() {
                let key = match piece.split_once('=') {
                    Some((key, _)) => key.to_owned(),
                    None => format!("without a key at {index}"),
                };
                *keys.entry(key).or_insert(0) += 1;
            }
        }
        shape.push((option.clone(), keys));
    }
    shape
}

/// Splits at single commas; a doubled one is a comma.
fn split(value: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            pieces.push(String::new());
        } else {
            pieces.last_mut().unwrap().push(c);
        }
    }
    pieces
}

fn line_with((_, put): Place, text: &str) -> Option<CommandLine> {
    let mut domain = guest();
    put(&mut domain, text.to_owned());
    let mut resources = Resources::default();
    resources.channels.insert("channel0".to_owned(), 5);
    command_line(&domain, &resources).ok()
}

proptest! {
    #[test]
    fn no_text_of_a_document_adds_an_option(
        place in 0..PLACES.len(),
        text in prop_oneof![
            "[a-z0-9,={}\"' -]{0,12}",
            "[a-z]{1,3}(,{1,3}[a-z]{1,3}=(on|off)){1,2}",
            "(-S|-daemonize|\\{\"driver\":\"x\"\\}|,|,,|=|\n)",
        ],
    ) {
        let place = PLACES[place];
        let Some(line) = line_with(place, &text) else {
            return Ok(()); // refused
        };
        let plain = ["word", "7.2", "pc-q35-7.2", "serial0"];
        let mut expected: Vec<_> = plain
            .iter()
            .filter_map(|plain| line_with(place, plain))
            .map(|line| shape(&line))
            .collect();
        // A feature's name is a key itself.
        let own_key = |shape: &mut Vec<(String, BTreeMap<String, usize>)>| {
            for (option, keys) in shape {
                if place.0 == "cpu feature" && option == "-cpu" {
                    let number = keys.values().sum();
                    *keys = BTreeMap::from([("any".to_owned(), number)]);
                }
            }
        };
        let mut shape = shape(&line);
        own_key(&mut shape);
        expected.iter_mut().for_each(own_key);
        prop_assert!(expected.contains(&shape), "{}: {text:?}\n{line}", place.0);
    }
}

#[test]
fn a_machine_with_options_of_its_own_is_refused() {
    let mut domain = guest();
    domain.os.machine = "pc-q35-7.2,graphics=off,dump-guest-core=on".to_owned();
    let error = command_line(&domain, &Resources::default()).unwrap_err();
    assert!(error.to_string().contains("graphics=off"), "{error}");
}

#[test]
fn a_controller_is_no_other_device() {
    let mut domain = guest();
    let mut controllers = domain.devices.controllers.iter_mut();
    let port = controllers
        .find(|c| c.index == 1 && c.kind == "pci")
        .unwrap();
    port.model_name = Some("pci-testdev".to_owned());
    let error = command_line(&domain, &Resources::default()).unwrap_err();
    assert!(error.to_string().contains("pci-testdev"), "{error}");
}
