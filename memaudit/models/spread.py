"""Images of a denoiser made by all ranks of a launch.

A block is a group of images that one rank evaluates at once (models/group_size.py), cut as one
process cuts it: so images are the same whatever the number of ranks, on processors of one kind.
"""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

import memaudit
from memaudit.errors import CheckpointError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import image_shape
from memaudit.models.execution import Execution
from memaudit.models.generate import (
    GeneratedBatch,
    Job,
    made_elsewhere,
    make_groups,
)
from memaudit.models.sampler_config import SamplerConfig
from memaudit.ranks.board import Handler
from memaudit.ranks.joined import current_leader
from memaudit.ranks.leader import Leader
from memaudit.ranks.message import Message, pack
from memaudit.ranks.worker import Worker

TASK = "images"
MODEL = "model"
"""What ranks call the model that is audited."""


@contextmanager
def spread_over_ranks(name: str, checkpoint: Checkpoint) -> Iterator[None]:
    """Within the context, share out the sampling of a model among the ranks, if there are any.

    Args:
        name: what the other ranks call it (`serve_images`).
        checkpoint: as this process opened it. A rank that opened another one is an error.
    """
    leader = current_leader()
    if leader is None:
        yield
        return
    others = leader.handlers.get(TASK)
    own = image_handler({name: checkpoint})
    denoiser = checkpoint.network

    def handle(message: Message, look: Callable[[], None]) -> bytes:
        if others is None or message.about["network"] == name:
            return own(message, look)
        return others(message, look)

    leader.handlers[TASK] = handle
    leader.is_sharing = True
    try:
        with made_elsewhere(denoiser, _Spread(leader, name, checkpoint)):
            yield
    finally:
        leader.is_sharing = False


def serve_images(
    worker: Worker,
    checkpoints: Mapping[str, Checkpoint],
    others: Mapping[str, Handler] = MappingProxyType({}),
) -> int:
    """Make images for rank 0 until it ends, and return its exit status.

    Args:
        worker: this rank.
        checkpoints: those that rank 0 shares out, by the same names.
        others: what else this rank can do, by the names of tasks.
    """
    with fp32_products(False):
        return worker.serve({TASK: image_handler(checkpoints), **others})


def image_handler(checkpoints: Mapping[str, Checkpoint]) -> Handler:
    """Make the images of a block by the model that it names, which must be that of rank 0."""
    identities = {name: identity_of(checkpoint) for name, checkpoint in checkpoints.items()}

    def handle(message: Message, look: Callable[[], None]) -> bytes:
        about, arrays = message
        name = about["network"]
        if about["identity"] != identities[name]:
            found = checkpoints[name]
            raise CheckpointError(
                f"{socket.gethostname()} opened another model than rank 0: {found.path} has "
                f"SHA-256 {found.sha256} there, or memaudit {memaudit.__version__} is another "
                "version. Give every machine the same files and the same version."
            )
        denoiser = checkpoints[name].network
        classes = arrays.get("class_index")
        job = Job(
            denoiser,
            arrays["seeds"].tolist(),
            config=SamplerConfig(**about["sampler"]),
            class_index=None if classes is None else classes.tolist(),
            class_weights=about["class_weights"],
            start=arrays.get("start"),
            group_size=about["group_size"],
            execution=Execution(**about["execution"]),
            progress=lambda task, done, total, note="": look(),
        )
        group = GeneratedBatch.concatenate(list(make_groups(job)))  # several where memory ran out
        return pack(
            {"group_size": group.group_size},
            seeds=group.seeds,
            images=group.images,
            class_index=group.class_index,
            is_fast=group.is_fast,
        )

    return handle


def identity_of(checkpoint: Checkpoint) -> str:
    """SHA-256 of what a model's images depend on, in hex: of its file, its weights in memory, which
    a Python function may have from anywhere, and what was found beside them."""
    network = checkpoint.network
    about = [
        memaudit.__version__,
        checkpoint.sha256,
        checkpoint.format,
        checkpoint.arch,
        checkpoint.config,
        [str(fact) for fact in checkpoint.facts],
        getattr(network, "labels_sha256", None),
    ]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in network.state_dict().items() if isinstance(network, nn.Module) else ():
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Spread:
    """Makes groups as `make_groups` does, on all ranks."""

    def __init__(self, leader: Leader, name: str, checkpoint: Checkpoint) -> None:
        self._leader, self._name = leader, name
        self._identity = identity_of(checkpoint)
        network = checkpoint.network
        self._shape, self._label_dim = image_shape(network), network.label_dim

    def __call__(self, job: Job) -> Iterator[GeneratedBatch]:
        seeds, group_size = job.seeds, job.group_size
        about = {
            "task": TASK,
            "network": self._name,
            "identity": self._identity,
            "sampler": asdict(job.config),
            "class_weights": None if job.class_weights is None else list(job.class_weights),
            "group_size": group_size,
            "execution": asdict(job.execution),
        }
        num_done = 0

        def block(first: int) -> bytes:
            rows = slice(first, first + group_size)
            classes = None
            if job.class_index is not None:
                classes = np.array(job.class_index[rows], np.int64)
            return pack(
                about,
                seeds=np.array(seeds[rows], np.int64),
                class_index=classes,
                start=None if job.start is None else job.start[rows],
            )

        def on_arrival(place: int, message: Message) -> None:
            nonlocal num_done
            first = place * group_size
            group = self._group(message, seeds[first : first + group_size])
            num_done += len(group.seeds)
            job.progress("Sampling", num_done, len(seeds))
            job.on_group(first, group)

        firsts = range(0, len(seeds), group_size)
        spread = self._leader.spread(map(block, firsts), on_arrival=on_arrival)
        with closing(spread):  # whatever nobody asks for any more is dropped at once
            for first, message in zip(firsts, spread, strict=True):
                yield self._group(message, seeds[first : first + group_size])

    def _group(self, message: Message, seeds: Sequence[int]) -> GeneratedBatch:
        """The images in a message, which must be those asked for.

        Raises:
            ValueError: they are others, so that a rank runs something else.
        """
        found = message.arrays
        classes, is_fast = found.get("class_index"), found.get("is_fast")
        size = message.about.get("group_size")
        group = GeneratedBatch(found["seeds"], found["images"], classes, is_fast, size)
        is_asked = (
            np.array_equal(group.seeds, np.array(seeds))
            and group.images.dtype == np.uint8
            and group.images.shape == (len(seeds), *self._shape)
            and (classes is None) == (not self._label_dim)
            and (classes is None or (classes.dtype == np.int64 and len(classes) == len(seeds)))
            and (is_fast is None or (is_fast.dtype == bool and len(is_fast) == len(seeds)))
            and (size is None or isinstance(size, int))
        )
        if not is_asked:
            raise ValueError(f"a rank sent other images than those of the seeds from {seeds[0]} on")
        return group
