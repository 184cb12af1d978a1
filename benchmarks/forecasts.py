"""Is a forecast of a scan within a factor 1.5 of what the scan takes?

    python benchmarks/forecasts.py TRAIN --models model.safetensors:5000 … --seeds 200 1000

Each scan is forecast as `memaudit scan --dry-run` does, and then made. The number behind a model is
that of the training images, a random choice of TRAIN; without --models, the optimum of 1,000 and of
10,000 images is scanned.
"""

import time

from result import make_heading, make_parser, write_record

from memaudit.audit.config import ScanConfig
from memaudit.audit.dry_run import forecast_scan
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.scan import scan
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import select_images
from memaudit.models.execution import Execution

WITHIN = 1.5
STEPS = ("denoising test", "index", "controls", "screening", "sampling", "search", "optimality")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", metavar="FILE:SIZE")
    parser.add_argument(
        "--cpu-time", action="store_true", help="leave out the time that others had the processor"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[200, 1000])
    options = parser.parse_args()
    if options.cpu_time:
        time.perf_counter = time.process_time
    lines = make_heading("Forecasts of scans", options.device)
    lines += [
        "",
        f"Seconds forecast / measured{' (CPU time)' if options.cpu_time else ''}, by step.",
        "",
        "| model | training images | seeds | " + " | ".join(STEPS) + " | in all | ratio |",
        "|" + "---|" * (len(STEPS) + 5),
    ]
    everything = open_images(options.train)
    worst = 1.0
    for text in options.models or ["optimum:1000", "optimum:10000"]:
        model, _, size = text.rpartition(":")
        data = select_images(everything, Selection(size=int(size), subset="random"))
        for number in options.seeds:
            for screening in (None, ScreeningConfig()):
                config = ScanConfig(
                    seeds=range(number),
                    screening=screening,
                    execution=Execution(device=str(options.device)),
                )
                forecast = forecast_scan(model, data, config=config)
                measured = scan(model, data, config=config).timings
                said = {each.step: each.seconds for each in forecast.steps}
                took = {each.step: each.seconds for each in measured.steps}
                cells = [f"{said.get(s, 0):.2g} / {took.get(s, 0):.2g}" for s in STEPS]
                ratio = forecast.seconds / measured.total
                worst = max(worst, ratio, 1 / ratio)
                screened = ", screened" if screening else ""
                lines.append(
                    f"| {model.rpartition('/')[2]} | {size} | {number:,}{screened} | "
                    + " | ".join(cells)
                    + f" | {forecast.seconds:.1f} / {measured.total:.1f} | {ratio:.2f} |"
                )
                print(lines[-1], flush=True)
    lines += ["", f"Worst ratio: {worst:.2f}; at most {WITHIN} is promised."]
    write_record("forecasts", lines, options.device)
    assert worst <= WITHIN, worst


if __name__ == "__main__":
    main()
