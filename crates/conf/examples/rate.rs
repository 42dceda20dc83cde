//! How many documents a second are read, and read and written: `rate REPEATS FILE…`. Prints two
//! numbers of microseconds, each for all files once, at best.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use conf::{Domain, Form, Network, NetworkPort, NodeDevice};

/// Reads a document by its root element; its text again, if that is wanted.
fn read(text: &str, write: bool) -> Option<String> {
    let domain = |domain: Domain| write.then(|| domain.to_xml(Form::Inactive));
    let root = |name: &str| text.find(name).unwrap_or(usize::MAX);
    let network = root("<network");
    if root("<domain ") < network.min(root("<device>")) {
        Domain::parse(text).ok().and_then(domain)
    } else if root("<networkport") <= network && network != usize::MAX {
        let port = NetworkPort::parse(text).ok()?;
        write.then(|| port.to_xml())
    } else if root("<device>") < network {
        let device = NodeDevice::parse(text).ok()?;
        write.then(|| device.to_xml())
    } else {
        let network = Network::parse(text).ok()?;
        write.then(|| network.to_xml(Form::Inactive))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let repeats: u32 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let texts: Vec<String> = arguments
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    if repeats == 0 || texts.is_empty() {
        println!("usage: rate REPEATS FILE…");
        return ExitCode::from(2);
    }
    // What is refused would be quick, and measure nothing.
    if let Some(refused) = texts.iter().find(|text| read(text, true).is_none()) {
        println!("can't be read: {refused}");
        return ExitCode::FAILURE;
    }
    for write in [false, true] {
        let rounds = (0..repeats).map(|_| {
            let start = Instant::now();
            for text in &texts {
                black_box(read(black_box(text), write));
            }
            start.elapsed()
        });
        // The quickest: what else the machine does is not to be measured.
        let best = rounds.min().unwrap_or_default();
        println!("{:.1}", best.as_secs_f64() * 1e6);
    }
    ExitCode::SUCCESS
}
