#!/bin/bash
# lab: pfs=1 timeout=300 group=control
# The demo's story, as a test.
exec bash "$(dirname "$0")/../demo.sh"
