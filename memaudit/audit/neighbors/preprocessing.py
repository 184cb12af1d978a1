"""What encoders are given: images resized, cropped and scaled as each of them was made for.

Legend: B images, C channels, H W height and width.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from memaudit.audit.neighbors.config import PreprocessingName
from memaudit.errors import DataError


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder is given: (u/255 - mean) / std for bytes u, after resizing and cropping."""

    mean: tuple[float, ...]
    """One number, or one per channel."""
    std: tuple[float, ...]
    resize: int | None = None
    """Pixels of the shorter edge; None keeps the images' own size."""
    crop: int | None = None
    """Height and width that are cut from the middle; None cuts nothing."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized, as Pillow does it: with antialiasing, first along the width and then
    along the height, each time rounded to bytes."""
    is_color: bool = False
    """Whether gray images are given as three equal channels."""

    def __call__(self, images: np.ndarray, device: torch.device) -> Tensor:
        """Prepare images.

        Args:
            images: uint8 [B, C, H, W].
            device: where the encoder is.

        Returns:
            float32 [B, C or 3, H', W'] on the device.

        Raises:
            DataError: the images have another number of channels than the preprocessing.
        """
        channels = images.shape[1]
        is_gray = self.is_color and channels == 1
        if len(self.mean) not in (1, channels) and not is_gray:
            raise DataError(
                f"The images have {channels} channel(s), but the preprocessing is for "
                f"{len(self.mean)}. Use unit or signed, with an encoder for such images."
            )
        x = torch.from_numpy(np.array(images)).to(device).to(torch.float32)
        if self.resize is not None:
            H, W = x.shape[2:]
            short = min(H, W)
            wide, high = int(self.resize * W / short), int(self.resize * H / short)
            x = self._resized(self._resized(x, (H, wide)), (high, wide))
        if self.crop is not None:
            H, W = x.shape[2:]
            top, left = (round((side - self.crop) / 2) for side in (H, W))
            x = x[:, :, top : top + self.crop, left : left + self.crop]
        if is_gray:
            x = x.expand(-1, 3, -1, -1)
        mean, std = (
            torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (x / 255 - mean) / std

    def _resized(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size == x.shape[2:]:
            return x
        x = interpolate(x, size, mode=self.interpolation, antialias=True, align_corners=False)
        return (x + 0.5).floor().clamp(0, 255)


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PREPROCESSING: dict[PreprocessingName, Preprocessing] = {
    "unit": Preprocessing(mean=(0.0,), std=(1.0,)),  # [0, 1]
    "signed": Preprocessing(mean=(0.5,), std=(0.5,)),  # [-1, 1]
    "imagenet": IMAGENET,
    # Pizzi et al., "A self-supervised descriptor for image copy detection", arXiv:2202.10261.
    "sscd": replace(IMAGENET, resize=288, is_color=True),
    # The same network as it is used for generated images, Somepalli et al., arXiv:2212.03860.
    "sscd-224": Preprocessing(mean=(0.5,), std=(0.5,), resize=256, crop=224, is_color=True),
}
DINOV2 = replace(IMAGENET, resize=256, crop=224, interpolation="bicubic", is_color=True)
"""As DINOv2's own evaluations of whole images."""
CLIP = Preprocessing(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
    is_color=True,
)
"""As CLIP's; resized and cropped to the size that the weights are for."""
