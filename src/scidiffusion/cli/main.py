"""The command `scidiffusion`."""

from __future__ import annotations

from typing import Annotated

import typer

from scidiffusion._version import __version__
from scidiffusion.cli.conformers import conformers
from scidiffusion.cli.forecast import forecast
from scidiffusion.cli.images import images
from scidiffusion.cli.molecules import molecules
from scidiffusion.cli.tabular import tabular

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Diffusion models for scientific data: tables, series, molecules, images.",
)
app.command(name="conformers")(conformers)
app.add_typer(forecast, name="forecast", help="Forecasts and gap filling of series.")
app.add_typer(images, name="images", help="Images and fields: draw, complete, by label.")
app.add_typer(molecules, name="molecules", help="New molecules; models of your own.")
app.add_typer(tabular, name="tabular", help="Synthetic copies of mixed-type tables.")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"scidiffusion {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Diffusion models for scientific data: tables, series, molecules, images."""


if __name__ == "__main__":
    app()
