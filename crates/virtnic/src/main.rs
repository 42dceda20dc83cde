//! virtnic
fn main() {}
