"""Sources of images that lie, never end, or would take more than there is."""

import gzip
import io
import json
import os
import pickle
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ZEROS = "/dev/zero"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)


def png(size: int = 8, *, fill: int | None = None) -> bytes:
    """A picture, of one color if `fill` is given."""
    shape = (size, size, 3)
    rng = np.random.default_rng(size)
    pixels = rng.integers(0, 256, shape) if fill is None else np.full(shape, fill)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
    return file.getvalue()


class Member:
    """An entry of a zip's directory, which need not be true."""

    def __init__(
        self, name: str, data: bytes, *, size: int | None = None, at: int | None = None
    ) -> None:
        self.name, self.data, self.at = name.encode(), data, at
        self.is_packed = size is not None
        self.size = len(data) if size is None else size


def make_zip(members: Sequence[Member]) -> bytes:
    """A zip with these members; `at` is the number of the member whose bytes one shares."""
    body, directory = b"", b""
    places: list[int] = []
    for member in members:
        fixed = struct.pack(
            "<HHHHHIIIHH",
            *(20, 0, 8 if member.is_packed else 0, 0, 0),
            *(zlib.crc32(member.data), len(member.data), member.size, len(member.name), 0),
        )
        places.append(len(body) if member.at is None else places[member.at])
        if member.at is None:
            body += b"PK\3\4" + fixed + member.name + member.data
        directory += b"PK\1\2" + struct.pack("<H", 20) + fixed
        directory += struct.pack("<HHHII", 0, 0, 0, 0, places[-1]) + member.name
    end = struct.pack("<HHHHIIH", 0, 0, len(places), len(places), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def zeros_packed(num_bytes: int) -> bytes:
    """Deflated zeros; made at once, however many they are."""
    piece = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # The first piece ends at a byte, and later ones need nothing that precedes them.
    one = packer.compress(bytes(piece)) + packer.flush(zlib.Z_FULL_FLUSH)
    return one * (num_bytes // piece) + packer.flush()


def npy_header(descr: str, shape: Sequence[int]) -> bytes:
    """The beginning of a .npy file."""
    file = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def npz(**arrays: object) -> bytes:
    """An .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def instructions(code: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + code + b"."


def batch(**fields: object) -> bytes:
    """One of CIFAR's batches, with fields of one's own."""
    rng = np.random.default_rng(0)
    whole = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 3]} | fields
    return pickle.dumps({key.encode(): value for key, value in whole.items()}, protocol=2)


def batch_with_labels(code: bytes) -> bytes:
    """One of CIFAR's batches whose labels these instructions make."""
    return batch(labels="HERE").replace(b"X\x04\x00\x00\x00HERE", code)


def doubled(code: bytes, times: int) -> bytes:
    """Instructions that nest the value of `code` twice in itself, again and again."""
    return code + b"q\x00h\x00\x86" * times


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive, packed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(file.getvalue(), 1, mtime=0)


def tar_header(name: str, kind: bytes, size: int, *, link: str = "") -> bytes:
    """A header whose size need not be true."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def jpeg(width: int, height: int, *, announced: tuple[int, int] | None = None, **how: int) -> bytes:
    """A JPEG whose header may announce another width and height."""
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", **how)
    data = file.getvalue()
    return data if announced is None else announcing(data, *announced)


def announcing(data: bytes, width: int, height: int) -> bytes:
    """A JPEG with another width and height in its header."""
    at = next(i for kind in (0xC0, 0xC2) if (i := data.find(bytes((0xFF, kind)))) > 0)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


Make = Callable[[Path], Path]
"""Makes a source in an empty folder and gives its path."""


def _file(name: str, data: bytes | Callable[[], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data())
        return path

    return make


def _sparse(name: str, data: bytes, size: int) -> Make:
    """A file of `size` bytes that begins with `data`."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        os.truncate(folder / name, size)
        return folder / name

    return make


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def _zeros(path: Path) -> None:
    path.symlink_to(ZEROS)


def _link_to_pipe(path: Path) -> None:
    _pipe(path.with_name("pipe"))
    path.symlink_to("pipe")


def _special(make: Callable[[Path], None], name: str | None = None) -> Make:
    """Something that is not a regular file: the source itself, or a file of a folder of images."""

    def special(folder: Path) -> Path:
        if name is None:
            make(folder / "source")
            return folder / "source"
        for i in range(3):
            (folder / f"i{i}.png").write_bytes(png())
        make(folder / name)
        return folder

    return special


def _folder(files: dict[str, bytes]) -> Make:
    def make(folder: Path) -> Path:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    return make


def _labeled(labels: object) -> Make:
    """A zip of two images with labels in dataset.json."""
    data = labels if isinstance(labels, bytes) else json.dumps({"labels": labels}).encode()
    images = [Member(f"{i}.png", png()) for i in range(2)]
    return _file("set.zip", make_zip([*images, Member("dataset.json", data)]))


def _side_file_bomb(name: str) -> Make:
    size = 600 << 20
    members = [Member("0.png", png()), Member(name, zeros_packed(size), size=size)]
    return _file("set.zip", lambda: make_zip(members))


def _overlapping() -> bytes:
    data = png(1024, fill=0)
    return make_zip([Member(f"{i}.png", data, at=0 if i else None) for i in range(200)])


def _member(data: bytes, **how: int) -> Make:
    """An .npz of one array."""
    return _file("set.npz", make_zip([Member("images.npy", data, **how)]))


def _npy_bomb() -> bytes:
    size = 4000 << 20
    return make_zip([Member("images.npy", zeros_packed(size), size=size)])


_CHAINED = tar_header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 2) + b"a".ljust(512, b"\0")
_BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["batches.meta"]

HOSTILE: dict[str, tuple[Make, str]] = {
    # Special files.
    "source: pipe": (_special(_pipe), "it is a named pipe, not a regular file"),
    "source: socket": (_special(_socket), "it is a socket, not a regular file"),
    "source: /dev/zero": (_special(_zeros), "it is a device, not a regular file"),
    "source: link to a pipe": (_special(_link_to_pipe), "it is a named pipe"),
    "image: pipe": (_special(_pipe, "i9.png"), "i9.png cannot be read: it is a named pipe"),
    "image: socket": (_special(_socket, "i9.png"), "i9.png cannot be read: it is a socket"),
    "image: /dev/zero": (_special(_zeros, "i9.png"), "i9.png cannot be read: it is a device"),
    "labels: pipe": (_special(_pipe, "dataset.json"), "dataset.json cannot be read: it is a named"),
    "labels: /dev/zero": (_special(_zeros, "dataset.json"), "it is a device, not a regular file"),
    "manifest: pipe": (_special(_pipe, "manifest.json"), "manifest.json cannot be read: it is a"),
    "manifest: /dev/zero": (_special(_zeros, "manifest.json"), "it is a device"),
    # Zips.
    "zip: labels of 600 MB": (_side_file_bomb("dataset.json"), "is said to be 629,145,600 bytes"),
    "zip: manifest of 600 MB": (_side_file_bomb("manifest.json"), "is said to be 629,145,600 byte"),
    "zip: 200 members in one place": (_file("set.zip", _overlapping), "overlaps what comes after"),
    "zip: impossible size": (
        _file("set.zip", make_zip([Member("0.png", bytes(10), size=1 << 31)])),
        "is said to unpack from 10 bytes to 2,147,483,648, which is impossible",
    ),
    "zip: empty": (_file("set.zip", make_zip([])), "holds no images"),
    # Arrays.
    "npy: no height": (_file("a.npy", npy_header("|u1", [4, 3, 0, 8])), "no images"),
    "npy: 3 PB": (_file("a.npy", npy_header("|u1", [10**9, 3, 1000, 1000])), "0 bytes are there"),
    "npy: 10^90 bytes": (_file("a.npy", npy_header("|u1", [10**30] * 3)), "announces uint8"),
    "npy: negative": (_file("a.npy", npy_header("|u1", [-4, -3, 8, 8])), "announces uint8 [-4"),
    "npy: 200 dimensions": (_file("a.npy", npy_header("|u1", [1] * 200)), "announces uint8 [1"),
    "npy: more than announced": (
        _file("a.npy", npy_header("|u1", [1, 3, 8, 8]) + bytes(193)),
        "193 bytes are there",
    ),
    "npy: deep header": (
        _file("a.npy", b"\x93NUMPY\x01\x00\x40\x1f" + b"[" * 8000),
        "is not a readable array",
    ),
    "npy: records": (
        _file("a.npy", npy_header("|V12", [1, 3, 4, 4]) + bytes(576)),
        "which are not images",
    ),
    "npz: 3 PB": (_member(npy_header("|u1", [10**9, 3, 1000, 1000])), "0 bytes are there"),
    "npz: 4 GB of zeros": (_file("set.npz", _npy_bomb), "of memory and"),
    "npz: no width": (_member(npy_header("|u1", [4, 3, 8, 0])), "which show nothing"),
    "npz: images twice": (
        _file(
            "set.npz",
            make_zip([Member("images.npy", npy_header("|u1", [0, 3, 8, 8]))] * 2),
        ),
        "holds two files with the same name",
    ),
    "npz: names of 10^11": (
        _file(
            "set.npz",
            make_zip(
                [
                    Member("images.npy", npy_header("|u1", [4, 3, 8, 8]) + PIXELS.tobytes()),
                    Member("names.npy", npy_header(f"<U{10**8}", [1000])),
                ]
            ),
        ),
        "0 bytes are there",
    ),
    "npz: names of numbers": (
        _file("set.npz", npz(images=PIXELS, names=np.arange(4))),
        "one text per image is needed",
    ),
    "npz: names of no characters": (
        _file(
            "set.npz",
            make_zip(
                [
                    Member("images.npy", npy_header("|u1", [1, 3, 8, 8]) + bytes(192)),
                    Member("names.npy", npy_header("<U1", [1]) + struct.pack("<I", 0x110000)),
                ]
            ),
        ),
        "names in",
    ),
    "manifest: 12 MB of lists": (
        _folder({"0.png": png(), "manifest.json": b"[" + b"[]," * (4 << 20) + b"[]]"}),
        "it has 12,582,916 bytes; at most",
    ),
    "npz: names in rows": (
        _file("set.npz", npz(images=PIXELS, names=[["a"]] * 4)),
        "one text per image is needed",
    ),
    # Labels.
    **{
        f"npz: labels of {kind}": (
            _file("set.npz", npz(images=PIXELS, labels=np.array([0, 1, 2, label], dtype))),
            message,
        )
        for kind, label, dtype, message in (
            ("2^31 - 1", 2**31 - 1, "i4", "holds the label 2147483647; labels count from 0, and"),
            ("2^40", 2**40, "i8", "holds the label 1099511627776; labels count from 0, and at"),
            ("2^63", 2**63, "u8", "holds the label 9223372036854775808; labels count from 0"),
            ("-1", -1, "i1", "holds the label -1; labels count from 0"),
            ("floats", 3, "f4", "are float32 [4]; one integer per image is needed"),
            ("texts", "a", "U1", "one integer per image is needed"),
            ("yes and no", True, "?", "one integer per image is needed"),
        )
    },
    **{
        f"json: labels of {kind}": (_labeled([["0.png", 0], ["1.png", label]]), message)
        for kind, label, message in (
            ("2^31 - 1", 2**31 - 1, "holds the label 2147483647; labels count from 0, and"),
            ("2^40", 2**40, "holds the label 1099511627776; labels count from 0, and at most"),
            ("2^63", 2**63, "holds the label 9223372036854775808; labels count from 0"),
            ("-2^70", -(2**70), "holds the label -1180591620717411303424; labels count from 0"),
            ("floats", 1.0, "labels 1.png as 1.0; a class index (an integer) is needed"),
            ("texts", "cat", "labels 1.png as 'cat'; a class index (an integer) is needed"),
            ("lists", [1], "labels 1.png as a list; a class index (an integer) is needed"),
            ("yes and no", True, "labels 1.png as True; a class index (an integer) is needed"),
        )
    },
    "json: names of numbers": (_labeled([["0.png", 0], [1, 1]]), "has no label for 1.png"),
    "json: a name twice": (
        _labeled([["0.png", 0], ["1.png", 1], ["1.png", 0]]),
        "gives two labels to '1.png'",
    ),
    "json: a number of entries": (_labeled(7), 'neither {"labels"'),
    "json: deep": (_labeled(b"[" * 100_000), 'neither {"labels"'),
    "json: 5,000 digits": (_labeled(b'{"labels": ' + b"9" * 5000 + b"}"), 'neither {"labels"'),
    "json: not UTF-8": (_labeled(b"\xff\xfe\x00"), 'neither {"labels"'),
    "manifest: wrong types": (
        _folder({"0.png": png(), "manifest.json": b'{"schema": "memaudit.dataset/1"}'}),
        "its memaudit, sources, choices, names and class_names are malformed",
    ),
    # idx.
    "idx: no size": (_file("a-idx3-ubyte", struct.pack(">I3I", 0x803, 4, 0, 0)), "show nothing"),
    "idx: 255 dimensions": (
        _file("a-idx3-ubyte", struct.pack(">I255I", 0x8FF, *[1] * 255) + b"\0"),
        "announces 255 dimensions",
    ),
    "idx: 10^28 bytes": (
        _file("a-idx3-ubyte", struct.pack(">I3I", 0x803, *[2**31] * 3)),
        "and holds fewer",
    ),
    "idx: 60 GB packed": (
        _sparse(
            "a-idx3-ubyte.gz",
            gzip.compress(struct.pack(">I3I", 0x803, 10**6, 10, 6000), mtime=0),
            60 << 20,
        ),
        "of memory and",
    ),
    # CIFAR.
    "cifar: deep tuple as a key": (
        _file("b", instructions(b"}N" + b"\x85" * 100_000 + b"Ns")),
        "has a tuple as a key",
    ),
    "cifar: deeper than any batch": (
        _file("b", instructions(b"}N" + b"\x85" * 3_000_000 + b"Ns")),
        "more than 1,000,000 instructions",
    ),
    "cifar: 2^60 tuples as a key": (
        _file("b", instructions(b"}" + doubled(b")", 60) + b"Ns")),
        "has a tuple as a key",
    ),
    "cifar: 2^60 tuples as a class": (
        _folder(
            {
                **{name: batch() for name in _BATCHES[:5]},
                "batches.meta": instructions(b"}U\x0blabel_names]" + doubled(b")", 60) + b"as"),
            }
        ),
        "has a tuple as the name of a class",
    ),
    "cifar: list in itself as labels": (
        _file("b", batch_with_labels(b"]q\xf0(h\xf0h\xf0h\xf0h\xf0e")),
        "holds the label a list; integers are needed",
    ),
    "cifar: 2^60 tuples as a label": (
        _file("b", batch_with_labels(b"](" + doubled(b")", 60) + b"e")),
        "holds the label a tuple; integers are needed",
    ),
    "cifar: ragged labels": (
        _file("b", batch(labels=[0, 1, 2, [3]])),
        "holds the label a list; integers are needed",
    ),
    "cifar: labels of texts": (_file("b", batch(labels=["0"] * 4)), "holds the label '0'; integer"),
    "cifar: labels of 2^40": (
        _file("b", batch(labels=[0, 1, 2, 2**40])),
        "holds the label 1099511627776; labels count from 0, and",
    ),
    "cifar: labels of 2^63": (_file("b", batch(labels=[0, 1, 2, 2**63])), "9223372036854775808"),
    "cifar: labels yes and no": (_file("b", batch(labels=[True] * 4)), "holds the label True"),
    "cifar: one text encoded 20,000 times": (
        _file(
            "b",
            instructions(
                b"}U\x01a](c_codecs\nencode\nq\x02X\x00\x00\x10\x00"
                + b"a" * (1 << 20)
                + b"q\x00X\x06\x00\x00\x00latin1q\x01\x86R"
                + b"h\x02h\x00h\x01\x86R" * 20_000
                + b"es"
            ),
        ),
        "its pickle uses the same text for many calls",
    ),
    "cifar: 50 MB of nothing": (
        _file("b", instructions(b"N" * 50_000_000)),
        "more than 1,000,000 instructions",
    ),
    # Tars.
    "tar: 3,000 chained names": (
        _file("a.tar", gzip.compress(_CHAINED * 3000, mtime=0)),
        "is damaged: a header in it describes too much",
    ),
    "tar: loop of links": (
        _file(
            "a.tar",
            b"".join(
                tar_header(f"x/{name}", tarfile.SYMTYPE, 0, link=other)
                for name, other in zip(_BATCHES, _BATCHES[1:] + _BATCHES[:1], strict=True)
            )
            + bytes(1024),
        ),
        "is not CIFAR's archive for Python",
    ),
    "tar: link to a system's file": (
        _file(
            "a.tar",
            b"".join(
                tar_header(f"x/{name}", tarfile.SYMTYPE, 0, link="/etc/passwd") for name in _BATCHES
            )
            + bytes(1024),
        ),
        "is not CIFAR's archive for Python",
    ),
    "tar: extended header of 6 GB": (
        _file(
            "a.tar", gzip.compress(tar_header("p", tarfile.XHDTYPE, 6 << 30) + bytes(9999), mtime=0)
        ),
        "p is said to have 6,442,450,944 bytes, and 9,999 are there",
    ),
    "tar: member of 6 GB": (
        _file("a.tar", tar_header("data_batch_1", tarfile.REGTYPE, 6 << 30) + bytes(9999)),
        "data_batch_1 is said to have 6,442,450,944 bytes",
    ),
    "tar: unpacks to 6 GB": (
        _file(
            "a.tar.gz",
            lambda: (
                gzip.compress(tar_header("x", tarfile.REGTYPE, 6 << 30), mtime=0)
                + (gzip.compress(bytes(64 << 20), 9, mtime=0) * 96)
            ),
        ),
        "unpacks to more than 895 MB, which no set of images does",
    ),
    "tar: negative size": (
        _file("a.tar", tar_header("data_batch_1", tarfile.REGTYPE, -512) * 4 + bytes(1024)),
        "cannot be unpacked",
    ),
    "tar: sparse": (
        _file("a.tar", tar_header("data_batch_1", tarfile.GNUTYPE_SPARSE, 512) + bytes(2048)),
        "is not CIFAR's archive for Python",
    ),
    "tar: a batch twice": (
        _file(
            "a.tar",
            tar((tarfile.TarInfo("data_batch_1"), b"1"), (tarfile.TarInfo("data_batch_1"), b"2")),
        ),
        "holds two files called data_batch_1",
    ),
    # JPEG.
    "jpeg: 16×16 said to be 8000×8000": (
        _folder({"0.jpg": jpeg(16, 16, announced=(8000, 8000))}),
        "0.jpg cannot be decoded: its header announces 8000×8000 pixels",
    ),
}
"""Name → what makes the source, and a part of the message that refuses it."""
