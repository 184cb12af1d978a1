"""Say before long sampling how long it will take."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memaudit.models.denoiser import Denoiser
    from memaudit.models.execution import Execution
    from memaudit.models.sampler_config import SamplerConfig

MANY_GROUPS = 8
"""Groups of images from which on a timing, which is a part of one group, is worth its time."""


def say_sampling_time(
    denoiser: "Denoiser",
    number: int,
    sampler: "SamplerConfig",
    *,
    execution: "Execution",
    class_index: int | None = None,
    disk_bytes: int = 0,
) -> None:
    """Print on stderr how long so many images will take, and how much disk, unless they are few.

    Args:
        denoiser: on the execution's device.
        number: images to sample.
        sampler: how.
        execution: where, and how many at a time.
        class_index: the class of all images; None: drawn.
        disk_bytes: most bytes that are written.
    """
    from memaudit.cli.console import remark
    from memaudit.models.group_size import group_size
    from memaudit.models.sampling_time import time_sampling
    from memaudit.ranks.joined import current_leader
    from memaudit.wording import duration

    leader = current_leader()
    num_ranks = 1 if leader is None else leader.num_ranks
    if number <= MANY_GROUPS * num_ranks * group_size(denoiser, execution):
        return
    timed = time_sampling(denoiser, sampler, execution=execution, class_index=class_index)
    seconds = timed.seconds(number, sampler) / num_ranks
    disk = f" and {disk_bytes / 1e6:,.1f} MB of disk at most" if disk_bytes else ""
    remark(f"{number:,} images will take about {duration(seconds)}{disk}.")
