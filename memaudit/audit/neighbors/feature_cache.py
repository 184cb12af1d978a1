"""Features of training images kept on disk, as decoded images are.

Encoding takes minutes to hours, and gives the same vectors every time. They are used only where the
same pixels meet the same encoder on the same kind of device, only what is the user's alone counts
(data/cache_folder.py), and a random part of the images is encoded again and compared. A scan with a
gate takes nothing from here. docs/threats.md says what that finds.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from memaudit.audit.neighbors.encoder import Encoder
from memaudit.audit.neighbors.feature_index import encode_images
from memaudit.data.cache_folder import (
    ABOUT,
    FEATURES,
    PART,
    VECTORS,
    CacheDir,
    NotPrivateError,
    cache_root,
    open_private,
    private_folder,
    remove_abandoned_parts,
    warn_unused,
)
from memaudit.data.images import ImageSet
from memaudit.data.room import free_disk
from memaudit.progress import Progress, silent

_VERSION = 1
"""Raise this when the same images and encoder give other features than before."""
WORTH_KEEPING = 10.0
"""Features that took at least this many seconds are kept."""
CHECKED = 256
"""Images that are encoded again and compared."""
REPEATS = 1e-8
"""Features of an image may differ by this share of ‖a‖² + ‖b‖²: 0.01 % of their length."""
_MAX_ABOUT_BYTES = 1 << 16
_SPARE_BYTES = 64 << 20


def kept_features(
    data: ImageSet,
    encoder: Encoder,
    *,
    cache_dir: CacheDir = None,
    progress: Progress = silent,
) -> np.ndarray:
    """What an encoder gives for images, from the cache or else encoded and kept there.

    Args:
        data: the images.
        encoder: turns them into vectors; a function, whose hash nobody knows, is always called.
        cache_dir: the cache's folder.
        progress: told how many have been encoded.

    Returns:
        float32 [N, F].

    Raises:
        CheckpointError: the encoder fails, or returns anything but a finite vector per image.
    """
    root = cache_root(cache_dir)
    if root is None or encoder.sha256 is None:
        return encode_images(data.images, encoder, progress=progress)
    name = _entry_name(data, encoder)
    found = _load(root, name, data, encoder)
    if found is not None:
        return found
    started = time.monotonic()
    features = encode_images(data.images, encoder, progress=progress)
    if time.monotonic() - started >= WORTH_KEEPING:
        try:
            _store(root, name, data, features)
        except (NotPrivateError, OSError) as error:
            warn_unused(data.source, error)
    return features


def _entry_name(data: ImageSet, encoder: Encoder) -> str:
    """A name that tells pixels, encoder, preprocessing and arithmetic."""
    prepared = encoder.preprocessing
    facts = [
        _VERSION,
        data.fingerprint,
        encoder.sha256,
        # The same weights may be those of two networks.
        None if encoder.is_program else encoder.name,
        None if prepared is None else astuple(prepared),
        encoder.device.type,
        torch.__version__,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _load(root: Path, name: str, data: ImageSet, encoder: Encoder) -> np.ndarray | None:
    """The features in an entry; None if it is missing, damaged or not to be trusted."""
    place = root / FEATURES / name
    try:
        with private_folder(root, FEATURES, name) as folder:
            with open_private(ABOUT, folder, place / ABOUT, root) as about_file:
                about = json.loads(about_file.read(_MAX_ABOUT_BYTES))
                with suppress(OSError):
                    os.utime(about_file.fileno())  # `memaudit cache` says when it was used
            rows = np.array(sorted(_drawn(len(data))))
            again = encoder(data.images[rows])
            shape = (len(data), again.shape[1])
            with open_private(VECTORS, folder, place / VECTORS, root) as file:
                if os.fstat(file.fileno()).st_size != 4 * shape[0] * shape[1]:
                    return None
                content = file.read()
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            return None
    except NotPrivateError as error:
        warn_unused(data.source, error)
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # however a file is damaged, the images are encoded again
    features = np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape)
    a, b = features[rows].astype(np.float64), again.astype(np.float64)
    size = np.square(a).sum(1) + np.square(b).sum(1)
    if not (np.square(a - b).sum(1) <= REPEATS * size).all():  # nor NaN
        warn_unused(
            data.source,
            f"{place} holds other features than the encoder gives, though its checksum is right: "
            "somebody changed it. What earlier scans by these features said may be wrong",
        )
        return None
    return features


def _drawn(number: int) -> list[int]:
    """Images to encode again, by the system's randomness: nobody can know which ones."""
    return secrets.SystemRandom().sample(range(number), min(CHECKED, number))


def _store(root: Path, name: str, data: ImageSet, features: np.ndarray) -> None:
    """Keep features; the entry appears as a whole.

    Raises:
        NotPrivateError, OSError: the cache cannot be used, or the disk is full.
    """
    content = np.ascontiguousarray(features, dtype="<f4").data
    with private_folder(root, FEATURES, create=True):
        entries = root / FEATURES
        remove_abandoned_parts(entries)
        if free_disk(entries) < content.nbytes + _SPARE_BYTES:
            raise OSError(f"{root} has no room for {content.nbytes:,} bytes of features")
        part = Path(tempfile.mkdtemp(dir=entries, prefix=PART))
        try:
            with open(part / VECTORS, "xb") as file:
                file.write(content)
            about = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "source": os.path.abspath(data.source),
                "shape": [len(data), *data.image_shape],
            }
            (part / ABOUT).write_text(json.dumps(about))
            shutil.rmtree(entries / name, ignore_errors=True)
            os.rename(part, entries / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
