"""safetensors with a JSON `config` in the metadata, as k-diffusion writes its slim files.

A file is opened if its configuration is that of one of EDM's networks (it has `class_name`).
k-diffusion's own networks are others, with another preconditioning: they are refused by name.
"""

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.format import AS_PYTHON, FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.json_metadata import json_object
from memaudit.models.checkpoints.weight_names import by_precond_names
from memaudit.wording import shown

NAME = "safetensors with a configuration"


def recognizes(contents: Contents) -> bool:
    return contents.container == "safetensors" and "config" in contents.metadata


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = json_object(contents.metadata, "config")
    if "class_name" not in found:
        model = found.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        raise CheckpointError(
            f"its configuration is k-diffusion's, for a network of type {shown(kind)}, which is "
            f"not one of EDM's. {AS_PYTHON}"
        )
    tensors = contents.read_tensors(by_precond_names(contents.value))
    return StoredNetwork(NAME, found, tensors)


FORMAT = FileFormat(NAME, recognizes, read)
