"""The command `scidiffusion conformers`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiffusion._lazy import require
from scidiffusion.cli.common import friendly_errors
from scidiffusion.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rdkit import Chem

    from scidiffusion.molecules.conformer.many import Job, Made

MANY = 20
FAILED = 1
"""Exit status where some of the molecules of a file failed."""
READ = (".smi", ".csv", ".sdf", ".sdf.gz")


@friendly_errors
def conformers(
    molecules: Annotated[
        str,
        typer.Argument(
            metavar="SMILES|FILE",
            help="SMILES, or a file: .smi, .csv (columns smiles and, if need be, n), .sdf[.gz].",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to: .sdf[.gz], .xyz, .html or .png.")
    ],
    n: Annotated[int, typer.Option("-n", help="Conformers of each molecule.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    energy: Annotated[str, typer.Option(help="Energies: mmff, gfn2 or none.")] = "mmff",
    temperature: Annotated[
        float, typer.Option(help="Of the Boltzmann weights, in kelvin.")
    ] = 298.15,
    prune: Annotated[
        float | None,
        typer.Option(help="Leave out conformers nearer than this to a lower one, in Angstrom."),
    ] = None,
    start: Annotated[str, typer.Option(help="etkdg, or noise: from the graph alone.")] = "etkdg",
    method: Annotated[
        str, typer.Option(help="cartesian, or torsional: torsions drawn by diffusion.")
    ] = "cartesian",
    steps: Annotated[
        int | None, typer.Option(help="Network evaluations a conformer; default 4, from noise 20.")
    ] = None,
    gfn2_steps: Annotated[
        int,
        typer.Option(
            "--gfn2-steps",
            help="Steps towards the minimum of GFN2-xTB after refinement (extra gfn2).",
        ),
    ] = 0,
    oversample: Annotated[
        int | None,
        typer.Option(help="Starts made for each conformer; default 8, of larger molecules 4."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds for the starts of one molecule.")
    ] = None,
    allow_fragments: Annotated[
        bool, typer.Option("--allow-fragments", help="Accept salts and other mixtures.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model of your own; see `molecules fit`.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Processes; default one a core where there are 20 molecules or more."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Make 3D conformers: SMILES in, SDF out."""
    require("rdkit", "molecules")
    from scidiffusion.molecules.chem.writing import check_format, write_molecules
    from scidiffusion.molecules.conformer.many import conformers_of_many

    check_format(output)
    if n < 1:
        raise ConfigError(f"-n must be 1 or more conformers, got {n}")
    work, made = _jobs(molecules, n)

    def results() -> Iterator[Chem.Mol]:
        found = conformers_of_many(
            work,
            seed=seed,
            workers=jobs if jobs is not None else _workers(len(work)),
            model=model,
            device=device,
            energy=None if energy == "none" else energy,
            temperature=temperature,
            prune=prune,
            start=start,
            method=method,
            steps=steps,
            gfn2_steps=gfn2_steps,
            oversample=oversample,
            time_limit=time_limit,
            allow_fragments=allow_fragments,
        )
        with typer.progressbar(
            found, length=len(work), label="conformers", file=sys.stderr, hidden=quiet
        ) as bar:
            for one in bar:
                made.append(one)
                if one.molecule is not None:
                    yield one.molecule
        if all(one.molecule is None for one in made):
            raise InputError(made[0].problem if len(made) == 1 else _failures(made))

    write_molecules(output, results())
    _report(made, output)


def _workers(molecules: int) -> int:
    """Processes take seconds to begin: few molecules are done before."""
    return os.cpu_count() or 1 if molecules >= MANY else 1


def _jobs(text: str, n: int) -> tuple[list[Job], list[Made]]:
    """What to make: the SMILES, or the molecules of the file; and what cannot be read of it."""
    from scidiffusion.errors import ScidiffusionWarning
    from scidiffusion.molecules.chem.files import read_molecules
    from scidiffusion.molecules.conformer.many import Job, Made

    if not text.endswith(READ):
        return [Job(text, text, n)], []
    with warnings.catch_warnings():
        # What is skipped is reported at the end, with what fails later.
        warnings.simplefilter("ignore", ScidiffusionWarning)
        records = read_molecules(text, on_error="skip")
    what = "record" if text.endswith((".sdf", ".sdf.gz")) else "line"
    skipped = [Made("", None, f"{what} {one.number}: {one.reason}") for one in records.skipped]
    return [Job(one.smiles, one.molecule, one.n or n) for one in records], skipped


def _report(made: list[Made], output: Path) -> None:
    """Say what was written, noted and not made; exit with `FAILED` where something failed."""
    for one in made:
        for note in one.notes:
            typer.secho(f"Note: {note}", fg=typer.colors.YELLOW, err=True)
    good = [one.molecule for one in made if one.molecule is not None]
    count = sum(molecule.GetNumConformers() for molecule in good)
    typer.echo(f"{count} conformers of {len(good)} molecules written to {output}")
    if len(good) < len(made):
        typer.secho(_failures(made), fg=typer.colors.RED, err=True)
        raise typer.Exit(FAILED)


def _failures(made: list[Made]) -> str:
    failed = [one for one in made if one.molecule is None]
    lines = [f"{len(failed)} of {len(made)} molecules failed:"]
    lines += [f"  {one.problem}" for one in failed[:10]]
    if len(failed) > 10:
        lines.append(f"  and {len(failed) - 10} more")
    return "\n".join(lines)
