"""A notebook as a page: text, code, and the outputs that were committed with it."""

import base64
import json
import re
from pathlib import Path
from typing import Any

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def notebook_files(path: Path) -> dict[str, str | bytes]:
    """Return the page of a notebook, and its pictures, by their places beside the notebook."""
    files: dict[str, str | bytes] = {}
    parts = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(_fenced(source, "python"))
            for place, output in enumerate(cell["outputs"]):
                picture = f"{path.stem}_{number}_{place}.png"
                parts.append(_output(output, picture, files))
    note = (
        f'<a href="{path.name}" download>Download this notebook</a> and run it; the outputs below '
        "are its own."
    )
    title, _, rest = "\n\n".join(filter(None, parts)).partition("\n")
    files[f"{path.stem}.md"] = f"{title}\n\n{note}\n{rest}\n"
    return files


def _output(output: dict[str, Any], picture: str, files: dict[str, str | bytes]) -> str:
    """One output of a cell; its picture is added to the files."""
    if output["output_type"] == "stream":
        if output["name"] == "stderr":  # the line of progress
            return ""
        return _fenced(_CONTROL.sub("", "".join(output["text"])).rstrip("\n"), "text")
    data = output.get("data", {})
    if "image/png" in data:
        files[picture] = base64.b64decode("".join(data["image/png"]))
        return f"![Output of the cell above]({picture})"
    if "text/html" in data:
        lines = "".join(data["text/html"]).splitlines()
        return '<div class="notebook-output">\n' + "\n".join(filter(str.strip, lines)) + "\n</div>"
    return _fenced("".join(data.get("text/plain", "")), "text")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`{3,}", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}" if text else ""
