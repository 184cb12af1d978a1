"""Whether this machine can run an audit: what is installed, what it computes with, what is missing.

Nothing heavy is imported before it is known to be installed, and a package that cannot be imported
is a finding, not an error.
"""

import importlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import memaudit
from memaudit.cores import num_cores
from memaudit.data.cache_folder import (
    NotPrivateError,
    default_cache_dir,
    list_cache,
    private_folder,
)
from memaudit.data.room import free_disk, free_memory
from memaudit.errors import ConfigError
from memaudit.wording import joined

DISTRIBUTION = "memaudit-diffusion"
EXTRAS = {
    "data": "training sets in parquet, Arrow, HDF5, tars packed with zstd; HEIC photographs",
    "demo": "the demo's handwritten digits",
    "diffusers": "models in diffusers' folders",
    "features": "the networks of DINOv2 and CLIP",
    "medical": "NIfTI and DICOM",
    "notebook": "figures, data frames and a kernel for notebooks",
    "tensorboard": "training logs for TensorBoard",
}
"""What each extra is for. Those that choose FAISS, or are for developers, are not among them."""
FAISS = ("faiss-cpu", "faiss-gpu")
LEAST_FAISS = ">=1.14.3"
"""As in pyproject.toml: earlier ones crashed beside torch."""
MODULES = {"pillow": "PIL"}
"""Modules that are not called as their distribution is."""
LITTLE_DISK = 2_000_000_000
"""Bytes; 10,000 generated images of 128x128 take half of it, and decoded training images more."""
LITTLE_MEMORY = 2_000_000_000
"""Bytes; torch alone takes 0.75 GB."""
SMI_SECONDS = 10


@dataclass(frozen=True)
class Installed:
    """A package that memaudit needs, or that one of its extras brings."""

    name: str
    needed: str
    """The versions that will do, such as `>=2.7`."""
    version: str | None
    """What is installed, or None."""
    extra: str | None = None
    """The extra that brings it; None for what is always needed."""
    fault: str | None = None
    """What is wrong with it, or None."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch sees."""

    name: str
    capability: str
    """CUDA's compute capability, such as `9.0`."""
    memory: int
    """Bytes in all."""
    is_supported: bool
    """Whether this PyTorch holds code for it."""


@dataclass(frozen=True)
class Computing:
    """What networks and searches compute with."""

    device: str
    """What `--device auto` takes: `cuda` or `cpu`."""
    search: str
    """What finds the nearest training images there, such as `faiss-cpu`; empty if it is broken."""
    faiss: tuple[str, ...]
    """FAISS's distributions that are installed, with their versions."""
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    """The version of CUDA that PyTorch was built for, or None."""
    other_gpus: tuple[str, ...] = ()
    """GPUs that are in the machine, where PyTorch sees none."""
    threads: int = 1
    """With which PyTorch computes on the CPU."""


@dataclass(frozen=True)
class CacheState:
    """The user's cache folder."""

    folder: str
    num_entries: int
    num_bytes: int
    fault: str | None = None
    """Why it is not used, or None."""


@dataclass(frozen=True)
class Advice:
    """Something to mend, or to know."""

    text: str
    is_problem: bool
    """Whether an audit fails, or may be wrong, until it is mended."""
    command: str | None = None
    """A command that mends it."""


@dataclass(frozen=True)
class Diagnosis:
    """What `memaudit doctor` found."""

    memaudit: str
    python: str
    executable: str
    platform: str
    packages: tuple[Installed, ...]
    computing: Computing | None
    """None where PyTorch cannot be imported."""
    cache: CacheState
    cores: int
    """That this process may use."""
    free_memory: int | None
    """Bytes, or None where the system does not say."""
    free_disk: Mapping[str, int]
    """Bytes that are free in the folders where memaudit writes, by folder; 0 if unknown."""
    advice: tuple[Advice, ...] = ()

    @property
    def is_fit(self) -> bool:
        """Whether nothing stands in the way of an audit."""
        return not any(each.is_problem for each in self.advice)


def diagnose() -> Diagnosis:
    """Look at packages, devices, cache, disk and memory, without changing anything."""
    packages = tuple(_packages())
    broken = {package.name for package in packages if package.fault is not None}
    advice = list(_advice_on_packages(packages))
    computing = None
    if "torch" not in broken:
        computing = _computing(advice)
    cache = _cache()
    if cache.fault is not None:
        text = f"The cache is not used: {cache.fault}. Results are the same, and time is lost."
        advice.append(Advice(text, is_problem=False))
    places = (Path.cwd(), default_cache_dir(), Path(tempfile.gettempdir()))
    disk = {str(place): free_disk(place) for place in places}
    for place, free in disk.items():
        if free < LITTLE_DISK:
            text = f"Only {free / 1e9:.1f} GB are free in {place}."
            advice.append(Advice(text, is_problem=False))
    memory = free_memory()
    if memory is not None and memory < LITTLE_MEMORY:
        text = f"Only {memory / 1e9:.1f} GB of memory are free; PyTorch alone takes 0.75 GB."
        advice.append(Advice(text, is_problem=False))
    return Diagnosis(
        memaudit=memaudit.__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        packages=packages,
        computing=computing,
        cache=cache,
        cores=num_cores(),
        free_memory=memory,
        free_disk=disk,
        advice=tuple(sorted(advice, key=lambda each: not each.is_problem)),
    )


def install_command(*requirements: str) -> str:
    """The command that installs packages for the Python that runs this.

    Examples:
        >>> install_command("pyarrow>=18.0").endswith(" -m pip install 'pyarrow>=18.0'")
        True
    """
    python = shlex.quote(sys.executable)
    given = " ".join(map(shlex.quote, requirements))
    if find_spec("pip") is None:  # uv's environments have none
        return f"uv pip install --python {python} {given}"
    return f"{python} -m pip install {given}"


# ------------------------------------------------------------------------------------------------
# Packages


def _requirements() -> Iterator[tuple[Requirement, str | None]]:
    """What memaudit needs on this machine, each with its extra."""
    try:
        texts = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return  # run from a folder that was never installed
    for requirement in map(Requirement, texts):
        if requirement.name in FAISS or requirement.name == DISTRIBUTION:
            continue
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, None
        else:
            extras = (name for name in EXTRAS if marker.evaluate({"extra": name}))
            if (extra := next(extras, None)) is not None:
                yield requirement, extra


def _packages() -> Iterator[Installed]:
    for requirement, extra in _requirements():
        name, needed = requirement.name, str(requirement.specifier)
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Installed(name, needed, None, extra, None if extra else "it is missing")
            continue
        fault = None
        if not requirement.specifier.contains(found, prereleases=True):
            fault = f"it is version {found}, and {needed} is needed"
        elif extra is None:
            fault = _import_fault(name)
        yield Installed(name, needed, found, extra, fault)


def _import_fault(name: str) -> str | None:
    """Why a package that is installed cannot be imported, or None if it can."""
    try:
        importlib.import_module(MODULES.get(name, name))
    except Exception as error:  # whatever a broken installation does
        said = " ".join(str(error).split())
        return f"it cannot be imported: {type(error).__name__}: {said[:200]}"
    return None


def _advice_on_packages(packages: tuple[Installed, ...]) -> Iterator[Advice]:
    faulty = [package for package in packages if package.fault is not None]
    if any(package.name == "torchvision" and package.version for package in faulty):
        broken = {package.name for package in faulty}
        if "torch" not in broken:
            text = (
                "torchvision is broken beside this torch. Their builds belong together: uninstall "
                "both, and install both by the line that PyTorch's selector gives for your system."
            )
            command = _uninstall_command("torch", "torchvision")
            yield Advice(text, is_problem=True, command=command)
            faulty = [package for package in faulty if package.name != "torchvision"]
    if faulty:
        text = "; ".join(f"{package.name}: {package.fault}" for package in faulty)
        needed = [f"{package.name}{package.needed}" for package in faulty]
        is_problem = any(package.extra is None for package in faulty)
        yield Advice(f"{text}.", is_problem, install_command(*needed))
    for extra, what in EXTRAS.items():
        missing = [each for each in packages if each.extra == extra and each.version is None]
        if missing:
            names = joined([package.name for package in missing])
            needed = [f"{package.name}{package.needed}" for package in missing]
            text = f"{names} {'is' if len(missing) == 1 else 'are'} not installed: {what}."
            yield Advice(text, is_problem=False, command=install_command(*needed))


# ------------------------------------------------------------------------------------------------
# Devices and the search


def _computing(advice: list[Advice]) -> Computing:
    """What networks and searches compute with; what there is to say of it goes to `advice`."""
    import torch

    from memaudit.models.devices import is_supported

    gpus = []
    if torch.cuda.is_available():
        architectures = torch.cuda.get_arch_list()
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            supported = is_supported((gpu.major, gpu.minor), architectures)
            capability = f"{gpu.major}.{gpu.minor}"
            gpus.append(Gpu(gpu.name, capability, gpu.total_memory, supported))
            if not supported:
                text = (
                    f"This PyTorch holds no code for {gpu.name} (capability {capability}): it "
                    "computes on the CPU. PyTorch's selector names a build for the GPU."
                )
                advice.append(Advice(text, is_problem=False))
    others = () if gpus else _gpus_of_the_driver()
    if others:
        build = "a build for the CPU" if torch.version.cuda is None else "a build for CUDA"
        text = (
            f"There is a GPU ({others[0]}), but PyTorch, {build}, sees none. PyTorch's selector "
            "names a build for it; `python -m torch.utils.collect_env` says more of the driver."
        )
        advice.append(Advice(text, is_problem=False))
    device = "cuda" if gpus and gpus[0].is_supported else "cpu"
    installed = tuple(f"{name} {found}" for name in FAISS if (found := _version(name)))
    search = _search(device, installed, advice)
    return Computing(
        device=device,
        search=search,
        faiss=installed,
        gpus=tuple(gpus),
        cuda=torch.version.cuda,
        other_gpus=others,
        threads=torch.get_num_threads(),
    )


def _search(device: str, installed: tuple[str, ...], advice: list[Advice]) -> str:
    """What finds the nearest training images on a device."""
    import torch

    from memaudit.audit.neighbors.vector_search import faiss_serves, load_faiss

    name = "faiss-gpu" if device == "cuda" and _has_faiss_gpu() else "faiss-cpu"
    wanted = f"{name}{LEAST_FAISS}"
    if len(installed) > 1:
        command = f"{_uninstall_command(*FAISS)} && {install_command(wanted)}"
        text = (
            f"{' and '.join(installed)} are both installed. Both provide the module faiss, and one "
            "has overwritten files of the other. Uninstall both, and install one."
        )
        advice.append(Advice(text, is_problem=True, command=command))
    elif installed and not SpecifierSet(LEAST_FAISS).contains(installed[0].split()[1]):
        text = f"{installed[0]} is installed, and {LEAST_FAISS} is needed: earlier ones may crash."
        command = install_command(f"{installed[0].split()[0]}{LEAST_FAISS}")
        advice.append(Advice(text, is_problem=True, command=command))
        return ""
    if not installed and find_spec("faiss") is None:
        text = (
            "FAISS is not installed. The search is exact as well, and slower: about three times "
            "on a CPU."
        )
        advice.append(Advice(text, is_problem=False, command=install_command(wanted)))
        return f"products-{device}"
    try:
        load_faiss()
    except ConfigError as error:
        command = f"{_uninstall_command(*FAISS)} && {install_command(wanted)}"
        advice.append(Advice(str(error), is_problem=True, command=command))
        return ""
    return f"faiss-{device}" if faiss_serves(torch.device(device)) else f"products-{device}"


def _has_faiss_gpu() -> bool:
    """Whether there is a faiss-gpu for this kind of machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _uninstall_command(*names: str) -> str:
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:
        return f"uv pip uninstall --python {python} {' '.join(names)}"
    return f"{python} -m pip uninstall --yes {' '.join(names)}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpus_of_the_driver() -> tuple[str, ...]:
    """Names of the GPUs that NVIDIA's driver lists; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in finished.stdout.splitlines() if line.strip())


# ------------------------------------------------------------------------------------------------
# The cache


def _cache() -> CacheState:
    root = default_cache_dir()
    fault = None
    try:
        if os.path.lexists(root):
            with private_folder(root):
                pass
            if not os.access(root, os.W_OK):
                fault = f"{root} cannot be written"
        entries = list_cache()
    except (NotPrivateError, OSError) as error:
        fault, entries = str(error), []
    return CacheState(str(root), len(entries), sum(each.num_bytes for each in entries), fault)
