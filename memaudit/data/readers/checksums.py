"""CRC-32C (Castagnoli), which neither Python nor numpy have.

A checksum is linear over GF(2): that of a block is the exclusive or of what each byte at its place
adds. Blocks are looked up in one table, and put together by what 4,096 zeros do to a checksum.
https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4
"""

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78
_BLOCK = 4096
_ONES = 0xFFFFFFFF


@cache
def _of_bytes() -> np.ndarray:
    """What a byte adds at the end of the data, uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


@cache
def _of_places() -> np.ndarray:
    """What a byte adds at each place of a block, uint32 [4096, 256]."""
    one = _of_bytes()
    table = np.empty((_BLOCK, 256), np.uint32)
    table[-1] = one
    for place in range(_BLOCK - 2, -1, -1):
        after = table[place + 1]
        table[place] = (after >> 8) ^ one[after & 255]
    return table


@cache
def _of_states() -> np.ndarray:
    """What becomes of each byte of a checksum after a block of zeros, uint32 [4, 256]."""
    table = np.empty((4, 256), np.uint32)
    for byte in range(4):
        # A checksum acts as if it had been added to the first four bytes that follow.
        table[byte] = _of_places()[byte]
    return table


def crc32c(data: bytes) -> int:
    """The checksum of `data`."""
    if len(data) < 64:
        crc = _ONES
        table = _of_bytes()
        for byte in data:
            crc = (crc >> 8) ^ int(table[(crc ^ byte) & 255])
        return crc ^ _ONES
    values = np.frombuffer(data, np.uint8).copy()
    values[:4] ^= 255  # the first state, all ones
    padded = np.zeros(-(-len(values) // _BLOCK) * _BLOCK, np.uint8)
    padded[len(padded) - len(values) :] = values  # zeros before the first byte change nothing
    blocks = padded.reshape(-1, _BLOCK)
    table, places = _of_places(), np.arange(_BLOCK)
    states = _of_states()
    crc = 0
    for block in blocks:
        own = int(np.bitwise_xor.reduce(table[places, block]))
        crc = own ^ int(
            states[0, crc & 255]
            ^ states[1, crc >> 8 & 255]
            ^ states[2, crc >> 16 & 255]
            ^ states[3, crc >> 24]
        )
    return crc ^ _ONES
