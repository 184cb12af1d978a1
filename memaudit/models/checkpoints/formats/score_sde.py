"""Checkpoints of score_sde_pytorch (Song et al., arXiv:2011.13456): DDPM++ and NCSN++ as SongUNet.

`checkpoint_N.pth` has `model`, whose U-Net is one list `all_modules` (see `all_modules.py` beside
this folder), and `ema.shadow_params`, the average's trainable parameters as a list in the order of
the model's. The file shows neither the SDE, nor the size of the images, nor the filter that
resamples; published networks of the same kind are the defaults.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.all_modules import ENTRY, converted, entries_of, structure_of
from memaudit.models.checkpoints.assembly import build_uninitialized
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import ArchOption, Facts, Given
from memaudit.models.checkpoints.weights import find_weights, holds_weights
from memaudit.models.config_values import FLAG, VALUES, Value
from memaudit.models.precond.sde import SDES
from memaudit.models.resolution import height_and_width

NAME = "score_sde_pytorch"
ANCHOR = r"all_modules\.0\.\w+"
ATTENTION_RESOLUTION = 16
"""Where all published networks have attention; so that shows how large the images are."""
FIR, BOX = (1, 3, 3, 1), (1, 1)
"""Filters that resample: of NCSN++, and of DDPM++."""

OPTIONS = (
    ArchOption(
        "sde",
        "the SDE that it was trained on: `vp-discrete` is VP at 1,000 discrete times",
        Value(str, choices=(*SDES, "vp-discrete")),
    ),
    ArchOption(
        "data_range",
        "the range of the images that it was trained on",
        Value(str, choices=("-1..1", "0..1")),
    ),
    ArchOption("img_resolution", "the height and width of its images", VALUES["img_resolution"]),
    ArchOption("fir", "whether it resamples with the filter [1, 3, 3, 1]", FLAG),
)


def recognizes(contents: Contents) -> bool:
    return holds_weights(contents.value, ANCHOR)


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(contents.value, ANCHOR)
    assert found is not None
    modules = entries_of(found.tensors)
    structure = structure_of(modules)
    _check_average(contents.value, found.tensors, structure)
    attention = structure.pop("attention_levels")
    facts = _facts(structure, attention, given)
    side = min(height_and_width(facts["img_resolution"]))
    config: dict[str, Any] = {
        **_preconditioning(facts["sde"], contents, found.tensors),
        "data_range": facts["data_range"],
        "img_resolution": facts["img_resolution"],
        "model_type": "SongUNet",
        **structure,
        "attn_resolutions": [side >> level for level in attention],
        "resample_filter": list(FIR if facts["fir"] else BOX),
        "dropout": 0.0,  # of trainings alone
    }
    network = build_uninitialized(config, present=found.tensors)
    entries = {
        f"{m['index']}.{m['name']}": t for n, t in found.tensors.items() if (m := ENTRY.match(n))
    }
    return StoredNetwork(
        NAME,
        config,
        converted(network, modules, contents.read_tensors(entries)),
        provenance={"weights": found.said},
        warnings=(*facts.warnings, *found.warnings),
        facts=facts.facts,
    )


def _check_average(
    value: Any, tensors: Mapping[str, StoredTensor], structure: Mapping[str, Any]
) -> None:
    """Refuse an average that does not have every trained parameter: noise levels and the
    frequencies of a Fourier embedding are not trained."""
    ema = value.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    num_fixed = ("sigmas" in tensors) + (structure["embedding_type"] == "fourier")
    if isinstance(shadow, list) and len(shadow) != len(tensors) - num_fixed:
        raise CheckpointError(
            f"its average (shadow_params) has {len(shadow):,} tensors, but its network "
            f"{len(tensors) - num_fixed:,} that are trained."
        )


def _facts(structure: Mapping[str, Any], attention: list[int], given: Given) -> Facts:
    """What shapes do not show; published networks of the same kind are the default."""
    is_ve = structure["embedding_type"] == "fourier"
    has_pyramid = structure["encoder_type"] != "standard" or structure["decoder_type"] != "standard"
    defaults: dict[str, Any] = {"fir": is_ve or has_pyramid}
    if len(attention) == 1:
        defaults["img_resolution"] = ATTENTION_RESOLUTION << attention[0]
    sde = "ve" if is_ve else given.options.get("sde", "vp")
    defaults["data_range"] = "0..1" if is_ve else "-1..1"
    if not is_ve:
        defaults["sde"] = "vp"
        if sde == "ve":
            raise ConfigError(
                "{arch} says that the SDE is ve, but the noise level is embedded by its position: "
                "it was trained on vp or subvp, or on ve at discrete noise levels, which memaudit "
                "does not know.",
                field="arch",
            )
    found: dict[str, Any] = {"sde": "ve"} if is_ve else {}
    if structure["encoder_type"] == "residual":
        found["fir"] = True
    return given.resolve(OPTIONS, found, defaults)


def _preconditioning(
    sde: str, contents: Contents, tensors: Mapping[str, StoredTensor]
) -> dict[str, Any]:
    if sde == "vp-discrete":
        return {"class_name": "DiscretePrecond", "target": "epsilon", "schedule": "linear"}
    config: dict[str, Any] = {"class_name": "SDEPrecond", "sde": sde}
    if sde == "ve" and "sigmas" in tensors:
        sigmas = contents.read_tensors({"sigmas": tensors["sigmas"]})["sigmas"].double()
        if sigmas.ndim != 1 or not len(sigmas) or not sigmas.isfinite().all():
            raise CheckpointError("its noise levels `sigmas` are not a list of numbers.")
        config |= {"sigma_min": _rounded(sigmas.min()), "sigma_max": _rounded(sigmas.max())}
    return config


def _rounded(sigma: Tensor) -> float:
    """A noise level as it was configured: 0.01, where its float32 logarithm left 0.0099999998."""
    return float(f"{float(sigma):.6g}")


FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS)
