"""How fast trainings and scans are on the device at hand: a few seconds of each, timed."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, replace
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import write_report
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet
from memaudit.experiments.cost import BACKWARD, EVALUATIONS, Throughput, count_forward_flops
from memaudit.models.arithmetic import fp32_products
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.group_size import group_size, settled
from memaudit.models.memory import give_memory_back
from memaudit.models.precond import Preconditioner
from memaudit.models.sampler_config import SamplerConfig
from memaudit.training.config import TrainingConfig
from memaudit.training.distributed import Ranks
from memaudit.training.network import configure_network
from memaudit.training.trainer import Trainer

T = TypeVar("T")

LONG_ENOUGH = 0.5
"""Seconds after which a single call is a good timing."""
LARGE_ENOUGH = 1.0
"""Seconds of a step after which larger batches would hardly be faster per image."""
SHORTEST = 0.1
"""Seconds that calls take together, at least."""
WARM_UPS = 3
"""Calls on a GPU before those that are timed; a CPU is warm after one."""
GROWTH = 4
"""How much larger the next batch is."""
PARENT_CHECK_SECONDS = 0.5
FEW = 4096
"""Training images that are enough to time a step with."""
FEW_STEPS = (1, 4)
"""Steps of the sampler in a timing, of a network that is slow or fast."""


def measure_throughput(
    config: TrainingConfig, images: ImageSet, *, device: str, parallel: int = 1
) -> Throughput:
    """Time whole steps of a training, evaluations while sampling, and a small scan.

    Where runs are to be side by side on a CPU, as many processes measure side by side.

    Args:
        config: network and batch.
        images: the images to train on.
        device: `cpu` or `cuda`.
        parallel: runs side by side; on GPUs each has one of its own.
    """
    if parallel == 1 or device != "cpu":
        return _measure(config, images, device)
    with _start_processes(parallel) as pool:
        try:
            futures = [pool.submit(_measure, config, images, device) for _ in range(parallel)]
            measured = [future.result() for future in futures]
        except BaseException:  # whoever stops this does not wait for measurements
            for process in multiprocessing.active_children():
                process.kill()
            raise
    return Throughput(
        *(sum(values) / parallel for values in zip(*map(astuple, measured), strict=True))
    )


def _start_processes(number: int) -> ProcessPoolExecutor:
    """Start processes that compute with as many threads as this one, and end when it does."""
    return ProcessPoolExecutor(
        number,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(os.getpid(), torch.get_num_threads()),
    )


def _start_process(parent: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measure(config: TrainingConfig, images: ImageSet, device: str) -> Throughput:
    flops = count_forward_flops(config, images)
    step = time_step(config, images, device=device)
    scan = time_scan(config, images, device=device)
    return Throughput(
        training=(1 + BACKWARD) * flops * config.batch_size / step.seconds(config.batch_size),
        sampling=flops * EVALUATIONS / scan.per_image,
        scan_seconds=scan.others,
    )


class StepTime(NamedTuple):
    """Time and memory of training steps."""

    per_image: float
    """Seconds of the forward and backward pass, per image of the batch."""
    others: float
    """Seconds of optimizer and average, per step."""
    bytes_per_image: float
    """What a backward pass keeps of an image."""
    num_weights: int

    def seconds(self, batch_size: float) -> float:
        """Return how long a step of a batch takes."""
        return self.per_image * batch_size + self.others


def _gives_memory_back(measure: Callable[..., T]) -> Callable[..., T]:
    """Return to a GPU, after a measurement, what torch keeps for later: others may want it."""

    @wraps(measure)
    def measured(*args: Any, device: str, **options: Any) -> T:
        result = measure(*args, device=device, **options)
        give_memory_back(device)
        return result

    return measured


@_gives_memory_back
def time_step(config: TrainingConfig, images: ImageSet, *, device: str) -> StepTime:
    """Time a step of a new network, with batches that grow until they take long enough.

    Args:
        config: network and largest batch.
        images: the images to train on.
        device: `cpu` or `cuda`.
    """
    where = torch.device(device)
    images = _few(images)
    largest = config.batch_gpu or config.batch_size
    num_images = 1
    with (
        torch.random.fork_rng(devices=[where] if where.type == "cuda" else []),
        fp32_products(config.tf32),
    ):
        while True:
            one_round = replace(config, batch_size=num_images, batch_gpu=None)
            try:
                trainer = Trainer(images, one_round, device=where, ranks=Ranks(0, 1))
                seconds = _time_call(trainer.compute_gradients, where)
            except torch.OutOfMemoryError:
                if num_images == 1:
                    raise
                # The passes that fit were the same, with fewer images.
                largest = num_images = num_images // GROWTH
                torch.cuda.empty_cache()
                continue
            if num_images >= largest or seconds > LARGE_ENOUGH:
                break
            num_images = min(GROWTH * num_images, largest)
        if where.type == "cuda":
            # As a training does it. Whether compiling pays depends on the length of the run.
            trainer.config = replace(trainer.config, compile="off")
            trainer.accelerate()
            seconds = _time_call(trainer.compute_gradients, where)
        result = StepTime(
            per_image=seconds / num_images,
            others=_time_call(trainer.update_weights, where),
            bytes_per_image=_saved_bytes(trainer) / num_images,
            num_weights=sum(p.numel() for p in trainer.network.parameters()),
        )
    return result


def _few(images: ImageSet) -> ImageSet:
    """Few enough images to copy often; all of them where labels say which classes there are."""
    if images.labels is not None or len(images) <= FEW:
        return images
    return images.take(np.arange(FEW))


def _saved_bytes(trainer: Trainer) -> float:
    """Bytes that a backward pass needs, the weights aside."""
    kept: dict[int, int] = {}
    weights = {p.data_ptr() for p in trainer.network.parameters()}

    def note(t: Tensor) -> Tensor:
        if t.data_ptr() not in weights:
            storage = t.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        trainer.compute_gradients()
    return sum(kept.values())


class ScanTime(NamedTuple):
    """How long a scan of a snapshot takes."""

    per_image: float
    """Seconds of sampling an image."""
    others: float
    """Seconds of everything else."""


@_gives_memory_back
def time_scan(config: TrainingConfig, images: ImageSet, *, device: str) -> ScanTime:
    """Time a scan of a new network: a group of images, with a few steps for each.

    Args:
        config: the network.
        images: the images it would train on.
        device: `cpu` or `cuda`.
    """
    where = torch.device(device)
    network_config = configure_network(config, images)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        network = build_network(network_config).eval().to(where)
        execution = settled(Execution(device=device), network)
        num_images = group_size(network, execution)

        def sample(num_steps: int) -> None:
            config = SamplerConfig(num_steps=num_steps)
            for _ in generate_images(
                network, range(num_images), config=config, execution=execution
            ):
                pass

        num_steps, more = FEW_STEPS
        seconds = _time_call(lambda: sample(num_steps), where)
        others = 0.0
        if seconds < LONG_ENOUGH:  # else a small scan is slow, and a real one nearly all sampling
            with TemporaryDirectory() as folder:
                others = _time_small_scan(
                    network, network_config, images, execution, num_steps, Path(folder)
                )
            others = max(0.0, others - seconds)
            num_steps = more
            seconds = _time_call(lambda: sample(num_steps), where)
    return ScanTime(seconds / num_images / (2 * num_steps - 1) * EVALUATIONS, others)


def _time_small_scan(
    network: Preconditioner,
    network_config: Mapping[str, Any],
    images: ImageSet,
    execution: Execution,
    num_steps: int,
    folder: Path,
) -> float:
    """Seconds of a scan of one group of images, from the file of a snapshot to the report."""
    path = folder / "snapshot.safetensors"
    save_checkpoint(path, network, network_config, provenance={})
    started = time.perf_counter()
    result = scan(
        open_checkpoint(path, device=execution.device),
        images,
        config=ScanConfig(
            seeds=range(group_size(network, execution)),
            sampler=SamplerConfig(num_steps=num_steps),
            without=("optimality",),
            execution=execution,
        ),
        folder=folder / "scan",
    )
    write_report(result, folder / "scan", pictures="full")
    return time.perf_counter() - started


def _time_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the mean seconds of a call, once it is warm: a GPU loads its kernels at first."""

    def time_once() -> float:
        started = time.perf_counter()
        call()
        _synchronize(device)
        return time.perf_counter() - started

    is_cpu = device.type == "cpu"
    for _ in range(1 if is_cpu else WARM_UPS):
        first = time_once()
    if first > LONG_ENOUGH and is_cpu:
        return first
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SHORTEST:
        seconds.append(time_once())
        if sum(seconds) > LONG_ENOUGH:
            break
    return sum(seconds) / len(seconds)


def _synchronize(device: torch.device) -> None:
    """Wait until a device has computed what it was given."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
