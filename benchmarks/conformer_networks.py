r"""What an evaluation of the networks of conformers costs, one beside the other.

    python benchmarks/conformer_networks.py            # writes results/conformer_networks.md

Ten conformers of each molecule at once on one thread, process time, the least of five rounds in
turn: the network on pairs of atoms (`network="pairs"`), that of the torsional model, and the one
of tensor products (`network="e3nn"`), at the sizes that the estimators have by default.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion._files import write_atomic
from scidiffusion.molecules.conformer.estimator import ConformerDiffusion
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.torsional.estimator import TorsionDiffusion
from scidiffusion.molecules.torsional.turning import Torsions

RESULT = Path(__file__).resolve().parent / "results" / "conformer_networks.md"
MOLECULES = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
}
CONFORMERS = 10
ROUNDS = 5


def evaluations(smiles: str) -> tuple[int, dict[str, Callable[[], torch.Tensor]]]:
    """Number of atoms, and a call of every network."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, CONFORMERS, randomSeed=1)
    z = torch.stack([torch.from_numpy(one.GetPositions()) for one in mol.GetConformers()]).float()
    z = z - z.mean(1, keepdim=True)
    graph, torsions, level = MolGraph.of(mol), Torsions.of(mol), torch.full((len(z),), 0.05)
    pairs, tensors = (
        ConformerDiffusion(network=name)._build(0).network for name in ("pairs", "e3nn")
    )
    torsional = TorsionDiffusion()._build(0).network
    return mol.GetNumAtoms(), {
        "pairs": lambda: pairs(z, level, graph),
        "torsional": lambda: torsional(z, level, graph, torsions),
        "e3nn": lambda: tensors(z, level, graph),
    }


@torch.no_grad()
def least(calls: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Milliseconds a conformer of every call, the least of some rounds taken in turn."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            best[name] = min(best[name], 1000 * (time.process_time() - begin) / CONFORMERS)
    return best


def main() -> None:
    """Measure and write the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    lines = ["| molecule | atoms | pairs, ms | torsional | e3nn |", "|---|---:|---:|---:|---:|"]
    for name, smiles in MOLECULES.items():
        atoms, calls = evaluations(smiles)
        best = least(calls)
        ratios = [f"{best[other] / best['pairs']:.1f} x" for other in ("torsional", "e3nn")]
        lines.append(f"| {name} | {atoms} | {best['pairs']:.1f} | {' | '.join(ratios)} |")
    text = "\n".join(lines) + "\n"
    write_atomic(RESULT, text.encode())
    print(text)


if __name__ == "__main__":
    main()
