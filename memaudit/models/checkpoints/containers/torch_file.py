"""Files of torch.save: a pickle of the objects, and the bytes of their storages beside it.

Two containers: a zip archive (torch 1.6 and later) and the older stream of five pickles, which
also lies inside every tensor of an EDM snapshot. A storage is a persistent id in the pickle:
('storage', type, key, location, number of elements). Locations are ignored: everything is on the
CPU.
"""

from typing import Any

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.checkpoints.containers.inert_objects import (
    CHECKPOINT,
    MODULE_DICT,
    RECORDS,
    STORAGE_TYPES,
)
from memaudit.models.checkpoints.containers.stored_tensors import Storage
from memaudit.models.checkpoints.containers.zip_file import read_entry, zip_entries
from memaudit.unpickler import Admitted, Budget, Global, Unpickler
from memaudit.wording import shown

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_HEAD = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")
LEGACY_PROTOCOL = 1001


class _Storages:
    """The storages that a pickle's persistent ids name, by their keys."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def look_up(self, key: Any) -> Any:
        match key:
            case ("storage", Global() as kind, str(name), str(), int(count)) | (
                "storage",
                Global() as kind,
                str(name),
                str(),
                int(count),
                None,
            ) if kind in STORAGE_TYPES and count >= 0:
                dtype = STORAGE_TYPES[kind]
                storage = self.by_key.setdefault(name, Storage(dtype, count))
                if (storage.dtype, storage.num_elements) != (dtype, count):
                    raise CheckpointError(f"it describes its storage {shown(name)} in two ways.")
                return storage
            case ("module", Global() as kind, _, _) if kind == MODULE_DICT:
                return kind  # The source text that comes with it is not looked at.
        raise UnsafeCheckpointError("it has a persistent id that is not a storage's.")


def parse_zip(data: memoryview, budget: Budget) -> Any:
    """The object in a zip archive of torch.save; its tensors are StoredTensor.

    Raises:
        UnsafeCheckpointError: the pickle names something that no checkpoint needs.
        CheckpointError: it is not a file of torch.save, or it is damaged.
    """
    entries = zip_entries(data)
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"it is a zip archive with {len(pickles)} data.pkl; a file of torch.save has one."
        )
    stem = pickles[0].removesuffix("data.pkl")
    if f"{stem}constants.pkl" in entries:
        raise UnsafeCheckpointError(
            "it is a TorchScript archive, which holds code. Save the weights with torch.save."
        )
    order = entries.get(f"{stem}byteorder")
    if order is not None and bytes(read_entry(order)) != b"little":
        raise CheckpointError("it was written on a big-endian machine, which is not supported.")

    storages = _Storages()
    pickle = read_entry(entries[pickles[0]])
    value = Unpickler(pickle, CHECKPOINT, RECORDS, budget, storages.look_up).load()
    for key, storage in storages.by_key.items():
        entry = entries.get(f"{stem}data/{key}")
        if entry is None:
            raise CheckpointError(f"its archive lacks the storage {shown(key)}: it was altered.")
        storage.fill(read_entry(entry))
    return value


def parse_legacy(data: memoryview, budget: Budget, *, admitted: Admitted = RECORDS) -> Any:
    """The object in a stream that torch.save wrote before torch 1.6.

    Five pickles: a magic number, the protocol, facts about the machine, the object, and the keys
    of the storages; then for each key its number of elements (int64) and its bytes.

    Raises:
        UnsafeCheckpointError: a pickle names something that no checkpoint needs.
        CheckpointError: it is not such a stream, or it is damaged.
    """
    storages = _Storages()
    unpickler = Unpickler(data, CHECKPOINT, {}, budget)
    magic, protocol, machine = unpickler.load(), unpickler.load(), unpickler.load()
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise CheckpointError("it has a tensor storage that is not a stream of torch.save.")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("it was written on a big-endian machine, which is not supported.")
    unpickler.admitted, unpickler.persistent = admitted, storages.look_up
    value = unpickler.load()
    unpickler.admitted, unpickler.persistent = {}, None
    keys = unpickler.load()
    # Nothing is done with a key before it is known to be a text: it may be a huge structure.
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or sorted(keys) != sorted(storages.by_key):
        raise CheckpointError("its list of storages is not the one that its tensors need.")

    position = unpickler.position
    for key in keys:
        storage = storages.by_key[key]
        start = position + 8
        stop = start + storage.num_elements * storage.dtype.itemsize
        announced = int.from_bytes(data[position:start], "little")
        if announced != storage.num_elements:
            raise CheckpointError(
                f"its storage {shown(key)} has {announced:,} elements, but its tensors count on "
                f"{storage.num_elements:,}: the file is cut short or was altered."
            )
        storage.fill(data[start:stop])
        position = stop
    return value


def nested_storage(data: memoryview, budget: Budget) -> Storage:
    """The storage in a stream that a pickle holds as bytes. Nothing can be nested inside it."""
    if bytes(data[:2]) == b"PK":
        raise CheckpointError("it has a zip archive where a tensor's storage should be.")
    try:
        storage = parse_legacy(data, budget, admitted=dict.fromkeys(STORAGE_TYPES))
    except CheckpointError as error:
        raise type(error)(f"in a tensor's storage, {error}") from error
    if not isinstance(storage, Storage):
        raise CheckpointError("it has a tensor storage that holds something else.")
    return storage
