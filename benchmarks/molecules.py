r"""Make conformers and new molecules, and score them: this project and RDKit in one run.

    python benchmarks/molecules.py --data-dir DIR --task qm9 --models ours etkdg etkdg-mmff pick \
        --gfn2 3
    python benchmarks/molecules.py --data-dir DIR --task platinum --limit 40
    python benchmarks/molecules.py --task made --references SHARDS
    python benchmarks/molecules.py --data-dir DIR --task denovo --samples new.npz
    python benchmarks/molecules.py --table                     # results/*.json as Markdown

Every model has a process of its own with one thread, is told SMILES alone, and counts its CPU
seconds. `qm9` and `drugs`: 2 K conformers for K references, ensembles of GFN2-xTB minima of GEOM
test molecules. `made`: the same for references of one's own, a folder of tools/make_ensembles.py.
`platinum`: best of 10 and of 25 against the crystal's conformer. `benchmark`
(Folmsbee and Hutchison 2020): recall at 1 Angstrom, and how well MMFF94 ranks a model's
conformers by GFN2 energy. `denovo`: molecules of an npz file (numbers, positions, offsets), or of
our model, beside the data themselves. For the figures see benchmarks/_molecule_scores.py, for the
models benchmarks/_molecule_peers.py. A file of results keeps the runs of earlier calls.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _molecule_peers import LABELS, MODELS, Job
from _molecule_scores import (
    best_of,
    cloud_smiles,
    energy_ranking,
    has_xtb,
    read_clouds,
    read_sdf,
    score_clouds,
    score_molecule,
    summary,
)
from _running import run_worker
from rdkit import Chem

from scidiffusion._files import write_atomic
from scidiffusion.molecules.chem.ensembles import keep, prune, with_places
from scidiffusion.molecules.conformer.pairs import ConformerPairs, load_ensembles, stereo_smiles
from tabular import machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

FILES = {
    "qm9": "ens_qm9/ens_qm9.sdf.gz",
    "drugs": "ens_drugs/ens_drugs.sdf.gz",
    "platinum": "platinum_diverse/platinum_diverse_2017_01.sdf.gz",
    "benchmark": "conformer_benchmark/hutchison_conformers.sdf.gz",
    "denovo": "qm7/qm7.npz",
}
"""Task -> its file in --data-dir."""
LIMITS = {"platinum": 40, "benchmark": 40}
BEST_OF = (10, 25)
RANKED = 10
"""Conformers of a molecule whose ranking by energy is looked at."""
WINDOW, DISTINCT = 6.0, 0.125
"""References of one's own: kcal/mol of GFN2 above the lowest, and Angstrom between two."""
TASKS = (*FILES, "made")
THRESHOLDS = {"benchmark": (1.0,)}

Records = dict[str, list[Chem.Mol]]


# ------------------------------------------------------------------------ conformers


def load_references(options: argparse.Namespace) -> Records:
    """Reference conformers by isomeric SMILES, the first `limit` molecules of the data."""
    task, limit = options.task, options.limit or LIMITS.get(options.task)
    if task == "made":
        found = [_minima(one) for one in load_ensembles(options.references)[:limit]]
        return {stereo_smiles(mol): _separate(mol) for mol in found}
    path = options.data_dir / FILES[task]
    if not path.exists():
        raise SystemExit(f"error: {path} does not exist; give --data-dir or SCIDIFFUSION_DATA")
    groups, broken = read_sdf(path)
    if broken:
        print(f"{path}: {broken} broken records left out", file=sys.stderr)
    return dict(list(groups.items())[:limit])


def _minima(pairs: ConformerPairs) -> Chem.Mol:
    """The distinct minima of a molecule that a room holds at its temperature."""
    low = pairs.energies <= WINDOW
    mol = with_places(pairs.mol, pairs.minimum[low])
    return keep(mol, prune(mol, DISTINCT, pairs.energies[low]))


def _separate(mol: Chem.Mol) -> list[Chem.Mol]:
    return [Chem.Mol(mol, confId=one.GetId()) for one in mol.GetConformers()]


def conformers_asked(task: str, references: Records) -> list[tuple[str, int]]:
    """SMILES and the number of conformers that a model is asked for."""
    if task == "platinum":
        return [(smiles, max(BEST_OF)) for smiles in references]
    return [(smiles, 2 * len(mols)) for smiles, mols in references.items()]


def score(task: str, references: Records, generated: Records, gfn2: int) -> dict[str, Any]:
    """Means and medians over the molecules, and the figures of each."""
    rows = []
    for smiles, mols in references.items():
        ours = generated.get(smiles, [])
        row = score_molecule(smiles, ours, mols, **_settings(task), gfn2=gfn2)
        if task == "platinum":
            row |= best_of(ours, mols[0], BEST_OF)
        if task == "benchmark" and ours:
            row["energy_ranking"] = energy_ranking(ours, RANKED)
        rows.append(row)
    rounded = [
        {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    # NaN is no JSON.
    finite = [{name: value for name, value in row.items() if value == value} for row in rounded]
    return summary(rows) | {"per_molecule": finite}


def _settings(task: str) -> dict[str, Any]:
    return {"thresholds": THRESHOLDS[task]} if task in THRESHOLDS else {}


def run(model: str, options: argparse.Namespace, references: Records) -> dict[str, Any]:
    """Run a model on all molecules and score it.

    Returns:
        How it was run, its costs and figures, or "failed" with the reason.
    """
    entry: dict[str, Any] = {"model": model, "seed": options.seed, "gfn2": options.gfn2}
    own = options.options if model.startswith("ours") else {}
    if own:
        entry["options"] = own
    asked = conformers_asked(options.task, references)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "conformers.sdf"
        job = Job(model, asked, str(out), options.seed, own)
        command = [sys.executable, str(HERE / "_molecule_peers.py")]
        entry |= run_worker(command, job, threads=1, device="cpu", timeout=options.timeout)
        if "failed" in entry:
            return entry
        generated, broken = read_sdf(out)
        if options.save_sdf is not None:
            options.save_sdf.mkdir(parents=True, exist_ok=True)
            shutil.copy(out, options.save_sdf / f"{options.task}_{model}_{options.seed}.sdf")
    if broken:
        entry["broken"] = broken
    return entry | score(options.task, references, generated, options.gfn2)


# --------------------------------------------------------------------- new molecules


def run_denovo(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Score the data themselves, and the samples of a file or of our model."""
    path = options.data_dir / FILES["denovo"]
    if not path.exists():
        raise SystemExit(f"error: {path} does not exist; give --data-dir or SCIDIFFUSION_DATA")
    data = read_clouds(path)[: options.limit]
    common = {"seed": options.seed}
    runs = [common | {"model": "data"} | score_clouds(data)]
    known = cloud_smiles(data)
    if options.samples is not None:
        clouds = read_clouds(options.samples)
        return [*runs, common | {"model": options.samples.stem} | score_clouds(clouds, known)]
    if "ours" in options.models:
        own = {"options": options.options} if options.options else {}
        runs.append(common | {"model": "ours"} | own | _sample_ours(options, known))
    return runs


def _sample_ours(options: argparse.Namespace, known: frozenset[str]) -> dict[str, Any]:
    from scidiffusion.molecules import MoleculeDiffusion
    from scidiffusion.molecules.denovo import bundled

    model = MoleculeDiffusion.load(options.model) if options.model else bundled()
    begin = time.process_time()
    mols = model.sample(options.n, random_state=options.seed, **options.options)
    cpu = time.process_time() - begin
    clouds = [
        (
            np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
            mol.GetConformer().GetPositions(),
        )
        for mol in mols
    ]
    return {"cpu_ms_per_molecule": 1000 * cpu / options.n} | score_clouds(clouds, known)


# --------------------------------------------------------------------------- results


def save(path: Path, record: dict[str, Any], new: list[dict[str, Any]]) -> None:
    """Write runs to a file of results, replacing earlier ones of the same model and seed."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry["model"], entry["seed"], json.dumps(entry.get("options", {}), sort_keys=True)

    old = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    fresh = {key(entry) for entry in new}
    runs = [entry for entry in old if key(entry) not in fresh] + new
    order = ["data", *MODELS]
    runs.sort(
        key=lambda entry: (
            order.index(entry["model"]) if entry["model"] in order else len(order),
            key(entry),
        )
    )
    write_atomic(path, (json.dumps(record | {"runs": runs}, indent=1) + "\n").encode())


COLUMNS: dict[str, list[tuple[str, str, int]]] = {
    "qm9": [
        ("AMR-R", "mat_r", 3),
        ("AMR-P", "mat_p", 3),
        ("COV-R@.5", "cov_r@0.5", 1),
        ("COV-P@.5", "cov_p@0.5", 1),
    ],
    "drugs": [
        ("AMR-R", "mat_r", 3),
        ("AMR-P", "mat_p", 3),
        ("COV-R@.75", "cov_r@0.75", 1),
        ("COV-P@.75", "cov_p@0.75", 1),
    ],
    "made": [
        ("AMR-R", "mat_r", 3),
        ("AMR-P", "mat_p", 3),
        ("COV-R@.75", "cov_r@0.75", 1),
        ("COV-P@.75", "cov_p@0.75", 1),
    ],
    "platinum": [("best of 10", "best_of_10", 3), ("best of 25", "best_of_25", 3)],
    "benchmark": [
        ("COV-R@1", "cov_r@1.0", 1),
        ("AMR-R", "mat_r", 3),
        ("Spearman MMFF/GFN2", "energy_ranking", 3),
    ],
}
COMMON = [
    ("GFN2 relaxation kcal/mol", "gfn2_relaxation_median", 2),
    ("stereo", "stereo", 1),
    ("intact", "intact", 1),
    ("checks", "pb_all", 1),
]
DENOVO = [
    ("atom stable", "atom_stable"),
    ("molecule stable", "mol_stable"),
    ("valid", "valid_edm"),
    ("unique", "unique_of_valid"),
    ("novel", "novel_of_unique"),
    ("valid (RDKit)", "valid_rdkit"),
    ("in one piece (RDKit)", "valid_and_connected_rdkit"),
]
NOTE = """\
Means over the molecules; RMSD in Angstrom, shares in per cent. 2 K conformers for K references
(platinum: 25 each), made from SMILES alone. Molecules without conformers cover nothing and are
left out of AMR. CPU: one thread, milliseconds a conformer, loading not counted.
"""


def render(paths: list[Path]) -> str:
    """The Markdown of some files of results."""
    parts = [_render_one(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return "\n".join([NOTE, *parts])


def _render_one(record: dict[str, Any]) -> str:
    task, runs = record["task"], record["runs"]
    if task == "denovo":
        head = ["model", "n", *(title for title, _ in DENOVO), "CPU ms"]
        body = [
            [_label(entry, entry["model"]), str(entry["n"])]
            + [_cell(entry, name, 1, 100) for _, name in DENOVO]
            + [_cell(entry, "cpu_ms_per_molecule", 0, 1)]
            for entry in runs
        ]
        return _table("denovo: new molecules, in per cent", head, body)
    columns = COLUMNS[task] + COMMON
    head = ["model", "seed", *(title for title, *_ in columns), "missing", "CPU ms"]
    body = []
    for entry in runs:
        label = _label(entry, LABELS[entry["model"]])
        if "failed" in entry:
            body.append([label, str(entry["seed"]), f"failed: {entry['failed']}"])
            continue
        # A share has one digit after the point, of per cent.
        cells = [
            _cell(entry["mean"], name, digits, 100 if digits == 1 else 1)
            for _, name, digits in columns
        ]
        cost = f"{entry['cpu_ms_per_conformer']:.0f}"
        body.append([label, str(entry["seed"]), *cells, str(entry["n_missing"]), cost])
    return _table(f"{task}: {record['molecules']} molecules", head, body)


def _label(entry: dict[str, Any], name: str) -> str:
    return f"{name} `{json.dumps(entry['options'])}`" if entry.get("options") else name


def _cell(values: dict[str, float], name: str, digits: int, factor: float) -> str:
    return f"{factor * values[name]:.{digits}f}" if name in values else ""


def _table(title: str, head: list[str], body: list[list[str]]) -> str:
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in body:
        cells = row + [""] * (len(head) - len(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for, or render the results."""
    options = parse(arguments)
    if options.table:
        text = render(sorted(RESULTS.glob("molecules_*.json")))
        write_atomic(RESULTS / "molecules.md", text.encode())
        print(text)
        return
    out = options.out or RESULTS / f"molecules_{options.task}.json"
    here = machine()
    if options.task == "denovo":
        runs = run_denovo(options)
        save(out, {"task": "denovo"}, [entry | {"machine": here} for entry in runs])
        print(f"written to {out}")
        return
    references = load_references(options)
    record = {
        "task": options.task,
        "molecules": len(references),
        "references": sum(map(len, references.values())),
    }
    for model in options.models:
        print(f"{options.task}, {model}: ", end="", flush=True)
        entry = run(model, options, references)
        save(out, record, [entry | {"machine": here}])
        print(line(entry, options.task), flush=True)
    print(f"written to {out}")


def line(entry: dict[str, Any], task: str) -> str:
    """One line about a run."""
    if "failed" in entry:
        return f"failed: {entry['failed']}"
    figures = [
        f"{title} {entry['mean'][name]:.4g}"
        for title, name, _ in COLUMNS[task] + COMMON
        if name in entry["mean"]
    ]
    return ", ".join([*figures, f"{entry['cpu_ms_per_conformer']:.0f} ms a conformer"])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = Path(os.environ["SCIDIFFUSION_DATA"]) if "SCIDIFFUSION_DATA" in os.environ else None
    if folder is not None and (folder / "molecules").is_dir():
        folder /= "molecules"
    parser.add_argument("--task", default="qm9", choices=TASKS)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=folder,
        help="default is the environment variable SCIDIFFUSION_DATA, or molecules in it",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(MODELS),
        default=["ours", "etkdg", "etkdg-mmff", "pick"],
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="number of molecules")
    parser.add_argument(
        "--gfn2", type=int, default=0, help="GFN2 relaxation of the first so many conformers"
    )
    parser.add_argument("--options", type=json.loads, default={}, help="of our models, as JSON")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a model may take")
    parser.add_argument("--save-sdf", type=Path, help="folder for the conformers that were scored")
    parser.add_argument("--references", type=Path, help="made: a folder of shards")
    parser.add_argument("--samples", type=Path, help="denovo: npz file to score")
    parser.add_argument("--model", type=Path, help="denovo: a saved model instead of ours")
    parser.add_argument("-n", type=int, default=1000, help="denovo: number of molecules")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/molecules_TASK.json")
    parser.add_argument("--table", action="store_true", help="render the results and stop")
    options = parser.parse_args(arguments)
    if options.task == "made" and options.references is None and not options.table:
        parser.error("--references is missing: the folder of shards")
    if not options.table and options.task != "made" and options.data_dir is None:
        parser.error("--data-dir is missing: the folder of the data")
    if options.gfn2 and not has_xtb():
        parser.error("--gfn2 needs the program xtb (a package of Debian and of conda-forge)")
    return options


if __name__ == "__main__":
    main()
