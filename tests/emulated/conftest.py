"""Tests on the pretended CUDA device, which `make test-emulated` runs in a process of their own."""

import sys

collect_ignore_glob = [] if "helpers.pretended_cuda" in sys.modules else ["test_*.py"]
