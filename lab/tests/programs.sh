#!/bin/bash
# lab: pfs=1 timeout=300 group=programs
# The crates' own tests that need a real card: crates/*/tests/lab_*.rs. Those that need a real QEMU
# are qemu.sh's.
set -eu
for program in /lab/run/bin/lab_*; do
    case $program in */lab_qemu*) continue ;; esac
    "$program" --ignored --test-threads=1
done
