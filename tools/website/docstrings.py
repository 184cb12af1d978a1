"""How mkdocstrings reads memaudit's docstrings and the fields of its configurations."""

import ast
import re
from typing import Any

import griffe

_DOCUMENT = re.compile(r"\bdocs/([\w-]+)\.md\b")
_EXAMPLE = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*)+", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Shows examples as code, documents as links, and a field by its type and meaning.

    The meaning is the first argument of the `Option` in `Annotated[type, Option(...)]`.
    """

    def on_instance(
        self, *, node: ast.AST | griffe.ObjectNode, obj: griffe.Object, **kwargs: Any
    ) -> None:
        """Fence a docstring's examples, and link documents; griffe calls this for each object."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub(_fenced, obj.docstring.value)
            obj.docstring.value = _DOCUMENT.sub(r"[\1.md](../../\1.md)", text)

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **kwargs: Any
    ) -> None:
        """Replace the annotation of a field; griffe calls this for each attribute."""
        annotation = getattr(node, "annotation", None)
        if not isinstance(annotation, ast.Subscript):
            return
        if ast.unparse(annotation.value) != "Annotated":
            return
        whole = attr.annotation
        if isinstance(whole, griffe.ExprSubscript) and isinstance(whole.slice, griffe.ExprTuple):
            attr.annotation = whole.slice.elements[0]
        meaning = _meaning(annotation)
        if meaning is not None and attr.docstring is None:
            attr.docstring = griffe.Docstring(
                meaning, parent=attr, lineno=attr.lineno, endlineno=attr.endlineno
            )


def _meaning(annotation: ast.Subscript) -> str | None:
    """The text of the option in an annotation."""
    assert isinstance(annotation.slice, ast.Tuple)
    for extra in annotation.slice.elts[1:]:
        if isinstance(extra, ast.Call) and extra.args and isinstance(extra.args[0], ast.Constant):
            return str(extra.args[0].value)
    return None


def _fenced(match: re.Match[str]) -> str:
    code = re.sub(r"^[ ]+(?=>>>|\S)", "", match[0].rstrip(), flags=re.MULTILINE)
    return f"```pycon\n{code}\n```\n"
