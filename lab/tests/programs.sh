#!/bin/bash
# lab: pfs=1 timeout=200 group=programs
# The crates' own tests that need a real card or a real QEMU: crates/*/tests/lab_*.rs
set -eu
for program in /lab/run/bin/lab_*; do
    "$program" --ignored --test-threads=1
done
