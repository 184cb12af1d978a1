"""Tables of images, as Hugging Face keeps them; what their columns mean.

A row holds an image as the bytes of an image file: a struct {bytes, path}, or bytes alone. What the
columns mean is said in the schema's metadata, under `huggingface`; without it, names and types
tell. The library `datasets` is not needed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from memaudit.data.images import as_labels, number_classes
from memaudit.data.preparation import Preparation
from memaudit.data.readers.captions import MAX_CAPTION_BYTES
from memaudit.data.readers.encoded_images import encoded_contents
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.shards import errors_of, rows_of_parts
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.unpickler import MAX_NAME
from memaudit.wording import listed

EXTRA = "data"
"""The extra that brings pyarrow."""
_IMAGE_COLUMNS = ("image", "images", "img", "jpg", "png", "webp", "picture")
_CAPTION_COLUMNS = ("text", "caption", "prompt", "captions", "description")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean."""

    image: str
    data: str
    """The column of bytes: `image.bytes`, or `image` itself."""
    path: str | None
    """The column of names."""
    label: str | None
    caption: str | None
    """The column of texts."""
    class_names: tuple[str, ...]
    other_images: tuple[str, ...] = ()
    """Columns that hold images, too, or may."""

    @property
    def small(self) -> list[str]:
        """All but the images."""
        return [name for name in (self.path, self.label, self.caption) if name is not None]


class Shard(Protocol):
    """One file of a table."""

    name: str
    num_rows: int
    schema: Any
    """pyarrow.Schema."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the file."""

    def batches(
        self, columns: Sequence[str], rows: np.ndarray | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield the first row of each record batch, and the batch; those without `rows` may be
        missing."""


def read_table(shards: Sequence[Shard], path: Path, preparation: Preparation) -> Contents:
    source = str(path)
    schema = shards[0].schema
    with errors_of(source):  # a name need not be a text
        columns = _columns(schema, source)
    for shard in shards:
        if not shard.schema.equals(schema):
            raise DataError(
                f"{source}: {shard.name} has other columns than {shards[0].name}. Give one of them."
            )
    sizes = [shard.num_rows for shard in shards]
    check_memory(200 * sum(sizes), f"Naming the {sum(sizes):,} images of {source}")
    values: dict[str, list[Any]] = {name: [] for name in columns.small}
    for part, shard in enumerate(shards):
        for _, batch in shard.batches(columns.small) if columns.small else ():
            for name, found in values.items():
                found.extend(_values(batch, name))
        for name, found in values.items():
            if len(found) != sum(sizes[: part + 1]):
                raise DataError(f"{source}: {shard.name} is damaged: {name} lacks rows.")
    paths = values.get(columns.path or "", [])
    labels = values.get(columns.label or "", [])
    captions = [_caption(value) for value in values.get(columns.caption or "", [])]
    numbers, class_names = _labels(labels, columns, source) if columns.label else (None, ())

    def read(rows: np.ndarray) -> Iterator[bytes]:
        for part, inside in rows_of_parts(rows, sizes):
            yield from _images(shards[part], columns, inside, source)

    contents = encoded_contents(
        source,
        _names(shards, paths),
        read,
        num_bytes=sum(shard.num_bytes for shard in shards),
        preparation=preparation,
        labels=numbers,
        class_names=class_names,
    )
    has_captions = any(caption is not None for caption in captions)
    notes = contents.notes
    if columns.other_images:
        notes += (
            f"{source} has several columns of images: those in {columns.image} were taken, and "
            f"those in {listed(columns.other_images)} were not.",
        )
    return replace(contents, captions=captions if has_captions else None, notes=notes)


def _caption(value: Any) -> str | None:
    """The text of an image, of several the first."""
    text = value[0] if isinstance(value, list) and value else value
    return text[:MAX_CAPTION_BYTES] if isinstance(text, str) else None


def _images(shard: Shard, columns: Columns, rows: np.ndarray, source: str) -> Iterator[bytes]:
    done = 0
    for first, batch in shard.batches([columns.data], rows):
        values = _column(batch, columns.data)
        until = np.searchsorted(rows, first + batch.num_rows)
        for row in rows[done:until]:
            data = values[int(row - first)].as_py()
            if not isinstance(data, bytes):
                raise DataError(
                    f"{source}: {shard.name}[{row}] has no image in {columns.data}. Where the set "
                    "holds paths only, give the folder of the image files instead."
                )
            yield data
        done = int(until)
    if done != len(rows):
        raise DataError(f"{source}: {shard.name} is damaged: it lacks rows.")


def _names(shards: Sequence[Shard], paths: Sequence[Any]) -> list[str]:
    """The paths of the images in the table if they tell all images apart, else file and row."""
    if paths and all(isinstance(path, str) and 0 < len(path) <= MAX_NAME for path in paths):
        if len(set(paths)) == len(paths):
            return list(paths)
    return [f"{shard.name}[{i}]" for shard in shards for i in range(shard.num_rows)]


def _column(batch: Any, name: str) -> Any:
    outer, _, inner = name.partition(".")
    array = batch.column(batch.schema.get_field_index(outer))
    if not inner:
        return array
    # A struct that is null hides its fields.
    index = array.type.get_field_index(inner)
    return array.flatten()[index]


def _values(batch: Any, name: str) -> list[Any]:
    with errors_of(name):  # a text need not be one
        values: list[Any] = _column(batch, name).to_pylist()
    return values


def _columns(schema: Any, source: str) -> Columns:
    """What the columns are, by what Hugging Face says of them, or by name and type.

    Raises:
        DataError: none holds images, or several do.
    """
    features = _features(schema)
    fields = {field.name: field.type for field in schema if "." not in field.name}
    images = {name: data for name, kind in fields.items() if (data := _data_column(name, kind))}
    called = [name for name in images if features.get(name, {}).get("_type") == "Image"]
    for names in (called, [name for name in _IMAGE_COLUMNS if name in images], list(images)):
        if len(names) == 1 or (names and names[0] in _IMAGE_COLUMNS):
            image = names[0]
            break
    else:
        held = listed(f"{name} ({kind})" for name, kind in fields.items())
        number = "several columns" if images else "no column"
        raise DataError(
            f"{source} has {number} of images; it has {held}. A column called image with the bytes "
            "of an image file, or a struct of bytes and path, is needed."
        )
    labels = [name for name in fields if features.get(name, {}).get("_type") == "ClassLabel"]
    labels = [name for name in _LABEL_COLUMNS if name in labels] or labels[:1]
    labels = labels or [
        name for name in _LABEL_COLUMNS if name in fields and _is_label(fields[name])
    ]
    label = labels[0] if labels else None
    caption = next((name for name in _CAPTION_COLUMNS if _are_texts(fields.get(name))), None)
    class_names = features.get(label, {}).get("names") if label else None
    if not isinstance(class_names, list) or not all(
        isinstance(name, str) and len(name) <= MAX_NAME for name in class_names
    ):
        class_names = []
    data = images[image]
    path = f"{image}.path" if data != image and _has_path(fields[image]) else None
    others = tuple(name for name in (called or images) if name != image)
    return Columns(image, data, path, label, caption, tuple(class_names), others)


def _data_column(name: str, kind: Any) -> str | None:
    """The column of bytes in one of this type."""
    if str(kind) in ("binary", "large_binary"):
        return name
    if str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0:
        inner = kind.field(kind.get_field_index("bytes")).type
        return f"{name}.bytes" if str(inner) in ("binary", "large_binary") else None
    return None


def _has_path(kind: Any) -> bool:
    index = kind.get_field_index("path")
    return index >= 0 and str(kind.field(index).type) in ("string", "large_string")


def _is_label(kind: Any) -> bool:
    return str(kind) in ("string", "large_string") or str(kind).startswith(("int", "uint"))


def _are_texts(kind: Any) -> bool:
    return (
        str(kind) in ("string", "large_string")
        or str(kind).startswith("list<")
        and (str(kind.value_type) in ("string", "large_string"))
    )


def _features(schema: Any) -> Mapping[str, Any]:
    """Hugging Face's description of the columns, by name; empty without one."""
    metadata = schema.metadata or {}
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def _labels(
    values: Sequence[Any], columns: Columns, source: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and class names; None where the set hides them as -1, as test sets do."""
    if all(value == -1 for value in values):
        return None, ()
    missing = next((i for i, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"{source}: row {missing} has no {columns.label}.")
    class_names = columns.class_names
    if all(isinstance(value, str) for value in values):
        if any(len(name) > MAX_NAME for name in values):
            raise DataError(f"{source}: {columns.label} holds long texts, which name no classes.")
        return number_classes(values)
    labels = as_labels(list(values), len(values), source)
    if class_names and labels.size and labels.max() >= len(class_names):
        raise DataError(
            f"{source} holds the label {labels.max()} in {columns.label}, and names "
            f"{len(class_names)} classes."
        )
    return labels, class_names
