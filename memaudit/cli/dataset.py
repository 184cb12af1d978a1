"""`memaudit dataset`: make training sets, look into and compare them, find what stands out."""

import click

from memaudit.cli.dataset_build import build
from memaudit.cli.dataset_compare import compare
from memaudit.cli.dataset_duplicates import duplicates
from memaudit.cli.dataset_inspect import inspect
from memaudit.cli.dataset_risk import risk


class Commands(click.Group):
    """Lists each command with the whole first line of its help, of which Click shows 45 columns."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = [(name, (each.help or "").split("\n")[0]) for name, each in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(lines)


@click.group(cls=Commands, commands=[build, inspect, duplicates, risk, compare])
def dataset() -> None:
    """Build training sets, look into them, find duplicates and what would leak first.

    \b
    memaudit dataset build --data cifar10.zip --size 1000 --balanced \\
        --out cifar10-1000.zip
    memaudit dataset inspect cifar10-1000.zip
    memaudit dataset duplicates cifar10.zip --out duplicates
    memaudit dataset risk cifar10.zip --out risk.csv
    memaudit dataset compare ./train cifar10.zip
    """
