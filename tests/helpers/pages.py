"""What tests read of a page."""

import re


def without_links(page: str) -> str:
    """The page without its links, which lead from words to their definitions."""
    return re.sub("<a .*?>|</a>", "", page)
