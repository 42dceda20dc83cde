//! virtnic's own calls: who has what, which NICs there are, and what records, kernel and guests
//! don't agree about.

mod counters;
mod differences;
mod nics;
mod pool_rows;
mod who;
