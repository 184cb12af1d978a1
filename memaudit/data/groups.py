"""What images belong to, where a user says so: a patient, a video, an artist, a product.

The images of one group are not independent of each other: an audit counts groups beside images, and
takes the second neighbor of a generated image from another group than the first.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memaudit.data.layout import OWN_GROUPS
from memaudit.data.readers.captions import MAX_GROUP
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import side_file_bytes
from memaudit.data.side_tables import read_table, rows_of
from memaudit.errors import DataError
from memaudit.files import read_regular
from memaudit.wording import counted, listed, shown

LOST = "\ufffd"
"""Stands for bytes that could not be decoded: two names that hold it may differ there."""
MORE_ROWS = 16
"""How many times more images than those of a set a file of groups may name."""
_GROUP_COLUMNS = (
    "group",
    "patient",
    "patient_id",
    "subject",
    "subject_id",
    "person",
    "person_id",
    "identity",
    "video",
    "video_id",
    "artist",
    "product",
    "product_id",
    "scene",
    "series",
    "study",
    "volume",
    "donor",
    "case",
)


def regroup(contents: Contents, groups_from: str | None) -> Contents:
    """The same images with the groups that `Layout.groups_from` asks for.

    Raises:
        DataError: the groups cannot be read, or an image has none.
        OSError: the file cannot be read.
    """
    if groups_from is None:
        return contents
    kind = "group"
    if groups_from == OWN_GROUPS:
        if contents.groups is None:
            raise DataError(
                f"{contents.source} does not say which images belong together; give a regular "
                "expression or a CSV file to {groups_from}.",
                field="groups_from",
            )
        groups: Sequence[str | None] = contents.groups
        kind = contents.group_kind
    elif groups_from.lower().endswith((".csv", ".tsv")):
        groups, kind = _from_table(contents, Path(groups_from))
    else:
        groups, kind = _from_names(contents, groups_from)
    missing = [
        name for name, group in zip(contents.names, groups, strict=True) if group in (None, "")
    ]
    if missing:
        raise DataError(
            f"{{groups_from}} {shown(groups_from)} names no group for "
            f"{counted(len(missing), 'image', 'images')} of {contents.source}: "
            f"{listed(missing)}. Every image needs one.",
            field="groups_from",
        )
    named = [unicodedata.normalize("NFC", str(group)) for group in groups]
    unclear = [name for name in named if len(name) > MAX_GROUP or LOST in name]
    if unclear:
        raise DataError(
            f"{{groups_from}} {shown(groups_from)} names groups that cannot be told apart for "
            f"certain ({listed(set(unclear))}): a name has at most {MAX_GROUP} characters, none of "
            "which was lost when it was decoded. Rename them.",
            field="groups_from",
        )
    return replace(contents, groups=named, groups_from=groups_from, group_kind=kind)


def _from_names(contents: Contents, pattern: str) -> tuple[list[str | None], str]:
    """What a regular expression finds in each name: its parentheses, or all of it."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"{{groups_from}} {shown(pattern)} is neither a CSV file nor a regular expression: "
            f"{error}.",
            field="groups_from",
        ) from error
    groups: list[str | None] = []
    for name in contents.names:
        found = expression.search(name)
        parts = () if found is None else found.groups(default="") or (found[0],)
        groups.append("/".join(parts).strip("/") or None)
    named = [*expression.groupindex]
    return groups, named[0] if len(named) == 1 else "group"


def _from_table(contents: Contents, file: Path) -> tuple[list[str | None], str]:
    """The groups in a CSV file with a name and a group in each row, and what its header calls them.

    It may name images of other sets, such as the held-out ones.
    """
    if not file.exists():
        raise DataError(
            f"There is no file {file} to take groups from. {{groups_from}} is {OWN_GROUPS}, a "
            "regular expression or a CSV file.",
            field="groups_from",
        )
    data = read_regular(file, MORE_ROWS * side_file_bytes(len(contents.names)))
    stated, header = read_table(data, file, "group", _GROUP_COLUMNS)
    kind = (header or "group").removesuffix("_id")
    return [*rows_of(contents.names, stated)], kind
