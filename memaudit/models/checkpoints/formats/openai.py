"""OpenAI's U-Net in the files of the programs that train it.

    improved-diffusion, guided-diffusion,   ema_0.9999_NNNNNN.pt, modelNNNNNN.pt: tensors by name
    consistency-models
    torchcfm                                `ema_model`, `net_model`, behind `module.` or not
    flow-matching                           checkpoint-N.pth: `model`, in it `model.*` in training
                                            and `shadow_params.k`, the EMA in parameter order
    compvis                                 .ckpt: `state_dict`, in it `model.diffusion_model.*` and
                                            `model_ema.*`, names without dots; betas

Names and shapes show the network but for its attention heads; of what surrounds it, files show
little. The rest are options, with the defaults of the program. The architecture is
`networks/openai.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import AS_PYTHON, FileFormat
from memaudit.models.checkpoints.given import ArchOption, Facts, Given, Required
from memaudit.models.checkpoints.transformer_shapes import labels_of
from memaudit.models.checkpoints.weights import Weights, find_weights, holds_weights
from memaudit.models.config_values import MAX_LEVELS, VALUES, Value
from memaudit.models.networks.openai_shapes import OtherNetworkError, standard_size, unet_options
from memaudit.models.precond.discrete import DISCRETE_TARGETS
from memaudit.models.precond.flow import FLOW_PATHS
from memaudit.models.precond.schedules import SCHEDULES, schedule_options
from memaudit.models.precond.targets import DATA_RANGES
from memaudit.wording import joined

NAME = "OpenAI U-Net"
ANCHOR = r"input_blocks\.0\.0\.weight"
LATENT = (
    "it holds a latent diffusion model (CompVis): its network denoises the latents of the "
    "first_stage_model beside it, not images. Scan images that it generated."
)
ONLINE = re.compile(r"model_?\d+\.", re.ASCII)
"""What OpenAI's programs call a file of the network in training."""
UP_IN_BLOCK = re.compile(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", re.ASCII)
SCHEDULE = ("schedule", "num_steps", "beta_start", "beta_end")
NO_ENDS = {"beta_start": None, "beta_end": None}

SIZE = ArchOption(
    "img_resolution", "the height and width of its images", VALUES["img_resolution"], Required
)
HEADS = ArchOption(
    "num_heads", "its attention heads", VALUES["num_heads"], alternatives=("1", "2", "4", "8")
)
HEAD_CHANNELS = ArchOption(
    "num_head_channels",
    "the channels of an attention head",
    VALUES["num_head_channels"],
    alternatives=("16", "32", "64", "128"),
)
ORDER = ArchOption(
    "use_new_attention_order",
    "whether q, k, v come before heads in its attention layers",
    VALUES["use_new_attention_order"],
)
RANGE = ArchOption(
    "data_range",
    "the range of its images",
    Value(str, choices=DATA_RANGES),
    "-1..1",
    is_told=False,
)
NULL_LABEL = ArchOption(
    "null_label",
    "whether its last class stands for none",
    Value(str, choices=("last", "none")),
    "none",
)
DISCRETE = (
    ArchOption("target", "what it predicts", Value(str, choices=DISCRETE_TARGETS), "epsilon"),
    ArchOption("schedule", "its noise schedule", Value(str, choices=SCHEDULES), "linear"),
    ArchOption("num_steps", "its number of noise levels", VALUES["num_steps"], 1000),
    ArchOption("beta_start", "its first beta", VALUES["beta_start"], None, is_told=False),
    ArchOption("beta_end", "its last beta", VALUES["beta_end"], None, is_told=False),
    ArchOption("rescale_timesteps", "whether time counts to 1000", Value(bool), False),
    RANGE,
)
FLOW = (
    ArchOption("path", "its path", Value(str, choices=FLOW_PATHS), "linear"),
    ArchOption("data_at", "the time of its data", VALUES["data_at"], 1, alternatives=("0", "1")),
    ArchOption(
        "time_scale",
        "the time that it is given at t = 1",
        VALUES["time_scale"],
        1.0,
        alternatives=("1.0", "999.0", "1000.0"),
    ),
    RANGE,
)
OPTIONS = (SIZE, HEADS, HEAD_CHANNELS, ORDER, NULL_LABEL, *DISCRETE, *FLOW[:-1])

OLD_ORDER: Mapping[str, Any] = {"use_new_attention_order": False}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "improved-diffusion": {**OLD_ORDER, "num_heads": 4, "rescale_timesteps": True},
    "guided-diffusion": {**OLD_ORDER, "num_heads": 4},
    "consistency-models": {"num_head_channels": 64},
    "torchcfm": {**OLD_ORDER, "num_heads": 1, "num_head_channels": 64},
    "flow-matching": {"num_heads": 1, "use_new_attention_order": True, "null_label": "last"},
    "compvis": {
        **OLD_ORDER,
        **{"num_head_channels": 32, "schedule": "scaled_linear"},
        **{"beta_start": 0.0015, "beta_end": 0.0195},
    },
}
"""Programs, with their defaults where those are not the options' own."""
HEADS_OF_64 = {"guided-diffusion", "flow-matching"}
"""Families whose larger networks, with up- and downsampling in blocks, have 64 channels a head."""
CLASSES: Mapping[str, tuple[str, tuple[ArchOption, ...]]] = {
    "improved-diffusion": ("DiscretePrecond", DISCRETE),
    "guided-diffusion": ("DiscretePrecond", DISCRETE),
    "consistency-models": ("ConsistencyPrecond", ()),
    "torchcfm": ("FlowPrecond", FLOW),
    "flow-matching": ("FlowPrecond", FLOW),
    "compvis": ("DiscretePrecond", DISCRETE),
}
"""Families → what surrounds the network, and its options."""


def recognizes(contents: Contents) -> bool:
    return holds_weights(contents.value, ANCHOR)


def read(contents: Contents, given: Given) -> StoredNetwork:
    parts = _parts(contents.value)
    if any(str(name).startswith("first_stage_model.") for part in parts for name in part):
        raise CheckpointError(LATENT)
    weights = find_weights(contents.value, ANCHOR)
    assert weights is not None
    family = _family(contents.value, weights, parts)
    if given.name is not None and given.name in FAMILIES:
        family = given.name
    if given.config is not None:
        config = given.config
        facts = Facts((), ("The configuration is the user's: the file has none.",))
    else:
        config, facts = _config(contents, weights, family, given)
    warnings = list(weights.warnings)
    if ONLINE.match(contents.path.name) and weights.is_ema is None:
        warnings.append(
            "Its name is that of the network in training; the moving average (EMA), which is what "
            "is sampled and published, is in the file ema_… beside it."
        )
    if given.config is None and given.name is None:
        warnings.append(
            f"It is taken for a file of {family}. Other programs with this network are "
            f"{joined([name for name in FAMILIES if name != family])}."
        )
    tensors = contents.read_tensors(weights.tensors)
    return StoredNetwork(
        format=NAME if given.config is not None else f"{NAME} ({family})",
        config=config,
        tensors={f"model.{name}": tensor for name, tensor in tensors.items()},
        provenance={"weights": weights.said},
        warnings=(*warnings, *facts.warnings),
        facts=facts.facts,
    )


def _family(value: Any, weights: Weights, parts: list[Mapping[str, Any]]) -> str:
    """The program that most probably wrote the file."""
    if "diffusion_model" in weights.place:
        return "compvis"
    if "net_model" in value:
        return "torchcfm"
    if "lr_schedule" in value or any("shadow_params.0" in part for part in parts):
        return "flow-matching"
    in_blocks = any(map(UP_IN_BLOCK.fullmatch, weights.tensors))
    return "guided-diffusion" if in_blocks else "improved-diffusion"


def _config(
    contents: Contents, weights: Weights, family: str, given: Given
) -> tuple[dict[str, Any], Facts]:
    """The configuration of the network, and who says what of it."""
    try:
        unet = unet_options({name: tensor.shape for name, tensor in weights.tensors.items()})
    except OtherNetworkError as error:
        raise CheckpointError(
            f"its network is like OpenAI's U-Net, but has {error}, which memaudit does not know. "
            f"{AS_PYTHON}"
        ) from error
    channels, returned = unet.pop("in_channels"), unet.pop("out_channels")
    if returned not in (channels, 2 * channels):
        raise CheckpointError(
            f"its network is given {channels} channels and returns {returned}: it has another "
            "input beside the noisy image (as for super-resolution), which memaudit does not give."
        )
    class_name, around = CLASSES[family]
    is_edm = class_name == "ConsistencyPrecond"
    defaults = dict(FAMILIES[family])
    if (size := standard_size(unet)) is not None:
        defaults["img_resolution"] = size
    options = [SIZE, _heads(unet, family, given, defaults), ORDER]
    if unet["label_dim"] and not is_edm:
        options.append(NULL_LABEL)
    options += around
    stored = _schedule(contents, _parts(contents.value)) if around is DISCRETE else {}
    found = {**NO_ENDS, **stored} if stored else {}
    if betas := found.pop("betas", None):
        found |= {"schedule": "as stored", "num_steps": len(betas)}
    given.check(f"A network of {family}", options, FAMILIES, takes_config=True)
    facts = given.resolve(options, found, defaults)

    said = {fact.name: fact.value for fact in facts.facts}
    if said.pop("rescale_timesteps", False):
        said["time_scale"] = 1000 / said["num_steps"]
    if unet["label_dim"]:
        unet |= labels_of(unet["label_dim"], said.pop("null_label", "none"))
    if betas:
        said = {"betas": betas} | {k: v for k, v in said.items() if k not in SCHEDULE}
    if not is_edm:
        said["learned_variance"] = returned != channels
    config = {
        **{"class_name": class_name, "img_channels": channels, "model_type": "OpenAIUNet"},
        **unet,
        **said,
    }
    if class_name == "ConsistencyPrecond":
        config |= {"sigma_min": 0.002, "sigma_max": 80.0}
    return config, facts


def _heads(
    unet: Mapping[str, Any], family: str, given: Given, defaults: dict[str, Any]
) -> ArchOption:
    """The option that says what the attention heads are: their number, or their channels."""
    if HEADS.name in given.options or HEAD_CHANNELS.name in given.options:
        return HEADS if HEADS.name in given.options else HEAD_CHANNELS
    if family in HEADS_OF_64 and unet["resblock_updown"]:
        defaults["num_head_channels"] = 64
    channels = defaults.get("num_head_channels")
    with_attention = {unet["level_channels"][level] for level in (*unet["attn_levels"], -1)}
    if channels is None or any(each % channels for each in with_attention):
        return HEADS
    return HEAD_CHANNELS


def _schedule(contents: Contents, parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The options of the noise schedule that is stored beside the weights; empty if there is none.

    Raises:
        CheckpointError: it is not one.
    """
    stored = next((part["betas"] for part in parts if _is_tensor(part.get("betas"))), None)
    if stored is None:
        return {}
    betas = contents.read_tensors({"betas": stored})["betas"].double()
    if not (2 <= len(betas) <= MAX_LEVELS and ((betas > 0) & (betas <= 1)).all()):
        raise CheckpointError(
            f"its betas are {len(betas):,} numbers; 2 to {MAX_LEVELS:,} above 0 and at most 1 are "
            "needed."
        )
    return schedule_options(betas.numpy())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor) and len(value.shape) == 1


def _parts(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A file's dict, and the dicts in it."""
    return [value, *(part for part in value.values() if isinstance(part, dict))]


FORMAT = FileFormat(NAME, recognizes, read, takes_config=True, options=OPTIONS, families=FAMILIES)
