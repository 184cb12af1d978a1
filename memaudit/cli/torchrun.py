"""`memaudit torchrun`: a command on several GPUs or machines."""

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS OF TORCHRUN]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGS]...")
@click.pass_context
def torchrun(ctx: click.Context, /, arguments: tuple[str, ...]) -> None:
    """Run one of these commands on several GPUs or machines.

    The commands are scan, sample, selftest, emm and reproduce. This takes the options of torchrun
    (torchrun --help lists them) and starts the same processes, but ends with the exit status of the
    command, where torchrun itself ends with 1, the status of FAIL. On one machine, --devices of
    these commands does the same with fewer words.

    \b
    # eight GPUs of this machine
    memaudit torchrun --nproc-per-node 8 \\
        scan model.safetensors --data ./train --out report
    # the first of two machines; the other one is given --node-rank 1
    memaudit torchrun --nnodes 2 --node-rank 0 --master-addr node0 \\
        --nproc-per-node 8 scan model.safetensors --data ./train --out report
    """
    from memaudit.ranks.launch import launch

    ctx.exit(launch(arguments))
