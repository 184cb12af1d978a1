"""What encoders are given, against torchvision's transforms of Pillow's images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from memaudit.audit.neighbors.preprocessing import CLIP, DINOV2, PREPROCESSING, Preprocessing
from memaudit.errors import DataError

CPU = torch.device("cpu")
NORMALIZED = {
    "sscd": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "sscd-224": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
RESIZED = {
    "sscd": (transforms.Resize(288),),
    "sscd-224": (transforms.Resize(256), transforms.CenterCrop(224)),
    "dinov2": (
        transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
    ),
}


def ours(name: str) -> Preprocessing:
    return DINOV2 if name == "dinov2" else PREPROCESSING[name]


@pytest.mark.parametrize("shape", [(32, 32), (40, 57), (301, 300)])
@pytest.mark.parametrize("name", RESIZED)
def test_it_is_the_published_one(name: str, shape: tuple[int, int]):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = transforms.Compose(
        [*RESIZED[name], transforms.ToTensor(), transforms.Normalize(*NORMALIZED[name])]
    )(Image.fromarray(image))
    (found,) = ours(name)(image.transpose(2, 0, 1)[None], CPU)
    assert found.shape == theirs.shape
    levels = (found - theirs).abs() * torch.tensor(NORMALIZED[name][1]).view(3, 1, 1) * 255
    assert levels.max() < 1.01 and (levels > 0.5).float().mean() < 0.02  # Pillow rounds integers


def test_gray_images_are_given_as_three_equal_channels():
    gray = np.random.default_rng(0).integers(0, 256, (2, 1, 20, 20), dtype=np.uint8)
    for preprocessing in (PREPROCESSING["sscd"], PREPROCESSING["sscd-224"], DINOV2):
        x = preprocessing(gray, CPU)
        torch.testing.assert_close(x, preprocessing(gray.repeat(3, axis=1), CPU))
    with pytest.raises(DataError, match=r"2 channel\(s\), but the preprocessing is for 3"):
        CLIP(gray.repeat(2, axis=1), CPU)
