"""NIfTI and DICOM, written by nibabel and pydicom and read back as slices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
        ({"PhotometricInterpretation": "RGB"}, "gray images are read"),
        ({"PixelData": bytes(2)}, "has .* bytes|lacks pixels"),
    ],
)
def test_a_dicom_that_cannot_be_read_is_told(
    values: dict[str, Any], message: str, tmp_path: Path, volume: np.ndarray
) -> None:
    write_dicom(tmp_path / "a.dcm", volume[0], **values)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "a.dcm")
