"""Integer products against int64, at sizes that do not suit the machine."""

import numpy as np
import pytest
import torch

from memaudit.models.device_rows import DeviceRows
from memaudit.models.integer_products import (
    from_digits,
    has_fast_int8,
    int8_product,
    int8_sum,
    to_digits,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def integers(seed, *shape, low=-128, high=128, dtype=torch.int8):
    values = np.random.default_rng(seed).integers(low, high, shape)
    return torch.from_numpy(values).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 27), (20, 9, 64), (2, 3, 131_001)])
def test_products_and_sums_are_exact(shape, device):
    num_rows, num_images, num_values = shape
    x, y = integers(0, num_rows, num_values), integers(1, num_images, num_values)
    x[0], y[0] = -128, -128  # the largest sum
    found = int8_product(x.to(device), y.to(device)).cpu()
    assert torch.equal(found.long(), x.long() @ y.long().T)
    weights = integers(2, num_rows, num_images)
    found = int8_sum(weights.to(device), y.to(device)).cpu()
    assert torch.equal(found.long(), weights.long() @ y.long())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("num_digits", "dtype"),
    [(1, torch.int32), (3, torch.int32), (4, torch.int32), (5, torch.int64), (7, torch.int64)],
)
def test_digits_are_those_of_the_integers(num_digits, dtype, device):
    limit = sum(127 * 256**k for k in range(num_digits))
    values = integers(0, 5, 9, low=-limit, high=limit + 1, dtype=torch.int64)
    values[0, :3] = torch.tensor([limit, -limit, 0])
    digits = to_digits(values.to(dtype).to(device), num_digits).cpu()
    assert digits.shape == (5 * num_digits, 9)
    places = digits.view(num_digits, 5, 9).long()
    assert torch.equal(sum(places[k] * 256**k for k in range(num_digits)), values)
    if limit < 2**52:
        assert torch.equal(from_digits(digits.to(device).int(), num_digits).cpu().long(), values)


def test_whether_integers_are_fast_is_known_without_trying_twice():
    assert has_fast_int8(torch.device("cpu")) is has_fast_int8(torch.device("cpu"))
    assert not has_fast_int8(torch.device("meta"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_rows_are_pixels_less_128_kept_or_read_in_their_order(resident_bytes, device, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 12), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    order = np.random.default_rng(1).permutation(50)
    expected = torch.from_numpy(pixels.astype(np.int16) - 128)
    for given in (None, order):
        rows = DeviceRows(mapped, torch.device(device), order=given, resident_bytes=resident_bytes)
        assert rows.are_resident == (resident_bytes > 0)
        wanted = expected if given is None else expected[order]
        found = [(part, y.cpu()) for part, y in rows.blocks(slice(3, 50), 20)]
        assert [part for part, _ in found] == [slice(3, 23), slice(23, 43), slice(43, 50)]
        assert torch.equal(torch.cat([y for _, y in found]).short(), wanted[3:])
        index = torch.tensor([7, 0, 7, 49])
        assert torch.equal(rows.take(index.to(device)).cpu().short(), wanted[index])
