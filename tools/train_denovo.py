r"""Train the weights that the package brings for new molecules, `scidiffusion molecules sample`.

    python tools/train_denovo.py --data qm7.npz --label pbe0_hof="atomisation energy" \
        --minutes 55 --out src/scidiffusion/molecules/denovo/weights

Data are an npz file of numbers, positions and offsets, or an SDF file with 3D coordinates and
hydrogens. Run again with --resume it goes on from its checkpoint; with --start it begins with the
weights of an earlier model. Weights are written in half precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scidiffusion.molecules import MoleculeDiffusion, read_ensembles


def read(path: Path, labels: list[str]) -> tuple[Any, dict[str, np.ndarray]]:
    """Return molecules and labels by the name that the model will know them by."""
    names = dict(text.partition("=")[::2] for text in labels)
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, {new or old: arrays[old] for old, new in names.items()}
    mols = read_ensembles(path)
    return mols, {
        new or old: np.array([float(mol.GetProp(old)) for mol in mols])
        for old, new in names.items()
    }


def main() -> None:
    """Read the data, train, write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="npz or SDF file")
    parser.add_argument(
        "--label", action="append", default=[], help="NAME, or NAME=NAME IN THE MODEL; repeatable"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--minutes", type=float, default=55.0, help="of training")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--start", type=Path, help="model whose weights are the first ones")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--compile", action="store_true", help="compile; needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    molecules, labels = read(options.data, options.label)
    model = MoleculeDiffusion(
        labels=list(labels),
        budget=60 * options.minutes,
        max_steps=10_000_000,
        lr=options.lr,
        patience=None,
        compile=options.compile,
        device=options.device,
        random_state=options.seed,
        progress=False,
    )
    model.fit(
        molecules,
        labels or None,
        checkpoint_dir=options.out.with_name(options.out.name + ".checkpoint"),
        resume=options.resume,
        start=None if options.start is None else MoleculeDiffusion.load(options.start),
    )
    model.denoiser_.half()
    model.save(options.out)
    for entry in model.training_.history:
        print({name: round(float(value), 4) for name, value in entry.items()})
    print(f"{model.training_.steps} steps; written to {options.out}")


if __name__ == "__main__":
    main()
