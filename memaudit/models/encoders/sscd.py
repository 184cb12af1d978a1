"""SSCD's network: a ResNet-50 that describes images for the detection of copies.

The published weights (`*.torchvision.pt`) are those of torchvision's ResNet-50 whose average
pooling is replaced by a generalized mean over the positions, (mean max(x, 1e-6)³)^⅓, and whose last
layer gives 512 numbers; the descriptor is scaled to length 1. Pizzi et al., "A self-supervised
descriptor for image copy detection", arXiv:2202.10261, section 4.

Legend: B images, C channels, H W height and width.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from memaudit.errors import CheckpointError
from memaudit.models.encoders.published_weights import (
    Layout,
    OpenedNetwork,
    Tensors,
    open_weights,
)

NUM_FEATURES = 512
POWER = 3.0
SMALLEST = 1e-6
ANCHOR = r"layer4\.2\.conv3\.weight"
COUNTER = ".num_batches_tracked"
"""How many batches a normalization has averaged over; not needed once it is trained."""
NEEDED = (
    "SSCD's published weights of a ResNet-50 are needed, as in sscd_disc_mixup.torchvision.pt of "
    "github.com/facebookresearch/sscd-copy-detection; its .torchscript.pt is a program."
)


class GeneralizedMean(nn.Module):
    """(mean over H and W of max(x, 1e-6)^p)^(1/p). Radenović et al., arXiv:1711.02512, Eq. 3."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool x, float32 [B, C, H, W], to [B, C, 1, 1]."""
        return x.clamp(min=SMALLEST).pow(POWER).mean([2, 3], keepdim=True).pow(1 / POWER)


class SSCD(nn.Module):
    """Images float32 [B, 3, H, W] → descriptors float32 [B, 512] of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet50(num_classes=NUM_FEATURES, norm_layer=FrozenBatchNorm2d)
        self.backbone.avgpool = GeneralizedMean()

    def forward(self, x: Tensor) -> Tensor:
        """Describe images whose values are normalized as published."""
        return normalize(self.backbone(x))


def open_sscd(path: str | Path) -> OpenedNetwork:
    """Read SSCD's published weights of a ResNet-50.

    Raises:
        CheckpointError: the file is missing, broken, or holds other weights: those of a
            classifier, for example, or of SSCD's larger network.
    """
    return open_weights(path, {ANCHOR: _lay_out}, needed=NEEDED)


def _lay_out(tensors: Tensors) -> Layout:
    used = {name: t for name, t in tensors.items() if not name.endswith(COUNTER)}
    last = used.get("fc.weight")
    if last is None or last.shape[:1] != (NUM_FEATURES,):
        what = "no last layer" if last is None else f"a last layer of {list(last.shape)}"
        raise CheckpointError(
            f"it holds a ResNet with {what} (fc.weight), but SSCD's gives {NUM_FEATURES} numbers: "
            f"these are the weights of another network, perhaps of a classifier. {NEEDED}"
        )
    return Layout(
        used,
        SSCD,
        lambda weights: {f"backbone.{name}": weight for name, weight in weights.items()},
    )
