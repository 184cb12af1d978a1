"""The weights of a folder: one file, or an index and the files that it names."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.raw_file import Contents, decode, read_file
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.json_metadata import read_json_file
from memaudit.models.checkpoints.weights import find_tensors
from memaudit.unpickler import Budget
from memaudit.wording import listed, shown

MAX_FILES = 256
"""Most files that an index may name."""
FILE_NAME = re.compile(r"[\w\-][\w.\-]{0,200}", re.ASCII)
"""A name that leads nowhere but to a file in the same folder."""


@dataclass(frozen=True)
class FolderWeights:
    """Tensors by name, and the files that hold them."""

    tensors: Mapping[str, StoredTensor] = field(repr=False)
    files: tuple[Contents, ...]
    by_file: tuple[Mapping[str, StoredTensor], ...] = field(repr=False)
    """The tensors of each of the files."""
    sha256: str
    """Hash of the file, or of the hashes of index and files."""
    num_bytes: int
    """Size of all files."""
    globals: tuple[str, ...]
    """What their pickles name."""

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of stored values per dtype."""
        found: Counter[str] = Counter()
        for tensor in self.tensors.values():
            dtype = str(tensor.storage.dtype).removeprefix("torch.")
            found[dtype] += tensor.num_elements
        return dict(found)

    def read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Copies of the tensors, under other names.

        Args:
            names: the name that each tensor is to have, by its name in the files.
        """
        found: dict[str, Tensor] = {}
        for contents, tensors in zip(self.files, self.by_file, strict=True):
            renamed = {names[name]: tensor for name, tensor in tensors.items()}
            found.update(contents.read_tensors(renamed))
        return found


def read_weights(path: Path) -> FolderWeights:
    """The tensors in a file, or in those that an index names.

    Raises:
        CheckpointError: a file is missing, broken, or not what the index says; by its name.
    """
    budget = Budget()
    if not path.name.endswith(".json"):
        contents = _decoded(path, budget)
        tensors, _ = find_tensors(contents.value)
        return FolderWeights(
            tensors,
            (contents,),
            (tensors,),
            contents.sha256,
            contents.num_bytes,
            tuple(sorted(map(str, budget.named))),
        )
    index, content = read_json_file(path)
    places = _checked_map(path, index)
    names = sorted(set(places.values()))
    files, by_file, tensors = [], [], {}
    for name in names:
        contents = _decoded(path.parent / name, budget)
        found, _ = find_tensors(contents.value)
        announced = {tensor for tensor, place in places.items() if place == name}
        if found.keys() != announced:
            odd = listed(found.keys() ^ announced)
            raise CheckpointError(
                f"{path.name} and {name} do not agree on the tensor {odd}: a file is missing, or "
                "of another model."
            )
        files.append(contents)
        by_file.append(found)
        tensors.update(found)
    hashes = [hashlib.sha256(content).hexdigest(), *(each.sha256 for each in files)]
    return FolderWeights(
        tensors,
        tuple(files),
        tuple(by_file),
        hash_of(hashes),
        len(content) + sum(each.num_bytes for each in files),
        tuple(sorted(map(str, budget.named))),
    )


def hash_of(hashes: list[str]) -> str:
    """SHA-256 of a list of hashes, one per line."""
    return hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()


def _checked_map(path: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """The file of each tensor, as an index has it."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path.name} has no weight_map, which names the files of weights.")
    for place in places.values():
        if not isinstance(place, str) or not FILE_NAME.fullmatch(place):
            raise CheckpointError(
                f"{path.name} names {shown(place)}, which is not a file beside it."
            )
    if len(set(places.values())) > MAX_FILES:
        raise CheckpointError(f"{path.name} names more than {MAX_FILES} files.")
    return places


def _decoded(path: Path, budget: Budget) -> Contents:
    try:
        return decode(read_file(path), budget)
    except CheckpointError as error:
        raise type(error)(f"{path.name}: {error}") from error
