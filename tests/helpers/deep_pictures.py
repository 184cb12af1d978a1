"""Image files of 16-bit RGB, which Pillow cannot write."""

import struct
import zlib

import numpy as np


def deep_png(values: np.ndarray) -> bytes:
    """16-bit RGB [H, W, 3], which Pillow cannot write."""
    H, W, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def deep_tiff(
    values: np.ndarray, *, packed: bool, predictor: int, order: str, orientation: int = 1
) -> bytes:
    """16-bit RGB [H, W, 3] in strips of four rows, which Pillow cannot write.

    With a fourth number in each pixel, [H, W, 4], that one has no meaning.
    """
    H, W, samples = values.shape
    if predictor == 2:
        values = np.concatenate([values[:, :1], np.diff(values, axis=1)], axis=1)
    strips = [values[i : i + 4].astype(f"{order}u2").tobytes() for i in range(0, H, 4)]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    counts = [len(strip) for strip in strips]
    offsets = [8 + sum(counts[:i]) for i in range(len(counts))]
    shorts = {258: [16] * samples, 259: [8 if packed else 1], 262: [2], 274: [orientation]}
    shorts |= {277: [samples], 278: [4], 284: [1]} | ({338: [0]} if samples == 4 else {})
    tags = {256: [W], 257: [H], 273: offsets, 279: counts, 317: [predictor], **shorts}
    start = 8 + sum(counts) + sum(counts) % 2
    extra, entries = b"", b""
    more = start + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, form = (3, "H") if tag in shorts or tag == 317 else (4, "I")
        value = struct.pack(f"{order}{len(tags[tag])}{form}", *tags[tag])
        if len(value) > 4:
            place, extra = struct.pack(f"{order}I", more + len(extra)), extra + value
        else:
            place = value.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(tags[tag])) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    body = b"".join(strips).ljust(start - 8, b"\0")
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + extra
