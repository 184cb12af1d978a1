"""Files made to do harm: each is refused by its cause, runs nothing, and costs little."""

import io
import os
import pickle
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.checkpoints import inspect_checkpoint, open_checkpoint

MAX_SECONDS = 10  # On a slow machine that others use too; each takes far less than one.
MAX_KILOBYTES = 200_000


@pytest.fixture(autouse=True)
def nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No file but the hostile one, no long time, no large memory."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    started = time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MAX_KILOBYTES
    assert list(folder.iterdir()) == []
    assert not [path for path in tmp_path.iterdir() if path.name not in ("current", "bad.pkl")]


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def proto(body: bytes) -> bytes:
    return b"\x80\x04" + body


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


SYSTEM = stack_global("os", "system") + text("touch ran") + b"\x85R"
UNSAFE = {
    "a call of os.system": (proto(SYSTEM + b"."), "names the global os.system"),
    "the same by its C name": (
        pickle.dumps({"ema": Call(os.system, "touch ran")}),
        "names the global posix.system",
    ),
    "eval": (pickle.dumps(Call(eval, "open('ran', 'w')")), "names the global builtins.eval"),
    "a chain of getattr": (
        pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
        "builtins.getattr and names the global builtins.__import__",
    ),
    "a dotted name through an admitted module": (
        proto(stack_global("torch._utils", "os.system") + text("x") + b"\x85R."),
        "torch._utils.os.system",
    ),
    "an admitted name cut elsewhere": (
        proto(stack_global("torch", "_utils._rebuild_tensor_v2") + b")R."),
        "names the global torch._utils._rebuild_tensor_v2",
    ),
    "a dotted import of torch's": (
        proto(stack_global("torch._utils", "_import_dotted_name") + text("os.system") + b"\x85R."),
        "_import_dotted_name",
    ),
    "torch's own unsafe loader": (
        proto(stack_global("torch", "load") + text("x") + b"\x85R."),
        "names the global torch.load",
    ),
    "a global of protocol 0": (b"cos\nsystem\n(S'touch ran'\ntR.", "names the global os.system"),
    "INST": (b"(S'touch ran'\nios\nsystem\n.", "INST and names the global os.system"),
    "OBJ": (b"\x80\x02(cos\nsystem\nX\x01\0\0\0xo.", "os.system and uses the instruction OBJ"),
    "NEWOBJ_EX": (
        proto(stack_global("os", "system") + b")}\x92."),
        "os.system and uses the instruction NEWOBJ_EX",
    ),
    "a code of the extension registry": (proto(b"\x82\x01."), "uses the instruction EXT1"),
    "a wide code of the extension registry": (proto(b"\x84\x01\0\0\0."), "instruction EXT4"),
    "a persistent id where none are used": (proto(text("x") + b"Q."), "uses a persistent id"),
    "a persistent id of protocol 0": (proto(b"Pos.system\n."), "uses the instruction PERSID"),
    "a call of something that is not a global": (proto(text("x") + b")R."), "calls 'x'"),
    "a call of what may only be named": (
        proto(stack_global("torch", "FloatStorage") + b")R."),
        "calls torch.FloatStorage",
    ),
    "a state for a foreign object": (
        proto(text("x") + b"}" + text("a") + b"Nsb."),
        "sets attributes of 'x'",
    ),
    "a state for a global": (
        proto(stack_global("torch", "FloatStorage") + b"}" + text("a") + b"Nsb."),
        "sets attributes of a Global",
    ),
    "a state for a dict": (proto(b"}}" + text("__class__") + b"Nsb."), "sets attributes of a dict"),
    "items for a global": (
        proto(stack_global("torch", "FloatStorage") + b"Na."),
        "puts items into a Global",
    ),
    "a codec that is code": (
        proto(stack_global("_codecs", "encode") + text("x") + text("rot13") + b"\x86R."),
        "other than a short text as latin1",
    ),
    "a numpy dtype of objects": (
        proto(stack_global("numpy", "dtype") + text("O8") + b"\x89\x88\x87R."),
        "not a plain number",
    ),
    "a defaultdict whose values a function would make": (
        proto(
            stack_global("collections", "defaultdict") + stack_global("os", "getcwd") + b"\x85R."
        ),
        "names the global os.getcwd",
    ),
    "a defaultdict whose values a record would make": (
        proto(
            stack_global("collections", "defaultdict")
            + stack_global("argparse", "Namespace")
            + b"\x85R."
        ),
        "whose values something else would make",
    ),
    "a namespace made from arguments": (
        proto(stack_global("argparse", "Namespace") + text("x") + b"\x85R."),
        "builds a Namespace from arguments",
    ),
    "a parser instead of what it gives": (
        proto(stack_global("argparse", "ArgumentParser") + b")R."),
        "names the global argparse.ArgumentParser",
    ),
    "a path that would be opened": (
        proto(stack_global("pathlib", "PosixPath.read_text") + b")R."),
        "names the global pathlib.PosixPath.read_text",
    ),
    "a random generator of another make": (
        proto(
            stack_global("numpy.random._pickle", "__generator_ctor")
            + stack_global("argparse", "Namespace")
            + b"\x85R."
        ),
        "a random generator that is not one of numpy's",
    ),
    "a type that is called": (
        proto(stack_global("builtins", "dict") + b")R."),
        "calls builtins.dict",
    ),
    "a dict with arguments": (
        proto(stack_global("collections", "OrderedDict") + b"]\x85R."),
        "builds a dict from arguments",
    ),
    "a name that would move the cursor": (
        proto(text("os\x1b[2J") + text("system") + b"\x93)R."),
        r"os\\x1b\[2J.system",
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_only_running_code_could_give_is_refused_by_name(tmp_path, name):
    content, message = UNSAFE[name]
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(UnsafeCheckpointError, match=message):
        open_checkpoint(path)
    info = inspect_checkpoint(path)
    assert not info.safe
    assert info.problem is not None


def test_all_names_are_told_and_not_only_the_first(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps([Call(eval, "1"), {"a": Call(os.system, "x")}, Call(exec, "2")]))
    with pytest.raises(UnsafeCheckpointError) as caught:
        open_checkpoint(path)
    for name in ("builtins.eval", "posix.system", "builtins.exec"):
        assert name in str(caught.value)
        assert name in inspect_checkpoint(path).globals


def legacy_stream(body: bytes, machine: bytes = b"}X\x0d\0\0\0little_endian\x88s.") -> bytes:
    """A stream of torch.save's with `body` for the object and what follows it."""
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    return magic + b"\x80\x02M\xe9\x03." + b"\x80\x02" + machine + body


def storage(key: bytes = b"0", count: int = 1, kind: bytes = b"FloatStorage") -> bytes:
    """The object of a stream: one storage; then the list of keys."""
    persistent = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX\x01\0\0\0" + key
    persistent += b"X\x03\0\0\0cpu\x8a\x08" + struct.pack("<q", count) + b"NtQ."
    return b"\x80\x02" + persistent + b"\x80\x02]X\x01\0\0\0" + key + b"a."


def nested(stream: bytes) -> bytes:
    """A snapshot's pickle with `stream` for a tensor's storage."""
    load = stack_global("torch.storage", "_load_from_bytes")
    return proto(load + b"B" + struct.pack("<I", len(stream)) + stream + b"\x85R.")


def zipped(stem: str = "archive", **entries: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{stem}/{name.replace('_pkl', '.pkl')}", content)
    return out.getvalue()


def with_zip_size(size: int) -> bytes:
    """A zip archive whose data.pkl announces `size` bytes."""
    content = bytearray(zipped(data_pkl=b"N."))
    directory = content.index(b"PK\1\2")
    content[directory + 20 : directory + 28] = struct.pack("<II", size, size)
    return bytes(content)


def compressed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    return out.getvalue()


def overlapping() -> bytes:
    """A zip archive with an entry inside the data of another."""
    inner = zipped(inner=b"N" * 1000)
    directory, end = inner.index(b"PK\1\2"), inner.index(b"PK\5\6")
    content = zipped(outer=inner[:directory])
    position, close = content.index(inner[:directory]), content.rindex(b"PK\5\6")
    entry = inner[directory : directory + 42] + struct.pack("<I", position)
    entry += inner[directory + 46 : end]
    closing = bytearray(content[close:])
    closing[8:12] = struct.pack("<HH", 2, 2)
    return content[:close] + entry + closing


def wrong_checksum() -> bytes:
    return zipped(data_pkl=b"\x80\x02N.").replace(b"\x80\x02N.", b"\x80\x02\x88.")


def tensor(shape: bytes, stride: bytes, offset: bytes = b"K\0") -> bytes:
    """A snapshot's tensor over a storage of one element."""
    stream = legacy_stream(storage()) + struct.pack("<q", 1) + b"\0" * 4
    inner = nested(stream)[2:-1]
    arguments = b"(" + inner + offset + shape + stride + b"\x89}t"
    return proto(stack_global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R.")


ARRAY = stack_global("numpy._core.multiarray", "_reconstruct") + (
    stack_global("numpy", "ndarray") + b"K\0\x85C\1b\x87R"
)
FLOAT32 = stack_global("numpy", "dtype") + text("f4") + b"\x89\x88\x87R"

BROKEN = {
    "a memo index of 2^31": (proto(b"Nr\xff\xff\xff\x7f."), "a format that memaudit does not know"),
    "bytes of announced 2^62": (proto(b"\x8e" + struct.pack("<Q", 2**62)), "cut short"),
    "bytes of announced 4 GB": (proto(b"B\xff\xff\xff\xff"), "announces 4,294,967,295 bytes"),
    "a text of announced 2^62": (proto(b"\x8d" + struct.pack("<Q", 2**62)), "cut short"),
    "an integer of a megabyte": (proto(b"\x8b\0\0\x10\0" + b"\1" * (1 << 20)), "1,048,576 bytes"),
    "a text of two megabytes": (proto(b"X\0\0\x20\0" + b"a" * (2 << 20)), "2,097,152 bytes"),
    "marks without end": (proto(b"(" * 100_000), "nests more than 256"),
    "too many instructions": (proto(b"N" * 1_100_000 + b"."), "more than 1,000,000 instructions"),
    "tuples nested a hundred thousand deep": (
        proto(b")" + b"\x85" * 100_000 + b"."),
        "a format that memaudit does not know",
    ),
    "a billion laughs": (
        proto(b"]\x94" + b"".join(b"](h%ch%ce\x94" % (i, i) for i in range(100)) + b"."),
        "a format that memaudit does not know",
    ),
    "a key whose hash would never end": (
        proto(b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60)) + b"}h<Ns."),
        "a tuple as a key",
    ),
    "one list made a set again and again": (
        proto(
            b"](" + b"K\1" * 100_000 + b"e\x85\x94" + stack_global("builtins", "set") + b"\x94"
            b"h\0R" + b"h\1h\0R" * 100_000 + b"."
        ),
        "more than 1,000,000 instructions",
    ),
    "numbers with one hash as keys": (
        proto(
            b"}("
            + b"".join(
                b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N"
                for i in range(1, 200_000)
            )
            + b"u."
        ),
        "a key of 61 bits",
    ),
    "numbers with one hash in a set": (
        proto(
            stack_global("builtins", "set")
            + b"]("
            + b"".join(
                b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") for i in range(1, 200_000)
            )
            + b"e\x85R."
        ),
        "a key of 61 bits",
    ),
    "one text encoded again and again": (
        proto(
            b"](X\0\0\x0f\0"
            + b"a" * 983_040
            + b"\x94"
            + (stack_global("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R") * 100
            + b"e."
        ),
        "uses the same text for many calls",
    ),
    "one tuple the shape of many arrays": (
        proto(
            b"(" + b"K\1" * 200_000 + b"t\x94" + ARRAY + b"\x94"
            b"](" + (b"h\1" + b"(K\1h\0" + FLOAT32 + b"\x89C\4\0\0\0\0tb") * 1_000 + b"e."
        ),
        "numpy array that is not plain numbers",
    ),
    "one path of many parts": (
        proto(
            b"(" + b"\x8c\1a" * 200_000 + b"t\x94"
            b"](" + (stack_global("pathlib", "PosixPath") + b"h\0R") * 1_000 + b"e."
        ),
        "a path that is not a few texts",
    ),
    "a size of many axes": (
        proto(stack_global("torch", "Size") + b"(" + b"K\1" * 200_000 + b"t\x85R."),
        "not a few integers",
    ),
    "a name of a megabyte": (
        proto(b"X\0\0\x0f\0" + b"a" * 983_040 + text("b") + b"\x93."),
        "is not a name",
    ),
    "a value that was never stored": (proto(b"h\5."), "never stored"),
    "an end without values": (proto(b"."), "a value that is not there"),
    "values from under a mark": (proto(b"N(\x85."), "a value that is not there"),
    "an end of a container never begun": (proto(b"t."), "never began"),
    "a key without a value": (proto(b"}(Nu."), "a key without a value"),
    "a text that is not UTF-8": (proto(b"\x8c\1\xff."), "not UTF-8"),
    "a byte that is not an instruction": (proto(b"\xff"), "not an instruction"),
    "a name without end": (proto(b"c" + b"a" * 2000), "a name without end"),
    "a name that is not a text": (proto(b"NN\x93."), "is not a name"),
    "a zip archive for a storage": (nested(zipped(data_pkl=b"N.")), "a zip archive where"),
    "a storage without magic": (nested(b"\x80\x02N." * 5), "not a stream of torch.save"),
    "a storage of a big-endian machine": (
        nested(legacy_stream(storage(), b"}X\x0d\0\0\0little_endian\x89s.")),
        "big-endian",
    ),
    "a storage of 2^40 elements": (
        nested(legacy_stream(storage(count=2**40)) + struct.pack("<q", 2**40)),
        "a storage of 1,099,511,627,776 elements needs",
    ),
    "a storage of fewer elements than announced": (
        nested(legacy_stream(storage(count=9)) + struct.pack("<q", 1) + b"\0" * 4),
        "has 1 elements, but its tensors count on 9",
    ),
    "a storage under another key": (
        nested(legacy_stream(storage().replace(b"]X\1\0\0\0000", b"]X\1\0\0\0001"))),
        "list of storages",
    ),
    "a list of storages that would never end": (
        nested(
            legacy_stream(
                storage().partition(b"\x80\x02]")[0]
                + proto(
                    b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60)) + b"]h<a."
                )
            )
        ),
        "list of storages",
    ),
    "something else for a storage": (nested(legacy_stream(b"N.].")), "holds something else"),
    "a tensor larger than its storage": (
        tensor(b"J\0\0\0\x40\x85", b"K\1\x85"),
        "ends at element 1,073,741,824 of its storage, which has 1",
    ),
    "a tensor that repeats one element": (
        tensor(b"J\0\0\0\x40\x85", b"K\0\x85"),
        "leave gaps or repeat elements",
    ),
    "a tensor that begins before its storage": (
        tensor(b"K\1\x85", b"K\1\x85", b"J\xff\xff\xff\xff"),
        "offset that is not a count",
    ),
    "a tensor of nine axes": (
        tensor(b"(" + b"K\1" * 9 + b"t", b"(" + b"K\1" * 9 + b"t"),
        "9 sizes",
    ),
    "a zip archive cut short": (zipped(data_pkl=b"N.")[:-30], "has no end"),
    "a compressed zip archive": (compressed(), "is compressed or encrypted"),
    "a zip archive with a size that is not there": (with_zip_size(10**9), "is cut short"),
    "a zip archive with another checksum": (wrong_checksum(), "does not have the checksum"),
    "a zip archive whose entries overlap": (overlapping(), "entries overlap"),
    "a zip archive without a pickle": (zipped(weights=b"1"), "with 0 data.pkl"),
    "a zip archive with two pickles": (zipped(data_pkl=b"N.", **{"a/data_pkl": b"N."}), "with 2"),
    "a zip archive without its storage": (
        zipped(data_pkl=storage().partition(b".\x80")[0] + b"."),
        "lacks the storage '0'",
    ),
    "a zip archive of a big-endian machine": (
        zipped(data_pkl=b"\x80\x02N.", byteorder=b"big"),
        "big-endian",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_its_cause_at_little_cost(tmp_path, name):
    content, message = BROKEN[name]
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_nested_payload_is_read_by_the_same_rules(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(nested(legacy_stream(b"\x80\x02cos\nsystem\nX\1\0\0\0x\x85R.")))
    with pytest.raises(UnsafeCheckpointError, match="in a tensor's storage, it names .* os.system"):
        open_checkpoint(path)
    assert "os.system" in inspect_checkpoint(path).globals


def test_nothing_can_be_nested_twice(tmp_path):
    path = tmp_path / "bad.pkl"
    inner = nested(legacy_stream(storage()) + struct.pack("<q", 1) + b"\0" * 4)
    path.write_bytes(nested(legacy_stream(inner[2:] + b"].")))
    with pytest.raises(UnsafeCheckpointError, match="torch.storage._load_from_bytes"):
        open_checkpoint(path)


@pytest.mark.parametrize("use_zip", [True, False])
def test_a_torch_file_with_a_call_is_refused_by_name(tmp_path, use_zip):
    path = tmp_path / "bad.pkl"
    torch.save({"net": Call(os.system, "x")}, path, _use_new_zipfile_serialization=use_zip)
    with pytest.raises(UnsafeCheckpointError, match="names the global posix.system"):
        open_checkpoint(path)


def test_a_whole_network_is_refused_with_what_to_save_instead(tmp_path):
    path = tmp_path / "bad.pkl"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(UnsafeCheckpointError, match=r"Linear.*save its state_dict\(\) instead"):
        open_checkpoint(path)


def test_very_many_tensors_are_no_network(tmp_path):
    path = tmp_path / "bad.pkl"
    names = b"".join(text(f"enc.8x8_a{i}") + b"h\0" for i in range(60_000))
    one = tensor(b"K\1\x85", b"K\1\x85")[2:-1]
    path.write_bytes(proto(b"}(" + text("a") + one + b"\x94" + names + b"u."))
    with pytest.raises(CheckpointError, match="it holds 60001 values"):
        open_checkpoint(path)


def test_a_torchscript_archive_is_refused_as_code(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(zipped(data_pkl=b"N.", constants_pkl=b"N."))
    with pytest.raises(UnsafeCheckpointError, match="TorchScript archive, which holds code"):
        open_checkpoint(path)


def test_one_storage_cannot_be_many_weights(tmp_path):
    weight = torch.zeros(1000)
    path = tmp_path / "bad.pkl"
    torch.save({f"enc.8x8_conv.{i}": weight for i in range(10_000)}, path)
    with pytest.raises(CheckpointError, match="tensors that share their storage are not read"):
        open_checkpoint(path, config={"class_name": "VPPrecond"})
