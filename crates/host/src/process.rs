//! Starting a process with limits, identity and descriptors of its own.
