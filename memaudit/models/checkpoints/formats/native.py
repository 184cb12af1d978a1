"""memaudit's own checkpoints: safetensors with EDM's parameter names, and JSON in the metadata.

Metadata: `format` = "memaudit", `format_version`, `config` (class_name and constructor keywords),
`provenance` (what trained it, on which images, for how long), and `facts` in a converted file
(`kept_facts.py`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from memaudit.errors import CheckpointError
from memaudit.files import atomic_write
from memaudit.models.checkpoints.assembly import CONSTANTS, build_uninitialized
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.json_metadata import json_object
from memaudit.models.checkpoints.kept_facts import ENTRY, kept_options, with_kept_facts
from memaudit.wording import shown

NAME = "memaudit"
VERSION = 1


def save_checkpoint(
    path: str | Path,
    network: nn.Module,
    config: Mapping[str, Any],
    *,
    provenance: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a network as a native checkpoint: whole, or not at all.

    Args:
        path: file to write; an existing one is replaced.
        network: what `build_network(config)` returns, with trained weights on any device.
        config: `class_name` and constructor keywords, plain JSON values.
        provenance: anything about its training that JSON can express.
        facts: what it was converted with where its source did not show it, as in `kept_facts.py`.

    Raises:
        CheckpointError: the provenance nests too deep to be read again.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    metadata = {
        "format": NAME,
        "format_version": str(VERSION),
        "config": json.dumps(dict(config)),
        "provenance": json.dumps(dict(provenance or {})),
    }
    if facts:
        metadata[ENTRY] = json.dumps(dict(facts))
    json_object(metadata, "provenance")
    with atomic_write(Path(path)) as file:
        file.write(_in_one_order(save(tensors, metadata)))


def _in_one_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted.

    The library writes them in an order that changes from run to run, but equal networks must be
    equal files, so that a hash says which network a report is about.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def recognizes(contents: Contents) -> bool:
    return contents.container == "safetensors" and contents.metadata.get("format") == NAME


def read(contents: Contents, given: Given) -> StoredNetwork:
    version = contents.metadata.get("format_version", "")
    if version != str(VERSION):
        raise CheckpointError(
            f"it is a native checkpoint of version {shown(version)}; this memaudit reads version "
            f"{VERSION}. Install a newer memaudit, or save the checkpoint again."
        )
    provenance = json_object(contents.metadata, "provenance")
    warnings = provenance.pop("warnings", ())  # Those of the file that it was converted from.
    config = json_object(contents.metadata, "config")
    tensors = contents.read_tensors(contents.value)
    changed, facts = with_kept_facts(contents, config, given)
    if changed != config:  # what followed from the configuration follows from this one
        network = build_uninitialized(changed, present=tensors)
        tensors = {name: t for name, t in tensors.items() if not CONSTANTS.search(name)}
        tensors |= {name: t for name, t in network.named_buffers() if CONSTANTS.search(name)}
    return StoredNetwork(
        format=NAME,
        config=changed,
        tensors=tensors,
        provenance=provenance,
        warnings=(
            *(map(str, warnings) if isinstance(warnings, list) else ()),
            *facts.warnings,
        ),
        facts=facts.facts,
    )


FORMAT = FileFormat(NAME, recognizes, read, options_in=kept_options)
