r"""Train the weights that the package brings for `scidiffusion.molecules.conformers`.

    python tools/make_ensembles.py data/made --minutes 600 --workers 16      # makes the data
    python tools/train_conformers.py data/made --minutes 60 \
        --out src/scidiffusion/molecules/conformer/weights
    python tools/train_conformers.py data/made --minutes 30 --method torsional \
        --out src/scidiffusion/molecules/torsional/weights

    python tools/make_ensembles.py data/walks --model FIRST --conformers 1 --minutes 60
    python tools/train_conformers.py data/made --minutes 60 --start FIRST --walks data/walks \
        --out src/scidiffusion/molecules/conformer/weights

Data are shard folders, as `tools/make_ensembles.py` makes them, or SDF files of minima, such as
those of GFN2-xTB ensembles; several may be given. Run again with --resume it goes on from its
checkpoint; with --start it begins with the weights of an earlier model. Walks of that model, made
with make_ensembles.py --model, teach it to end where GFN2 energies are lower.

Never give it molecules that benchmarks are scored on: make_ensembles.py --exclude leaves them out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from scidiffusion.molecules.chem.files import read_ensembles
from scidiffusion.molecules.conformer.conversion import MAX_RMSD, pairs_of_many
from scidiffusion.molecules.conformer.estimator import ConformerDiffusion
from scidiffusion.molecules.conformer.pairs import (
    ConformerPairs,
    heavy_rmsd,
    load_ensembles,
)
from scidiffusion.molecules.torsional.estimator import TorsionDiffusion


def read(path: Path, workers: int) -> list[ConformerPairs]:
    """Read a shard folder, or make pairs of an SDF file of minima."""
    if path.is_dir():
        return [near for pairs in load_ensembles(path) if (near := nearby(pairs)) is not None]
    return list(pairs_of_many(read_ensembles(path), workers=workers))


def nearby(pairs: ConformerPairs) -> ConformerPairs | None:
    """Leave out pairs that left the basin of their start; None if none is left."""
    kept = [
        index
        for index in range(len(pairs))
        if heavy_rmsd(pairs.mol, pairs.start[index], pairs.minimum[index]) <= MAX_RMSD
    ]
    if not kept:
        return None
    return ConformerPairs(pairs.mol, pairs.start[kept], pairs.minimum[kept], pairs.energies[kept])


def main() -> None:
    """Read the data, train, write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path, help="shard folders or SDF files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument(
        "--method", choices=["cartesian", "torsional"], default="cartesian", help="which network"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of training")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--start", type=Path, help="model whose weights are the first ones")
    parser.add_argument(
        "--walks", nargs="+", type=Path, default=[], help="shard folders of walks of a model"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if (options.start is not None or options.walks) and options.method == "torsional":
        parser.error("--start and --walks go with --method cartesian")
    torch.set_num_threads(options.threads)
    molecules = [pairs for path in options.data for pairs in read(path, options.threads)]
    print(f"{len(molecules)} molecules, {sum(map(len, molecules))} pairs", flush=True)
    walks = [pairs for path in options.walks for pairs in load_ensembles(path)]
    if walks:
        print(f"{len(walks)} molecules, {sum(map(len, walks))} walks", flush=True)
    settings: dict[str, Any] = {
        "budget": 60 * options.minutes,
        "max_steps": 10_000_000,
        "lr": options.lr,
        "patience": None,
        "device": options.device,
        "random_state": options.seed,
        "progress": False,
    }
    keep: dict[str, Any] = {
        "checkpoint_dir": options.out.with_name(options.out.name + ".checkpoint"),
        "resume": options.resume,
    }
    model: ConformerDiffusion | TorsionDiffusion
    if options.method == "torsional":
        model = TorsionDiffusion(**settings).fit(molecules, **keep)
    else:
        start = None if options.start is None else ConformerDiffusion.load(options.start)
        model = ConformerDiffusion(**settings).fit(molecules, start=start, walks=walks, **keep)
    model.save(options.out)
    for entry in model.training_.history:
        print({name: round(float(value), 4) for name, value in entry.items()})
    print(f"{model.training_.steps} steps; written to {options.out}")


if __name__ == "__main__":
    main()
