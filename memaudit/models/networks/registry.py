"""The U-Nets that the `model_type` of a configuration may name.

To add a network: one file in this folder with its class, imported and listed here. The class takes
(img_resolution, in_channels, out_channels, *, label_dim, and options of its own, annotated) and its
forward (x, noise_labels, class_labels), with further inputs by keyword.
"""

from torch import nn

from memaudit.models.networks.ddpm import DDPMUNet
from memaudit.models.networks.dhariwal import DhariwalUNet
from memaudit.models.networks.dit import DiT
from memaudit.models.networks.lucidrains import LucidrainsUNet
from memaudit.models.networks.monai import MONAIUNet
from memaudit.models.networks.openai import OpenAIUNet
from memaudit.models.networks.song import SongUNet
from memaudit.models.networks.uvit import UViT

NETWORKS: dict[str, type[nn.Module]] = {
    "SongUNet": SongUNet,
    "DhariwalUNet": DhariwalUNet,
    "LucidrainsUNet": LucidrainsUNet,
    "MONAIUNet": MONAIUNet,
    "DDPMUNet": DDPMUNet,
    "UViT": UViT,
    "DiT": DiT,
    "OpenAIUNet": OpenAIUNet,
}


def unet_class(model_type: str) -> type[nn.Module]:
    """The U-Net of that name.

    Raises:
        ValueError: there is none; the message lists the known ones.
    """
    if model_type not in NETWORKS:
        raise ValueError(f"model_type must be one of {', '.join(NETWORKS)}; got {model_type!r}")
    return NETWORKS[model_type]
