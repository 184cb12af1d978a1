"""Say before long work how long it will take, and what it costs in disk and memory.

A measurement that takes longer than the work is not worth it: few images and small searches are
begun at once.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memaudit.audit.report.schema import Report
    from memaudit.data.images import ImageSet
    from memaudit.models.denoiser import Denoiser
    from memaudit.models.execution import Execution
    from memaudit.models.sampler_config import SamplerConfig

MANY_GROUPS = 8
"""Groups of images from which on a timing, which is a part of one group, is worth its time."""
LONG_SEARCH = 1e11
"""Differences of pixel values from which on a search is timed on a part."""
LARGE = 100_000_000
"""Bytes of disk or memory from which on they are worth a line, where the work is short."""
LONGEST = 1e7
"""Seconds that a report's times may add up to, if they are to be believed."""
READ = 64
"""Images whose reading is timed."""


def say_cost(
    what: str, seconds: float | None, *, disk_bytes: int = 0, memory_bytes: int = 0, note: str = ""
) -> None:
    """Print on stderr what work costs, unless it is short and takes little.

    Args:
        what: the work, as the subject of the sentence.
        seconds: how long it takes, or None where that was not measured.
        disk_bytes: most bytes that are written.
        memory_bytes: memory that is taken beside the model.
        note: what else to say, in a sentence.
    """
    from memaudit.cli.console import remark
    from memaudit.wording import duration, file_size, joined

    if seconds is None and disk_bytes + memory_bytes < LARGE:
        return
    costs = [] if seconds is None else [f"about {duration(seconds)}"]
    costs += [f"{file_size(disk_bytes)} of disk at most"] if disk_bytes else []
    costs += [f"about {file_size(memory_bytes)} of memory"] if memory_bytes else []
    said = f"{what} will take {joined(costs)}." if costs else ""
    if said or note:
        remark(f"{said} {note}".strip())


def say_sampling_time(
    denoiser: "Denoiser",
    number: int,
    sampler: "SamplerConfig",
    *,
    execution: "Execution",
    class_index: int | None = None,
    beside: int = 0,
    seconds_beside: Callable[[float], float] | None = None,
    disk_bytes: int = 0,
    memory_bytes: int = 0,
    likely: int | None = None,
) -> None:
    """Print on stderr how long so many images will take, and what they cost.

    Args:
        denoiser: on the execution's device.
        number: images to sample.
        sampler: how.
        execution: where, and how many at a time.
        class_index: the class of all images; None: drawn.
        beside: further work of the model, in images that would take as long.
        seconds_beside: how long other work takes; is given the seconds that the model takes for an
            image once.
        disk_bytes: most bytes that are written.
        memory_bytes: memory that is taken beside the model.
        likely: images after which a gate stops if none is a copy, where that is known.
    """
    from memaudit.models.group_size import group_size
    from memaudit.models.own_sampler import resolve_sampler
    from memaudit.models.sampling_time import time_sampling
    from memaudit.ranks.joined import current_leader
    from memaudit.wording import duration

    leader = current_leader()
    num_ranks = 1 if leader is None else leader.num_ranks
    seconds, note = None, ""
    if number + beside > MANY_GROUPS * num_ranks * group_size(denoiser, execution):
        sampler = resolve_sampler(sampler, denoiser)
        timed = time_sampling(denoiser, sampler, execution=execution, class_index=class_index)
        others = timed.per_image(sampler) * beside
        if seconds_beside is not None:
            others += seconds_beside(timed.per_evaluation / timed.group)
        seconds = timed.seconds(number, sampler) / num_ranks + others
        if likely is not None and likely < number:
            early = timed.seconds(likely, sampler) / num_ranks + others
            note = (
                f"If none is a copy, it is likely to stop after {likely:,} images, "
                f"{duration(early)}."
            )
    has_others = beside or seconds_beside is not None
    what = f"{number:,} images" + (" and the tests beside them" if has_others else "")
    say_cost(what, seconds, disk_bytes=disk_bytes, memory_bytes=memory_bytes, note=note)


def say_search_time(
    data: "ImageSet", number: int, *, device: str, flips: bool = False, what: str = "The search"
) -> None:
    """Print on stderr how long a search among training images will take, and its memory.

    Args:
        data: the images that are searched.
        number: images that are searched for.
        device: where.
        flips: whether mirror images are searched, too.
        what: the work, as the subject of a sentence.
    """
    from memaudit.audit.config import ScanConfig
    from memaudit.audit.dry_run import time_search
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.models.execution import Execution

    seconds = None
    D = data.images[:1].size
    if len(data) > 1 and len(data) * number * D * (1 + flips) >= LONG_SEARCH:
        config = ScanConfig(index=IndexConfig(flips=flips), execution=Execution(device=device))
        steps, _ = time_search(data, None, config, number)
        seconds = sum(each.seconds for each in steps if each.step != "controls")
    say_cost(what, seconds, memory_bytes=search_bytes(len(data), D, flips=flips))


def search_bytes(number: int, D: int, *, flips: bool, limit: int | None = None) -> int:
    """Most memory that a search takes, the images aside: that of making its index.

    Args:
        number: images that are searched.
        D: pixel values per image.
        flips: whether mirror images are searched, too.
        limit: most bytes of the index; None: the default.
    """
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.audit.neighbors.projection import num_making_bytes, projected_width

    num_stored = number * (1 + flips)
    limit = IndexConfig().memory_limit if limit is None else limit
    return num_making_bytes(num_stored, D, projected_width(num_stored, D, limit))


def say_reading_time(images: "ImageSet") -> None:
    """Print on stderr how long it takes to read and write images, and the most disk it takes."""
    few = min(READ, len(images))
    started = time.perf_counter()
    pixels = images.images[:few]
    seconds = (time.perf_counter() - started) / few * len(images)
    num_bytes = pixels.nbytes // few * len(images)
    say_cost(f"{len(images):,} images", seconds, disk_bytes=num_bytes)


def say_verification_time(report: "Report", *, spot_check: int) -> None:
    """Print on stderr how long a verification with the images takes, by the report's own times.

    Args:
        report: what is verified.
        spot_check: images that are generated again.
    """
    of = {step.step: step.seconds for step in report.timings.steps}
    judged = report.ratios.copies.total
    seconds = sum(of.get(step, 0.0) for step in ("index", "controls", "recall", "label_test"))
    if spot_check:
        seconds += of.get("sampling", 0.0) * min(1.0, spot_check / judged)
        seconds += of.get("denoising test", 0.0)
    if report.source.kind == "images":
        seconds += of.get("search", 0.0)
    if 0 <= seconds <= LONGEST:  # a forged report may state anything
        say_cost("If this machine is as fast as that of the report, this", seconds)
