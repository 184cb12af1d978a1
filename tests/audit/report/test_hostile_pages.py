"""Hostile names in a browser: nothing runs, nothing is asked for, also without the page's CSP."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.image_check.check import check_images
from memaudit.audit.neighbors.duplicates import find_duplicates
from memaudit.audit.report.check_page import write_check
from memaudit.audit.report.comparison import compare_reports
from memaudit.audit.report.comparison_page import write_comparison
from memaudit.audit.report.duplicates_page import write_duplicates
from memaudit.audit.report.folder import write_report
from memaudit.audit.result import ScanResult
from memaudit.data.images import ImageSet

Make = Callable[..., ScanResult]

ATTACKS = (
    "<script>window.owned=1;document.title='PASS'</script>",
    '"><img src=https://evil.example/x onerror=window.owned=1>',
    "' onmouseover='window.owned=1' autofocus onfocus='window.owned=1",
    "</title></style></svg><svg onload=window.owned=1>",
    "</pre></code><iframe src=https://evil.example></iframe>",
    "{{ 7*7 }}{% set x = 1 %}${7*7}",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/><link rel=stylesheet href=//evil.example/a.css>",
    "javascript:window.owned=1//",
    "&lt;script&gt;window.owned=1&lt;/script&gt;",
    "\u202eevil\u2066\u200b\x1b[2J\x9b\x00\udcff\n\r",
)
NAME = "".join(ATTACKS)


def hostile_pages(make_result: Make, tmp_path: Path) -> list[Path]:
    """Every kind of page that shows names: report, duplicates, check, comparison of reports."""
    result = make_result(name=NAME.replace("{", "{{").replace("}", "}}") + "{}", fail_above=0.01)
    source = replace(result.source, path=NAME, warnings=(NAME,))
    result = replace(result, source=source, keys=tuple(f"{NAME}{key}" for key in result.keys))
    result = replace(result, data=replace(result.data, source=NAME))
    pages = [write_report(result, tmp_path / "report")]

    pixels = np.zeros([3, 3, 8, 8], np.uint8)
    images = ImageSet(pixels, [f"{NAME}{i}" for i in range(3)], source=NAME)
    pages.append(write_duplicates(find_duplicates(images), images, tmp_path / "duplicates"))

    names = [f"{NAME}{i}" for i in range(9)]
    others = ImageSet(smooth_images(9, 8, seed=0), names, source=NAME)
    found = check_images(others, others, data=others.take(np.arange(5)))
    pages.append(write_check(found, tmp_path / "check"))

    folders = []
    for attack in ATTACKS:
        name = attack.replace("/", "\\").replace("\x00", "").encode(errors="surrogateescape")
        folder = tmp_path / "reports" / name.decode(errors="surrogateescape")
        folders.append(shutil.copytree(tmp_path / "report", folder))
    write_comparison(compare_reports(folders), tmp_path / "comparison.html")
    return [*pages, tmp_path / "comparison.html"]


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_nothing_in_a_name_runs_or_is_asked_for(
    browser: Any, make_result: Make, tmp_path: Path, bypass_csp: bool
):
    for path in hostile_pages(make_result, tmp_path):
        raw = path.read_text("utf-8")
        assert not set(raw) & set("\u202e\u2066\u200b\x1b\x9b\x00\r") and "evil" in raw
        context = browser.new_context(bypass_csp=bypass_csp, offline=True)
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda request, seen=requests: seen.append(request.url))
        page.on("dialog", lambda dialog: dialog.dismiss())
        page.goto(path.as_uri())
        page.mouse.move(200, 200)
        page.wait_for_timeout(100)
        asked = [url for url in requests if not url.startswith("data:image/png;base64,")]
        assert asked == [path.as_uri()]
        assert page.evaluate("window.owned") is None
        found = page.evaluate(
            """() => ({
                scripts: document.scripts.length,
                frames: document.querySelectorAll('iframe, base, link, object, embed, form').length,
                metas: document.querySelectorAll('meta').length,
                handlers: [...document.querySelectorAll('*')].filter(element =>
                    [...element.attributes].some(a => a.name.startsWith('on'))).length,
                links: [...document.querySelectorAll('a')].filter(link =>
                    !['file:'].includes(link.protocol)).length,
            })"""
        )
        own = int(path.name == "comparison.html")  # its filters, which the CSP allows by their hash
        assert found == {"scripts": own, "frames": 0, "metas": 3, "handlers": 0, "links": 0}
        assert page.title() != "PASS" and "owned" not in page.title()
        assert "49" not in page.title()
        context.close()
