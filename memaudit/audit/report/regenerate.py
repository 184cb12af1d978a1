"""The command that generates an image of a report again."""

import shlex
from dataclasses import asdict

from memaudit.audit.scan import ScanResult
from memaudit.audit.source import OPTIMUM
from memaudit.models.sampler_config import SamplerConfig

OPTION_OF = {"num_steps": "--steps", "sigma_min": "--sigma-min", "sigma_max": "--sigma-max"}
"""Of `memaudit sample`, for those fields of SamplerConfig that are not options by their own name.
"""


def sample_command(result: ScanResult, seed: int | str) -> str | None:
    """`memaudit sample …` for the image of a seed, as a shell takes it.

    Args:
        result: of a scan.
        seed: a number, or a word that stands for one.

    Returns:
        None where no such command does it: for images given, and for the optimum, of which a
        command would have to name the part of the training images.
    """
    if result.source["kind"] != "checkpoint" or result.source["path"] == OPTIMUM:
        return None
    config, defaults = result.config, asdict(SamplerConfig())
    words = ["memaudit", "sample", result.source["path"], "--seeds", str(seed)]
    if result.source["arch"] is not None:
        words += ["--arch", result.source["arch"]]
    if config.class_index is not None:
        words += ["--class", str(config.class_index)]
    for name, value in asdict(config.sampler).items():
        if value != defaults[name]:
            words += [OPTION_OF.get(name, f"--{name}"), str(value)]
    words += ["--device", config.device, "--out", f"seed-{seed}.png"]
    return shlex.join(words)
