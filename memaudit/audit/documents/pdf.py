"""Print a page to PDF with a browser of this machine, if it has one that prints by itself."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from memaudit.errors import ConfigError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
"""Chromium by its names; the first that is found prints."""
SECONDS = 60
"""After this long a browser that has not printed is ended."""


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def print_pdf(page: Path, pdf: Path) -> None:
    """Print an HTML page to a PDF file, as the browser's own print does.

    Args:
        page: the HTML file.
        pdf: where to write.

    Raises:
        ConfigError: there is no Chromium, or it did not print.
    """
    by_hand = f"Open {page} in any browser, and print it to a PDF (Ctrl+P, or Cmd+P on a Mac)."
    browser = find_browser()
    if browser is None:
        raise ConfigError(f"No Chromium, Chrome or Edge was found to print {pdf} with. {by_hand}")
    with tempfile.TemporaryDirectory(prefix="memaudit-print-") as own:
        printed = Path(own) / "page.pdf"
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--no-pdf-header-footer",
            f"--user-data-dir={own}/profile",
            f"--print-to-pdf={printed}",
            page.absolute().as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # Chromium's sandbox refuses root, as in most containers; the page runs no script.
            command.insert(1, "--no-sandbox")
        try:
            subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
        except (subprocess.TimeoutExpired, OSError) as error:
            said = "took too long" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            raise ConfigError(f"{browser} did not print {pdf}: {said}. {by_hand}") from error
        if not printed.is_file():
            raise ConfigError(f"{browser} did not print {pdf}. {by_hand}")
        try:
            shutil.copyfile(printed, pdf)
        except OSError as error:
            raise ConfigError(f"{pdf} cannot be written: {error.strerror}.") from error
