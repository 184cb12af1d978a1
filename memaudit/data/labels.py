"""Labels that a user names beside a source: by the prefix of file names, from a file, or none."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from memaudit.data.images import as_labels, number_classes
from memaudit.data.layout import LABELS_FROM
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import side_file_bytes
from memaudit.data.side_tables import keys_of, read_table
from memaudit.errors import DataError
from memaudit.files import read_regular
from memaudit.wording import counted, listed

_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")


def relabel(contents: Contents, labels_from: str | None) -> Contents:
    """The same images with the labels that `Layout.labels_from` asks for.

    Raises:
        DataError: the labels cannot be read, or an image has none.
        OSError: there is no such file.
    """
    if labels_from is None:
        return contents
    labels, class_names = contents.labels, contents.class_names
    notes: tuple[str, ...] = ()
    if labels_from == "folder":
        if contents.labels_from != "folder":  # a reader of folders says so
            raise DataError(
                f"{contents.source} has no folders to take labels from; leave {{labels_from}} out.",
                field="labels_from",
            )
    elif labels_from == "none":
        labels, class_names = None, ()
    elif labels_from == "prefix":
        labels, class_names = _prefixes(contents)
    else:
        labels, class_names, notes = _from_csv(contents, Path(labels_from))
    return replace(
        contents,
        labels=labels,
        class_names=class_names,
        labels_from=labels_from,
        notes=contents.notes + notes,
    )


def _prefixes(contents: Contents) -> tuple[np.ndarray, tuple[str, ...]]:
    """The part of each file's name before its first _, as improved-diffusion takes it."""
    stems = [PurePosixPath(name).name.partition("_") for name in contents.names]
    without = [
        name
        for name, (prefix, line, _) in zip(contents.names, stems, strict=True)
        if not (prefix and line)
    ]
    if without:
        raise DataError(
            f"{counted(len(without), 'image has', 'images have')} no class before a _ in "
            f"{'its name' if len(without) == 1 else 'their names'}, such as cat_12.png has "
            f"({listed(without)}); {contents.source} cannot be labeled by prefixes.",
        )
    return number_classes([prefix for prefix, _, _ in stems])


def _from_csv(
    contents: Contents, file: Path
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Labels, class names and notes from a CSV file with a name and a label in each row.

    Labels that are all whole numbers are class indices; others are names of classes.
    """
    if not file.exists():
        raise DataError(
            f"There is no file {file} to take labels from. {{labels_from}} is "
            f"{', '.join(LABELS_FROM)} or a CSV file.",
            field="labels_from",
        )
    data = read_regular(file, side_file_bytes(len(contents.names)))
    stated = read_table(data, file, "label", _LABEL_COLUMNS).values
    found, missing, used = [], [], set()
    for name, keys in zip(contents.names, keys_of(contents.names), strict=True):
        key = next((key for key in keys if key in stated), None)
        if key is None:
            missing.append(name)
        else:
            used.add(key)
            found.append(stated[key])
    if missing:
        raise DataError(
            f"{file} has no label for {counted(len(missing), 'image', 'images')} of "
            f"{contents.source}: {listed(missing)}. Every image needs one."
        )
    notes: tuple[str, ...] = ()
    if unused := len(stated) - len(used):
        rows = counted(unused, "row", "rows")
        some_names = listed(stated.keys() - used)
        notes = (f"{rows} of {file} name no image of {contents.source} ({some_names}).",)
    if all(label.isascii() and label.isdecimal() and len(label) < 19 for label in found):
        labels = as_labels([int(label) for label in found], len(found), str(file))
        return labels, (), notes
    return (*number_classes(found), notes)
