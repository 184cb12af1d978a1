"""File permissions that hold for root as well, who runs the tests in a container."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
"""What lets root write, and read, whatever the permissions say: linux/capability.h."""


@contextmanager
def permissions_hold() -> Iterator[None]:
    """Give up, for a while, the right to ignore permissions; see capset(2)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    this_thread = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    # Effective, permitted and inheritable capabilities 0 to 31, then 32 to 63.
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(this_thread, sets) == 0, os.strerror(ctypes.get_errno())
    effective = sets[0]
    sets[0] = effective & ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    assert libc.capset(this_thread, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(this_thread, sets) == 0, os.strerror(ctypes.get_errno())
