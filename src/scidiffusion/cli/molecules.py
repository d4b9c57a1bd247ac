"""The commands `scidiffusion molecules fit` and `scidiffusion molecules sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scidiffusion._lazy import require
from scidiffusion.cli.common import friendly_errors, resumable
from scidiffusion.errors import ConfigError
from scidiffusion.persistence import check_writable

molecules = typer.Typer(no_args_is_help=True, add_completion=False)

KINDS = ("conformers", "molecules")


@molecules.command()
@friendly_errors
def fit(
    data: Annotated[Path, typer.Argument(help="SDF with 3D coordinates and hydrogens.")],
    model: Annotated[Path, typer.Option("-m", "--model", help="Folder for the model.")],
    kind: Annotated[
        str,
        typer.Option(help="conformers: of any molecule, from ensembles; molecules: new ones."),
    ] = "molecules",
    budget: Annotated[
        str | None, typer.Option(help="Training time at most, such as 20min.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from a checkpoint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Learn from an SDF file: conformers of molecules, or molecules themselves."""
    if kind not in KINDS:
        raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_writable(model)
    require("rdkit", "molecules")
    from scidiffusion.molecules import ConformerDiffusion, MoleculeDiffusion, read_ensembles

    ensembles = read_ensembles(data)
    options: dict[str, Any] = {
        "budget": budget,
        "random_state": seed,
        "device": device,
        "progress": not quiet,
    }
    chosen = ConformerDiffusion if kind == "conformers" else MoleculeDiffusion
    estimator: Any = chosen(**options)
    with resumable(model) as checkpoint:
        estimator.fit(ensembles, checkpoint_dir=checkpoint, resume=resume)
        estimator.save(model)
    typer.echo(f"learned from {len(ensembles)} molecules; model written to {model}")


@molecules.command()
@friendly_errors
def sample(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to: .sdf[.gz], .xyz or .html.")
    ],
    n: Annotated[int, typer.Option("-n", help="Number of molecules.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Network evaluations a molecule.")] = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE; may be given several times.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How strongly conditions pull.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="What is drawn first, invalid molecules too, marked.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="Folder of a model of your own.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Draw new molecules."""
    require("rdkit", "molecules")
    from scidiffusion.molecules import MoleculeDiffusion
    from scidiffusion.molecules.chem.writing import check_format, write_molecules
    from scidiffusion.molecules.denovo import bundled

    check_format(output)
    if n < 1:
        raise ConfigError(f"-n must be 1 or more molecules, got {n}")
    conditions = dict(_condition(text) for text in condition or [])
    estimator = bundled(device) if model is None else MoleculeDiffusion.load(model, device=device)
    estimator.progress = not quiet
    options: dict[str, Any] = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    made = estimator.sample(
        n,
        conditions=conditions or None,
        steps=steps,
        random_state=seed,
        valid_only=not raw,
        **options,
    )
    write_molecules(output, made)
    typer.echo(f"{len(made)} molecules written to {output}")


def _condition(text: str) -> tuple[str, float]:
    """NAME=VALUE as a pair."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ConfigError(f"--condition must be NAME=NUMBER, got {text!r}") from None
