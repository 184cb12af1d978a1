"""What the documentation site adds to docs/: mkdocs calls these functions (mkdocs.yml, `hooks`).

Pages that are not written by hand are made here when the site is built: the options of every
command from click, the Python API from its docstrings, the notebooks with their outputs, and the
documents beside the README. So they cannot fall behind.
"""

import re
from pathlib import Path
from typing import Any

from api_pages import api_pages
from command_pages import command_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_pages import notebook_files

ROOT = Path(__file__).resolve().parents[2]
BESIDE_THE_README = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "README.md": "project/readme.md",
}
"""Documents outside docs/ that are pages of the site, and where."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video)\b[^>]*?\bsrc=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*\brel=[\"']?(?:canonical|prev|next|alternate))[^>]*?\bhref=[\"']?"
    r"(?:https?:)?//[^\s\"'>]+"
    r"|(?:@import\s+|url\()[\"']?(?:https?:)?//[^\s\"')]+"
)
"""What a browser would fetch from another host when it shows a page."""
FETCHED_WORKER = "https://unpkg.com/iframe-worker/shim"
OWN_WORKER = "assets/worker_from_disk.js"
"""What the theme would load to search in a page opened from disk, and what takes its place."""
NAMELESS_SEARCH = 'data-md-component="search" role="dialog"'
"""The theme's search, which has no name that a screen reader could say."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the generated pages where the navigation names their folder."""
    generated = [*command_pages(), *api_pages()]

    def filled(item: Any) -> Any:
        if isinstance(item, list):
            return [filled(each) for each in item]
        if isinstance(item, dict):
            return {title: filled(each) for title, each in item.items()}
        if isinstance(item, str) and item.endswith("/"):
            return [path for path in generated if path.startswith(item)]
        return item

    config.nav = filled(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made at build time."""
    for path, content in {**command_pages(), **api_pages()}.items():
        files.append(File.generated(config, path, content=content))
    for source, path in BESIDE_THE_README.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=text))
    for notebook in sorted(Path(config.docs_dir).rglob("*.ipynb")):
        where = notebook.relative_to(config.docs_dir)
        for path, data in notebook_files(notebook).items():
            files.append(File.generated(config, (where.parent / path).as_posix(), content=data))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that lead out of docs/ on the repository's page lead to the site's own pages."""
    origin = next(
        (ROOT / source for source, path in BESIDE_THE_README.items() if path == page.file.src_uri),
        ROOT / "docs" / page.file.src_uri,
    )

    def rewritten(match: re.Match[str]) -> str:
        target = (origin.parent / match[1]).resolve()
        if not target.is_relative_to(ROOT) or not target.exists():
            return match[0]  # mkdocs says which link leads nowhere
        if (target / "README.md").exists():
            target /= "README.md"
        path = target.relative_to(ROOT).as_posix()
        if path in BESIDE_THE_README:
            inside = BESIDE_THE_README[path]
        elif target.suffix == ".ipynb":
            inside = target.with_suffix(".md").relative_to(ROOT / "docs").as_posix()
        elif target.is_relative_to(ROOT / "docs"):
            inside = target.relative_to(ROOT / "docs").as_posix()
        elif target.is_file():
            # As a text: mkdocs makes no page of a document that is found this late.
            inside = f"files/{path}.txt" if target.suffix == ".md" else f"files/{path}"
            if files.get_file_from_path(inside) is None:
                files.append(File.generated(config, inside, abs_src_path=str(target)))
        else:
            inside = _listing(target, config, files)
        return "../" * page.file.src_uri.count("/") + inside

    return LINK.sub(rewritten, markdown)


def _listing(folder: Path, config: MkDocsConfig, files: Files) -> str:
    """Make a text file with the content of a folder's documents, and return its place."""
    inside = f"files/{folder.relative_to(ROOT).as_posix()}.txt"
    if files.get_file_from_path(inside) is None:
        texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))]
        files.append(File.generated(config, inside, content="\n\n".join(texts)))
    return inside


def on_post_build(config: MkDocsConfig) -> None:
    """Mend what the theme leaves, and refuse a site that would load anything from elsewhere."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        to_the_top = "../" * (len(page.relative_to(site).parts) - 1)
        text = page.read_text(encoding="utf-8")
        text = text.replace(FETCHED_WORKER, to_the_top + OWN_WORKER)
        text = text.replace(NAMELESS_SEARCH, f'{NAMELESS_SEARCH} aria-label="Search"')
        page.write_text(text, encoding="utf-8")
    found = [
        f"{path.relative_to(site)}: {match[0][:200]}"
        for pattern in ("*.html", "*.css")
        for path in sorted(site.rglob(pattern))
        for match in LOADED.finditer(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("The site would load from the network:\n" + "\n".join(found))
