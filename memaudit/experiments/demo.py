"""The whole story in two minutes: one network, trained on few images and on many, both audited.

The few are memorized, the many are not (the paper's finding, at the size of a laptop): handwritten
digits at 8x8, the same network, procedure and number of training steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import check_output_folder, write_report
from memaudit.audit.scan import ScanResult, scan
from memaudit.data.images import ImageSet
from memaudit.data.selection import Selection
from memaudit.data.subsets import select_images
from memaudit.errors import ConfigError
from memaudit.experiments.training_presets import LAPTOP
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import Progress, silent
from memaudit.training.loop import train

SIZES = (32, 1500)
"""Training images of the two networks."""

NETWORK = replace(LAPTOP, duration_images=64_000, num_snapshots=1)
"""DDPM++ with 189,000 parameters."""

NUM_SAMPLES = 500


@dataclass(frozen=True)
class DemoRun:
    """One training and its audit."""

    data: ImageSet
    model: Path
    result: ScanResult
    page: Path
    """The report page."""


def digits() -> ImageSet:
    """scikit-learn's 1,797 handwritten digits: uint8 [N, 1, 8, 8], 17 gray levels spread over 256.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            "The demo's digits come with scikit-learn, which is not installed; "
            'install the extra "demo".'
        ) from error
    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)[:, None]
    return ImageSet(
        images,
        names=[f"digit[{i}]" for i in range(len(images))],
        labels=loaded.target.astype(np.int64),
        class_names=tuple(str(name) for name in loaded.target_names),
        source="scikit-learn's digits",
    )


def run_demo(
    out: Path,
    *,
    device: str = "cpu",
    progress: Progress = silent,
    on_run: Callable[[DemoRun], None] = lambda run: None,
) -> list[DemoRun]:
    """Train the network on each of SIZES images and audit it against them.

    Args:
        out: folder for the two runs; what an earlier demo trained there is not trained again.
        device: `cpu` or `cuda`.
        progress: told how far each step is.
        on_run: called with each run as it ends.
    """
    images = digits()
    for size in SIZES:  # both folders, before the first minute is spent
        check_output_folder(out / f"{size}-images", overwrite=True)
    with one_thread():
        return [_run_size(images, size, out, device, progress, on_run) for size in SIZES]


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one CPU thread: a network this small gains nothing from a second one, and
    loses two thirds of its speed where another program wants the same core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_size(
    images: ImageSet,
    size: int,
    out: Path,
    device: str,
    progress: Progress,
    on_run: Callable[[DemoRun], None],
) -> DemoRun:
    """Train on `size` of the images and audit the model."""
    folder = out / f"{size}-images"
    data = select_images(images, Selection(size=size, subset="random"))
    trained = train(
        data,
        NETWORK,
        out=folder / "training",
        device=device,
        resume=True,
        progress=_of_size(progress, size),
    )
    if trained.interrupted:
        raise KeyboardInterrupt
    result = scan(
        open_checkpoint(trained.model, device=device),
        data,
        config=ScanConfig(seeds=tuple(range(NUM_SAMPLES)), device=device),
        progress=_of_size(progress, size),
    )
    run = DemoRun(data, trained.model, result, write_report(result, folder))
    on_run(run)
    return run


def _of_size(progress: Progress, size: int) -> Progress:
    """`progress`, with the number of training images beside each task's name."""

    def named(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(f"{task} ({size:,} images)", done, total, note)

    return named
