"""Images of a denoiser made by all ranks of a launch.

A block is a group of images that one rank evaluates at once (models/group_size.py), cut as one
process cuts it: so images are the same whatever the number of ranks, on processors of one kind.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from types import MappingProxyType

import numpy as np

from memaudit.models.arithmetic import fp32_products
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.execution import Execution
from memaudit.models.generate import (
    GeneratedBatch,
    OnGroup,
    ignore_group,
    made_elsewhere,
    make_groups,
)
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress
from memaudit.ranks.board import Handler
from memaudit.ranks.joined import current_leader
from memaudit.ranks.leader import Leader
from memaudit.ranks.message import Message, pack
from memaudit.ranks.worker import Worker

TASK = "images"
MODEL = "model"
"""What ranks call the model that is audited."""


@contextmanager
def spread_over_ranks(name: str, denoiser: Denoiser) -> Iterator[None]:
    """Within the context, share out the sampling of a denoiser among the ranks, if there are any.

    Args:
        name: what the other ranks call it (`serve_images`).
        denoiser: this process's, which is the same.
    """
    leader = current_leader()
    if leader is None:
        yield
        return
    others = leader.handlers.get(TASK)
    own = image_handler({name: denoiser})

    def handle(message: Message, look: Callable[[], None]) -> bytes:
        if others is None or message.about["network"] == name:
            return own(message, look)
        return others(message, look)

    leader.handlers[TASK] = handle
    leader.is_sharing = True
    try:
        with made_elsewhere(denoiser, _Spread(leader, name, denoiser)):
            yield
    finally:
        leader.is_sharing = False


def serve_images(
    worker: Worker,
    denoisers: Mapping[str, Denoiser],
    others: Mapping[str, Handler] = MappingProxyType({}),
) -> int:
    """Make images for rank 0 until it ends, and return its exit status.

    Args:
        worker: this rank.
        denoisers: those that rank 0 shares out, by the same names.
        others: what else this rank can do, by the names of tasks.
    """
    with fp32_products(False):
        return worker.serve({TASK: image_handler(denoisers), **others})


def image_handler(denoisers: Mapping[str, Denoiser]) -> Handler:
    """Make the images of a block by the denoiser that it names."""

    def handle(message: Message, look: Callable[[], None]) -> bytes:
        about, arrays = message
        denoiser = denoisers[about["network"]]
        classes = arrays.get("class_index")
        groups = make_groups(
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
        group = GeneratedBatch.concatenate(list(groups))  # several where memory ran out
        return pack(
            {"group_size": group.group_size},
            seeds=group.seeds,
            images=group.images,
            class_index=group.class_index,
            is_fast=group.is_fast,
        )

    return handle


class _Spread:
    """Makes groups as `make_groups` does, on all ranks."""

    def __init__(self, leader: Leader, name: str, denoiser: Denoiser) -> None:
        self._leader, self._name = leader, name
        self._shape, self._label_dim = image_shape(denoiser), denoiser.label_dim

    def __call__(
        self,
        seeds: Sequence[int],
        *,
        config: SamplerConfig,
        class_index: Sequence[int] | None,
        class_weights: Sequence[float] | None,
        start: np.ndarray | None,
        group_size: int,
        execution: Execution,
        progress: Progress,
        on_group: OnGroup = ignore_group,
    ) -> Iterator[GeneratedBatch]:
        about = {
            "task": TASK,
            "network": self._name,
            "sampler": asdict(config),
            "class_weights": None if class_weights is None else list(class_weights),
            "group_size": group_size,
            "execution": asdict(execution),
        }
        num_done = 0

        def block(first: int) -> bytes:
            rows = slice(first, first + group_size)
            classes = None if class_index is None else np.array(class_index[rows], np.int64)
            return pack(
                about,
                seeds=np.array(seeds[rows], np.int64),
                class_index=classes,
                start=None if start is None else start[rows],
            )

        def on_arrival(place: int, message: Message) -> None:
            nonlocal num_done
            first = place * group_size
            group = self._group(message, seeds[first : first + group_size])
            num_done += len(group.seeds)
            progress("Sampling", num_done, len(seeds))
            on_group(first, group)

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
