"""`inbound-audit completion`: what a shell needs to complete commands, options and the names of audits."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class


@click.command(
    epilog="""\b
Examples:
  inbound-audit completion bash > ~/.local/share/bash-completion/completions/inbound-audit
  inbound-audit completion zsh > ~/.zfunc/_inbound-audit
  inbound-audit completion fish > ~/.config/fish/completions/inbound-audit.fish
\b
Exit status: 0 done, 2 usage."""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes the commands, their options and the names of shared audits in a shell."""
    found = get_completion_class(shell)
    assert found is not None, shell  # click has all of the choices
    root = context.find_root()
    name = root.info_name or root.command_path
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()  # as click reads it
    script = found(root.command, {}, name, variable)
    click.echo(script.source_template % script.source_vars())


def audits(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of shared audits that begin like that."""
    from inbound_audit.shared.places import known_audits

    return [CompletionItem(name) for name in known_audits() if name.startswith(incomplete)]
