"""`memaudit demo`: catch one model copying, and another not."""

from pathlib import Path

import click

from memaudit.cli.options import choose_device, device_option


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("memaudit-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for both models and their reports.",
)
@device_option
def demo(out: Path, device: str) -> None:
    """Watch a model being caught copying, in about two minutes.

    Trains one small diffusion model on 32 handwritten digits and the same model on 1,500, audits
    both against the digits they were trained on, and explains the results.

    \b
    memaudit demo --out memaudit-demo
    """
    from memaudit.cli.console import out as console
    from memaudit.cli.console import progress_bars, remark, say
    from memaudit.cli.forecast import say_cost
    from memaudit.cli.long_work import finish
    from memaudit.cli.scan_tables import render
    from memaudit.cli.wording import describe
    from memaudit.experiments.demo import DemoRun, forecast_demo, run_demo
    from memaudit.wording import duration

    def show(run: DemoRun) -> None:
        console.rule(f"Trained on {len(run.data):,} digits")
        render(run.result)

    where = choose_device(device)
    forecast = forecast_demo(where)
    note = ""
    if forecast.share < DISTURBED:
        note = f"Other programs slow it down: without them, about {duration(forecast.undisturbed)}."
    say_cost("Two trainings and their audits", forecast.seconds, note=note)
    with progress_bars() as progress:
        runs = run_demo(out, device=where, progress=progress, on_run=show)

    few, many = runs
    console.rule("What this means")
    for run in runs:
        say(
            f"Trained on {len(run.data):,} images: "
            f"{describe(run.result.ratios.distinct)} of what it generates are copies."
        )
    say(
        f"Both are the same network, trained for the same number of steps. With {len(few.data):,} "
        "images it can store every one of them, and it does: it generates its training images. "
        f"With {len(many.data):,} it has to generalize. The number of images at which a model "
        "stops copying is its effective memorization; memaudit measures which side of that line a "
        "model is on."
    )
    for run in runs:
        remark(f"Report: {run.page}")
    shares = [
        f"{describe(run.result.ratios.distinct)} copies after {len(run.data):,} images"
        for run in runs
    ]
    finish("; ".join(shares))


DISTURBED = 0.75
"""With a smaller share of a core than this, the forecast says what it would be with a whole one."""
