"""NIfTI and DICOM, written by nibabel and pydicom and read back as slices."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import store_files
from helpers.images import Encode
from helpers.limited import run_python
from PIL import Image

from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.sources import open_images
from memaudit.errors import DataError


@pytest.fixture
def volume() -> np.ndarray:
    """Slices from the feet to the head, rows from front to back, columns from right to left."""
    return np.random.default_rng(3).integers(0, 256, (4, 6, 5), np.uint8)


def write_nifti(path: Path, volume: np.ndarray, axes: str) -> None:
    """The volume with its axes stored in another order and direction, as the matrix says."""
    nibabel = pytest.importorskip("nibabel")
    plain = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-2.0, -3, 4, 1]))
    wanted = nibabel.orientations.axcodes2ornt(axes)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(plain.affine), wanted)
    nibabel.save(plain.as_reoriented(turn), path)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SLA"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_is_turned_as_its_matrix_says(
    suffix: str, axes: str, tmp_path: Path, volume: np.ndarray
) -> None:
    write_nifti(tmp_path / f"a.{suffix}", volume, axes)
    images = open_images(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(images.images[:, 0], volume)
    assert images.names[1] == f"a.{suffix}[1]"


def test_volumes_in_a_folder_are_groups(tmp_path: Path, volume: np.ndarray) -> None:
    for name in ("p1", "p2"):
        write_nifti(tmp_path / f"{name}.nii.gz", volume, "RAS")
    images = open_images(tmp_path)
    assert images.groups == ["p1.nii.gz"] * 4 + ["p2.nii.gz"] * 4
    assert images.notes == ()


@pytest.mark.parametrize("mask", ["p1_seg.nii.gz", "p1-Mask.nii.gz", "labelsTr/p1.nii.gz"])
def test_volumes_named_like_masks_are_told(mask: str, tmp_path: Path, volume: np.ndarray) -> None:
    (tmp_path / mask).parent.mkdir(exist_ok=True)
    for name in ("p1_segovia.nii.gz", mask):
        write_nifti(tmp_path / name, volume, "RAS")
    (note,) = open_images(tmp_path).notes
    assert "1 volume is named like masks" in note and mask in note and "segovia" not in note


def test_sixteen_bits_need_a_window(tmp_path: Path, volume: np.ndarray) -> None:
    write_nifti(tmp_path / "a.nii", volume.astype(np.int16) * 10 - 1000, "RAS")
    with pytest.raises(DataError, match=r"a.nii holds numbers from -\d+ to 1\d+"):
        open_images(tmp_path / "a.nii")
    images = open_images(tmp_path / "a.nii", Preparation(window=(-1000, 1550)))
    np.testing.assert_array_equal(images.images[:, 0], volume)


def test_a_nifti_without_its_data_is_cut_short(tmp_path: Path, volume: np.ndarray) -> None:
    write_nifti(tmp_path / "a.nii.gz", volume, "RAS")
    write_nifti(tmp_path / "b.nii", volume, "RAS")
    data = (tmp_path / "b.nii").read_bytes()
    (tmp_path / "b.nii").write_bytes(data[:-1])
    with pytest.raises(DataError, match="cut short"):
        open_images(tmp_path / "b.nii")
    bomb = bytearray(data)
    bomb[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / "b.nii").write_bytes(bomb)
    with pytest.raises(DataError, match="its file cannot hold that"):
        open_images(tmp_path / "b.nii")


@pytest.mark.parametrize("kept", [12, -12])
def test_a_packed_nifti_that_was_cut_is_named_in_its_folder(
    kept: int, tmp_path: Path, volume: np.ndarray
) -> None:
    write_nifti(tmp_path / "a.nii.gz", volume, "RAS")
    data = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data[:kept])
    with pytest.raises(DataError, match="a.nii.gz cannot be read: .* Fetch it again"):
        open_images(tmp_path)


def write_dicom(path: Path, pixels: np.ndarray, **values: Any) -> None:
    """One slice as a scanner writes it."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientID, data.SeriesInstanceUID = "p1", "1.2.3"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    for name, value in values.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def test_a_series_is_in_the_order_of_its_positions(tmp_path: Path, volume: np.ndarray) -> None:
    for i, at in enumerate([2, 0, 3, 1]):
        (tmp_path / "ct").mkdir(exist_ok=True)
        write_dicom(
            tmp_path / f"ct/I{i}",
            volume[at],
            ImagePositionPatient=[0, 0, 5.0 * at],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            InstanceNumber=i,
        )
    write_dicom(tmp_path / "ct/J.dcm", volume[0], PatientID="p2")
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images.images[:, 0], volume[[0, 1, 2, 3, 0]])
    assert images.groups == ["p1"] * 4 + ["p2"]
    assert open_images(images.source, layout=Layout(groups_from="own")).group_kind == "patient"
    assert images.names[0] == "ct/I1"


def test_files_beside_a_series_are_counted(tmp_path: Path, volume: np.ndarray) -> None:
    write_dicom(tmp_path / "a.dcm", volume[0])
    write_dicom(tmp_path / "report.dcm", volume[0], Rows=None)
    (tmp_path / "old.ima").write_bytes(b"no magic number")
    (tmp_path / "b.nrrd").write_bytes(b"")
    images = open_images(tmp_path)
    assert len(images) == 1 and images.unread == {".dcm": 1, ".ima": 1, ".nrrd": 1}


def test_the_window_of_the_file_is_used_and_said(tmp_path: Path, volume: np.ndarray) -> None:
    # Hounsfield units -1000 … -745, of which a window of 256 makes the bytes again.
    stored = volume[0].astype(np.uint16)
    scale = {"RescaleSlope": 1, "RescaleIntercept": -1000}
    window = {"WindowCenter": -1000 + 128, "WindowWidth": 256}
    write_dicom(tmp_path / "a.dcm", stored, **scale, **window)
    images = open_images(tmp_path / "a.dcm")
    np.testing.assert_array_equal(images.images[0, 0], volume[0])
    assert "windows of the files were used: -1000 to -745" in images.notes[0]
    write_dicom(
        tmp_path / "b.dcm", stored, **scale, **window, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(open_images(tmp_path / "b.dcm").images[0, 0], 255 - volume[0])
    write_dicom(tmp_path / "c.dcm", stored, **scale)
    with pytest.raises(DataError, match=r"c.dcm holds numbers from -1000 to -7\d\d|from -99\d"):
        open_images(tmp_path / "c.dcm")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Rows": 60000, "Columns": 60000}, "announces 1 images of 60000x60000, 8 bits each"),
        ({"PhotometricInterpretation": "RGB"}, "gray images are read, and RGB and YBR of 8 bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is PALETTE COLOR of 1 samples"),
        ({"PixelData": bytes(2)}, "has .* bytes|lacks pixels"),
    ],
)
def test_a_dicom_that_cannot_be_read_is_told(
    values: dict[str, Any], message: str, tmp_path: Path, volume: np.ndarray
) -> None:
    write_dicom(tmp_path / "a.dcm", volume[0], **values)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "a.dcm")


def write_compressed(path: Path, syntax: str, frames: list[bytes], **values: Any) -> None:
    """A DICOM file of frames that are compressed already."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    write_dicom(path, np.zeros((16, 24), np.uint8), **values)
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData, data["PixelData"].VR = encapsulate(frames), "OB"
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)


def test_compressed_series_are_unpacked(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pixels = np.random.default_rng(0).integers(0, 4096, (16, 24), np.uint16)
    write_dicom(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=11)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.compress(pydicom.uid.RLELossless)
    data.save_as(tmp_path / "a.dcm")
    images = open_images(tmp_path / "a.dcm", Preparation(window=(0, 4095)))
    expected = np.floor(pixels / 4095 * 255 + 0.5)
    np.testing.assert_array_equal(images.images[0, 0], expected)


@pytest.mark.parametrize("form", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("in_color", [False, True])
def test_compressed_frames_are_those_that_pillow_decodes(
    form: str, in_color: bool, tmp_path: Path, encode: Encode
) -> None:
    pytest.importorskip("pydicom")
    smooth = np.add.outer(np.arange(16) * 9, np.arange(24) * 4).astype(np.uint8)
    image = np.stack([smooth, smooth[::-1], smooth[:, ::-1]])[: 3 if in_color else 1]
    frames = [encode(image, form), encode(255 - image, form)]
    values: dict[str, Any] = {"NumberOfFrames": 2}
    if in_color:
        ybr = "YBR_FULL_422" if form == "JPEG" else "YBR_RCT"
        values |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": ybr}
    syntax = "1.2.840.10008.1.2.4." + ("50" if form == "JPEG" else "90")
    write_compressed(tmp_path / "a.dcm", syntax, frames, **values)
    images = open_images(tmp_path / "a.dcm")
    assert images.images.shape == (2, len(image), 16, 24)
    for found, frame in zip(images.images, frames, strict=True):
        theirs = np.atleast_3d(np.asarray(Image.open(io.BytesIO(frame)))).transpose(2, 0, 1)
        assert np.abs(found.astype(int) - theirs).max() <= (2 if form == "JPEG" else 0)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_color_becomes_rgb(planar: int, photometric: str, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    image = np.random.default_rng(0).integers(60, 200, (4, 6, 3), np.uint8)
    stored = Image.fromarray(image)
    stored = stored if photometric == "RGB" else stored.convert("YCbCr")
    values = np.asarray(stored)
    data = values.transpose(2, 0, 1) if planar else values
    write_dicom(
        tmp_path / "a.dcm",
        image[..., 0],
        SamplesPerPixel=3,
        PlanarConfiguration=planar,
        PhotometricInterpretation=photometric,
        PixelData=data.tobytes(),
    )
    found = open_images(tmp_path / "a.dcm").images[0].transpose(1, 2, 0)
    assert np.abs(found.astype(int) - image).max() <= (0 if photometric == "RGB" else 2)


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        ("1.2.840.10008.1.2.4.80", "JPEG-LS .* a library is missing: pip install pylibjpeg"),
        ("1.2.840.10008.1.2.4.100", "is compressed .* Unpack it: gdcmconv --raw a.dcm"),
        ("1.2.840.10008.1.2.1.99", "is packed as a whole. Unpack it"),
        ("1.2.840.10008.1.2.5", "a.dcm cannot be read"),
        ("1.2.840.10008.1.2.4.50", "a.dcm cannot be read"),
        ("1.2.840.10008.1.2.4.90", "a.dcm cannot be read"),
    ],
)
def test_compressed_files_that_cannot_be_read_name_a_remedy(
    syntax: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("pydicom")
    write_compressed(tmp_path / "a.dcm", syntax, [b"\xff\xd8nothing at all"])
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        (b"\x00\x00\x00\x14ftyp", b"\x00\x00\x00\x00ftyp"),
        (b"jp2c", b"jp2x"),  # no codestream: behind the last box is what pads the frame, if at all
    ],
)
def test_boxes_that_lead_nowhere_are_not_followed(
    whole: bytes, broken: bytes, tmp_path: Path
) -> None:
    """pydicom 3.0.2 follows a box of no length forever, so that this is tried where it can end."""
    pytest.importorskip("pydicom")
    data = store_files.compressed_dicom("JPEG2000")
    assert whole in data
    path = tmp_path / "one.dcm"
    path.write_bytes(data.replace(whole, broken))
    code = "import sys; from memaudit.data.sources import open_images; open_images(sys.argv[1])"
    done = run_python(code, path)
    assert done.returncode == 1 and "DataError: one.dcm cannot be read" in done.stderr


def test_a_frame_is_not_larger_than_announced(tmp_path: Path, encode: Encode) -> None:
    pytest.importorskip("pydicom")
    frame = encode(np.zeros((1, 4000, 4000), np.uint8), "JPEG")
    write_compressed(tmp_path / "a.dcm", "1.2.840.10008.1.2.4.50", [frame])
    with pytest.raises(DataError, match=r"a.dcm (cannot be read|holds|announces)"):
        open_images(tmp_path / "a.dcm")


def test_a_volume_over_time_is_all_of_its_slices(tmp_path: Path, volume: np.ndarray) -> None:
    nibabel = pytest.importorskip("nibabel")
    over_time = np.stack([volume, 255 - volume, volume // 2])  # time, slices, rows, columns
    stored = nibabel.Nifti1Image(over_time.transpose(3, 2, 1, 0), np.diag([-1.0, -1, 1, 1]))
    nibabel.save(stored, tmp_path / "fmri.nii.gz")
    images = open_images(tmp_path / "fmri.nii.gz")
    np.testing.assert_array_equal(images.images[:, 0], over_time.reshape(-1, *volume.shape[1:]))
    assert set(images.groups or ()) == {"fmri.nii.gz"} and images.names[5] == "fmri.nii.gz[5]"
