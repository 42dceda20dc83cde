//! Any text, read as a document of this kind.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "each target has one of them")]
mod checks;

libfuzzer_sys::fuzz_target!(|text: &str| checks::nodedev(text));
