"""The pages of the Python API: every public name, ordered by what it is for."""

import memaudit

GROUPS = {
    "audit": (
        "Audit a model",
        "Sample, search, count, and keep the result.",
        ("scan", "ScanConfig", "ScanResult", "Rule", "SamplerConfig", "Execution", "Proportion"),
        ("memorization_ratio", "memorized", "selftest", "read_earlier_scan"),
    ),
    "check": (
        "Ask about single images",
        "Whether a model gives certain images back, and what it generates again and again.",
        ("check_images", "CheckConfig", "check_repeats", "write_check"),
    ),
    "report": (
        "Reports",
        "Write, read and verify a report; figures.",
        ("write_report", "read_report", "verify_report", "Report", "plot_snapshots"),
        ("write_annex", "audit_card"),
    ),
    "images": (
        "Images",
        "Open sets of images, take a part, find duplicates.",
        ("ImageSet", "open_images", "Selection", "select_images", "find_duplicates"),
    ),
    "models": (
        "Models",
        "Open, inspect, test, sample and train models.",
        ("Denoiser", "Checkpoint", "open_checkpoint", "inspect_checkpoint", "save_checkpoint"),
        ("check_denoising", "DenoisingTest", "generate_images", "heun_sampler"),
        ("ClosedFormOptimum", "compare_with_optimum", "train", "TrainingConfig"),
    ),
    "parts": (
        "Search, statistics, progress",
        "The parts of an audit, to use alone.",
        ("NeighborIndex", "FeatureIndex", "IndexConfig", "Encoder", "open_encoder"),
        ("clopper_pearson", "exact_decision", "sequential_decision"),
        ("show_progress", "MemauditError"),
    ),
}
"""Name of each page: title, what it is about, and its names."""


def api_pages() -> dict[str, str]:
    """Return the pages of the API by their places in docs/.

    Raises:
        ValueError: a public name is on no page, or on two.
    """
    shown = [name for _, _, *names in GROUPS.values() for part in names for name in part]
    public = [name for name in memaudit.__all__ if not name.startswith("__")]
    if sorted(shown) != sorted(public):
        wrong = sorted(set(shown) ^ set(public)) or "a name twice"
        raise ValueError(f"Pages of the API and memaudit.__all__ differ: {wrong}.")
    rows = "\n".join(
        f"| [{title}]({page}.md) | "
        + ", ".join(f"[`{name}`]({page}.md#memaudit.{name})" for part in names for name in part)
        + " |"
        for page, (title, _, *names) in GROUPS.items()
    )
    index = (
        "# Python API\n\nEvery public name, with shapes, ranges and units; generated from the "
        "docstrings. [The Python library](../../library.md) is the guided tour, with the "
        "[shapes and units](../../library.md#shapes-and-units) that all of it shares. Legend of "
        "shapes: B batch, N images, C channels, H height, W width, D = C·H·W values of an image, "
        f"K neighbors.\n\n| page | names |\n|---|---|\n{rows}\n"
    )
    pages = {"reference/api/index.md": index}
    for page, (title, about, *names) in GROUPS.items():
        entries = "\n\n".join(f"::: memaudit.{name}" for part in names for name in part)
        pages[f"reference/api/{page}.md"] = f"# {title}\n\n{about}\n\n{entries}\n"
    return pages
