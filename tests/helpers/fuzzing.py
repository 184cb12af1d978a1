"""Files that were valid, and bytes that never were, for readers that must survive both."""

import random
import time
from collections.abc import Callable, Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Read = Callable[[bytes], object]
"""Reads one input; whatever it raises but the errors that are right is a fault."""

INPUTS_EACH = 50
"""Inputs that are made of each of hypothesis's examples, which take longer to draw than to try."""
SECONDS = 10
"""Processor time that one input may take; almost all take less than a millisecond."""
_NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 4095, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TEXTS = (b"0", b"-1", b"9" * 30, b"null", b"[]", b"{}", b'"', b"\\ud800", b"1e999", b"NaN", b",")


def fuzz(read: Read, samples: Mapping[str, bytes], *, inputs: int) -> None:
    """Read many inputs: samples of which a few places are changed, and bytes that are anything.

    Args:
        read: reads one; every error that leaves it fails the test.
        samples: valid files, by names that a failure tells.
        inputs: how many.
    """
    names = sorted(samples)

    @settings(
        max_examples=-(-inputs // INPUTS_EACH),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from([*names, ""]), st.integers(0, 2**64))
    def holds(name: str, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(INPUTS_EACH):
            if name:
                data = mutated(rng, samples[name], samples[rng.choice(names)])
            else:
                begin = samples[rng.choice(names)][: rng.choice((0, 0, 1, 2, 4, 6, 8))]
                data = begin + rng.randbytes(rng.choice((0, 1, 10, 100, 1000)))
            start = time.process_time()
            read(data)
            assert time.process_time() - start < SECONDS, f"{name}: {data[:100]!r} took too long"

    holds()


def mutated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` with a few changes, some of which take bytes of `other`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 100))
        match rng.randrange(9):
            case 0 | 1:
                changed[at : at + 1] = rng.randbytes(1)
            case 2:
                number, size = rng.choice(_NUMBERS), rng.choice((1, 2, 4, 8))
                order = rng.choice(("little", "big"))
                changed[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
            case 5:
                changed[at:at] = rng.randbytes(length)
            case 6:
                begin = rng.randrange(len(other) + 1)
                changed[at : at + length] = other[begin : begin + length]
            case 7:
                changed[at : at + length] = rng.choice(_TEXTS)
            case _:
                del changed[at:]
    return bytes(changed)
