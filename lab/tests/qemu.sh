#!/bin/bash
# lab: pfs=1 timeout=600 group=qemu
# What the qemu crate asks of a real QEMU: crates/qemu/tests/lab_qemu.rs. Each of its guests runs
# without hardware help, on a machine that has none either: minutes where both cores are busy.
set -eu
for program in /lab/run/bin/lab_qemu*; do
    "$program" --ignored --test-threads=1
done
