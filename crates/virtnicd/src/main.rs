//! virtnicd
fn main() {}
