"""`memaudit completion`: let a shell complete commands, options and their values."""

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_MEMAUDIT_COMPLETE"
"""What click looks at when the shell asks; its name follows from the program's."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in a shell.

    Put it where the shell looks, or into its startup file; a new shell then completes.

    \b
    # bash
    memaudit completion bash > ~/.local/share/bash-completion/completions/memaudit
    # zsh, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
    memaudit completion zsh > ~/.zfunc/_memaudit
    # fish
    memaudit completion fish > ~/.config/fish/completions/memaudit.fish
    """
    from click.shell_completion import get_completion_class

    from memaudit.cli.console import print_script
    from memaudit.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, "memaudit", VARIABLE)
    # click's own `source` would start bash to ask for its version.
    print_script(made.source_template % made.source_vars())
