"""Arguments that several commands share, and the refusal of those that would be ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from data.errors import ConfigError

RecipeArgument = Annotated[
    Path, typer.Argument(help="a recipe, for instance recipes/quickstart.yaml", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override one key, for instance --set loop.steps=20 (repeat as needed)"
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="the cluster's dashboard, as `ray job submit` wants it",
    ),
]


def amount(value: float) -> float:
    """0 for not given, or an amount to reckon with; the callback of an option. Raises `typer.BadParameter`."""
    if value and not 1e-3 <= value <= 1e12:  # also refuses nan
        raise typer.BadParameter(f"{value:g} is not between 0.001 and 1e12")
    return value


def refuse_ignored(context: typer.Context, when: bool, where: str, *options: str) -> None:
    """Refuse options that were typed and would be ignored.

    Args:
        when: they would be.
        where: says so, for instance "without --kuberay"; the remedy offers the option that it lacks.
        options: as a user types them, for instance "--image".

    Raises:
        ConfigError: names those that were given on the command line; one from the environment bothers nobody.
    """
    named = {spelling: parameter for parameter in context.command.params for spelling in parameter.opts}
    sources = {option: context.get_parameter_source(str(named[option].name)) for option in options}
    given = [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if when and given:
        they, them = ("has", "it") if len(given) == 1 else ("have", "them")
        lacks, _, other = where.partition("without ")
        add = f", or add {other}" if not lacks and other else ""
        raise ConfigError(f"{', '.join(given)} {they} no meaning {where}", remedy=f"leave {them} out{add}")
