"""EDM's pickles: network snapshots (the paper's fork and EDM2 included) and training states.

A snapshot is a dict with `ema`, the moving average of the network, and what it was trained with.
A training state is a dict with `net`, the network itself. docs/checkpoints.md has the details.
"""

import re
from collections.abc import Mapping
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.inert_objects import PersistentRecord
from memaudit.models.checkpoints.containers.module_tree import flat, source_hashes, state_dict
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.wording import listed, shown

POSITIONAL = ("img_resolution", "img_channels", "label_dim", "use_fp16")
"""The first parameters of every preconditioner's constructor."""
RGB_ENCODER = "StandardRGBEncoder"
"""EDM2's encoder for pixels, which scales to [-1, 1] as ours does."""
KNOWN_SOURCES = {
    "5db27dcd96674b95c72d5e6491b879cdc35e24039ada3411b4b46a28ed1fe284": "EDM, since November 2022",
    "2294828d5f59f5fd008f7141e6b8af2095918f2ce019f280a933e4779b5c3cef": "EDM, first release",
    "d95307807d6141205ef4ac8bd2f6f2cb30818d29902d9f160ec38a15dc6f4cfb": "DiffMemorize",
}
"""SHA-256 of the source texts whose arithmetic was compared with ours."""


def recognizes(contents: Contents) -> bool:
    return isinstance(contents.value, dict) and _network(contents.value) is not None


def read(contents: Contents, given: Given) -> StoredNetwork:
    values = contents.value
    network = _network(values)
    assert network is not None
    warnings = []
    if "ema" not in values:
        warnings.append(
            "It is a training state: this is the network being trained, not its moving average "
            "(EMA). What is sampled and published is the EMA, in the network snapshot (.pkl)."
        )
    unknown = source_hashes(network) - KNOWN_SOURCES.keys()
    if unknown:
        warnings.append(
            f"Its network was stored with source code that memaudit does not know (SHA-256 "
            f"{listed(unknown)}). Names and shapes fit, but a fork may compute something else."
        )
    encoder = values.get("encoder")
    if isinstance(encoder, PersistentRecord) and encoder.class_name != RGB_ENCODER:
        warnings.append(
            f"It was trained on the latents of a {shown(encoder.class_name)}: what it denoises "
            "are not images, and can only be compared with latents."
        )
    return StoredNetwork(
        format=_name(values, network),
        config=_config(network),
        tensors=contents.read_tensors(state_dict(network)),
        provenance=_provenance(values, contents.path.name),
        warnings=tuple(warnings),
    )


def _network(values: Mapping[str, Any]) -> PersistentRecord | None:
    for key in ("ema", "net"):
        network = values.get(key)
        if isinstance(network, PersistentRecord):
            return network
    return None


def _name(values: Mapping[str, Any], network: PersistentRecord) -> str:
    maker = "EDM2" if network.class_name == "Precond" else "EDM"
    return f"{maker} snapshot" if "ema" in values else f"{maker} training state"


def _config(network: PersistentRecord) -> dict[str, Any]:
    arguments = network.state.get("_init_args", ())
    if not isinstance(arguments, tuple) or len(arguments) > len(POSITIONAL):
        raise CheckpointError(
            f"its {shown(network.class_name)} was made from positional arguments other than "
            f"{', '.join(POSITIONAL)}, whose meaning memaudit does not know."
        )
    positional = dict(zip(POSITIONAL, arguments, strict=False))
    return {
        **flat(positional),
        **flat(network.state.get("_init_kwargs")),
        "class_name": network.class_name,
    }


def _provenance(values: Mapping[str, Any], file_name: str) -> dict[str, Any]:
    """What the file says about its training. Paths and classes in it are shown, never followed."""
    found: dict[str, Any] = {"ema": "ema" in values}
    if match := re.search(r"(?:network-snapshot|training-state)-(\d{6,7})", file_name):
        found["kimg"] = int(match[1])
    if isinstance(values.get("dataset_kwargs"), dict):
        found["dataset"] = flat(values["dataset_kwargs"])
    for key, name in (("loss_fn", "loss"), ("augment_pipe", "augmentation")):
        part = values.get(key)
        if isinstance(part, PersistentRecord):
            options = flat(part.state.get("_init_kwargs"))
            found[name] = {"class_name": part.class_name[:80], **options}
    return found


FORMAT = FileFormat("EDM pickle", recognizes, read)
