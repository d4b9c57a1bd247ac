"""How good are digits by label, and what does guidance do to them?

    python benchmarks/images.py                                    # digits, 1500 steps, one seed
    python benchmarks/images.py --figure docs/images/digits.png    # and the picture of the sweep
    python benchmarks/images.py --table                            # results as Markdown

scikit-learn's digits (8 x 8), 70 % to learn and 30 % held out. A judge of another family is
trained on the real images to learn, and asked what the samples show; the Frechet distance is
between its features. Real against real, the same way, is the floor: the mean over five splits into
halves.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from scidiffusion.images import (
    ImageDiffusion,
    ImageJudge,
    closer_share,
    copied_share,
    diversity,
    frechet_distance,
    label_precision,
    load_digits,
    plot_guidance,
)

SCALES = (0.0, 1.0, 2.0, 3.0, 4.0, 8.0)
SPLITS = 5
SHOWN = 20
GOALS = {"judge": 0.97, "precision": 0.95, "frechet_ratio": 1.5, "guidance": (1.0, 2.0, 3.0)}

NOTE = """\
Frechet: distance of the judge's features to those of half the real images, over that of as many
real images of the other half (1 is real). Held out: the same to the held-out images, over that of
as many images to learn. Diversity: root mean square distance of the features to the mean of their
label. Copies: share three times nearer to one image to learn than to any other. Closer: share
nearer to an image to learn than all but 5 % of the held-out ones.
"""


class Ruler:
    """Judges sets of images against the real ones.

    Args:
        seed: Seed of the split and of the judge.
        count: Images of a set that is judged, at most half of all.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.X, self.y = load_digits()
        split = train_test_split(self.X, self.y, test_size=0.3, stratify=self.y, random_state=seed)
        self.train, self.test, self.train_y, self.test_y = split
        self.judge = ImageJudge(random_state=seed).fit(self.train, self.train_y)
        # The distance falls with the number of images and is moved by the proportions of labels:
        # real images are compared in as many as are drawn, labels in their proportions.
        features = self.judge.features(self.X)
        self.halves, floors = [], []
        for k in range(SPLITS):
            first, second, first_y, _ = train_test_split(
                features, self.y, test_size=0.5, stratify=self.y, random_state=k
            )
            self.halves.append(second)
            floors.append(frechet_distance(_part(first, first_y, count, k), second))
        self.between_halves = float(np.mean(floors))
        self.train_features, self.test_features = map(self.judge.features, (self.train, self.test))
        part = _part(self.train_features, self.train_y, count, seed)
        self.held_out = frechet_distance(part, self.test_features)

    def measure(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the figures of images of the labels asked for."""
        features = self.judge.features(images)
        distances = [frechet_distance(features, half) for half in self.halves]
        return {
            "precision": label_precision(self.judge.predict(images), labels),
            "frechet": float(np.mean(distances)),
            "frechet_ratio": float(np.mean(distances)) / self.between_halves,
            "held_out_ratio": frechet_distance(features, self.test_features) / self.held_out,
            "diversity": diversity(features, labels),
            "copies": copied_share(images, self.train),
            "closer": closer_share(images, self.train, self.test),
        }

    def real(self) -> dict[str, float]:
        """The same figures of the held-out images."""
        return {
            "precision": label_precision(self.judge.predict(self.test), self.test_y),
            "frechet": self.between_halves,
            "frechet_ratio": 1.0,
            "held_out_ratio": 1.0,
            "diversity": diversity(self.test_features, self.test_y),
            "copies": copied_share(self.test, self.train),
            "closer": closer_share(self.test, self.train, self.test),
        }


def _part(rows: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many of the rows, labels in their proportions."""
    part, _ = train_test_split(rows, train_size=count, stratify=labels, random_state=seed)
    return part


def run(steps: int, count: int, seed: int, figure: Path | None) -> dict[str, Any]:
    """Fit, draw `count` images at every scale of guidance, judge."""
    ruler = Ruler(seed, count)
    started = time.process_time()
    model = ImageDiffusion(max_steps=steps, device="cpu", random_state=seed, progress=False)
    model.fit(ruler.train, ruler.train_y)
    record: dict[str, Any] = {
        "data": "digits",
        "seed": seed,
        "steps": model.training_.steps,
        "held_out_loss": model.training_.best_val_loss,
        "fit_cpu_seconds": time.process_time() - started,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "sampler": f"{model.sampler}, {model.sample_steps} steps",
        "images": count,
        "halves": ruler.between_halves,
        "train_to_test": ruler.held_out,
        "real": ruler.real(),
        "scales": {},
    }
    labels = np.resize(np.arange(10), count)
    shown = []
    for scale in SCALES:
        started = time.process_time()
        images = model.sample(
            len(labels), conditions=labels, guidance_scale=scale, random_state=seed
        )
        spent = time.process_time() - started
        figures = ruler.measure(images, labels) | {"sample_cpu_seconds": spent}
        record["scales"][f"{scale:g}"] = figures
        shown.append(images[:SHOWN])
        print(f"scale {scale:g}: {figures}", flush=True)
    if figure is not None:
        rows = [record["scales"][f"{scale:g}"] for scale in SCALES]
        plot_guidance(
            SCALES,
            [row["precision"] for row in rows],
            [row["diversity"] for row in rows],
            shown,
            real=(record["real"]["precision"], record["real"]["diversity"]),
            path=figure,
        )
    return record


def render(record: dict[str, Any]) -> str:
    """Return a record as Markdown: the figures by scale, and what was asked for."""
    head = ["guidance", "asked label, %", "Frechet", "held out", "diversity", "copies, %"]
    lines = ["| " + " | ".join([*head, "closer, %"]) + " |", "|---" + "|---:" * 6 + "|"]
    rows = {f"{scale}": figures for scale, figures in record["scales"].items()}
    for name, row in (rows | {"real, held out": record["real"]}).items():
        cells = [
            f"{100 * row['precision']:.1f}",
            f"{row['frechet_ratio']:.2f}",
            f"{row['held_out_ratio']:.2f}",
            f"{row['diversity']:.2f}",
            f"{100 * row['copies']:.2f}",
            f"{100 * row['closer']:.1f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    plain, real = record["scales"]["1"], record["real"]
    precisions = {s: record["scales"][f"{s:g}"]["precision"] for s in GOALS["guidance"]}
    goals = {
        f"judge on real held-out images >= {100 * GOALS['judge']:g} %": (
            f"{100 * real['precision']:.1f} %",
            real["precision"] >= GOALS["judge"],
        ),
        f"asked label at guidance 1, 2, 3 >= {100 * GOALS['precision']:g} %": (
            ", ".join(f"{100 * value:.1f}" for value in precisions.values()) + " %",
            min(precisions.values()) >= GOALS["precision"],
        ),
        f"Frechet at guidance 1 < {GOALS['frechet_ratio']:g} x that of two real halves": (
            f"{plain['frechet_ratio']:.2f} x",
            plain["frechet_ratio"] < GOALS["frechet_ratio"],
        ),
        "copies no more than among real images": (
            f"{100 * plain['copies']:.2f} % ({100 * real['copies']:.2f} %)",
            plain["copies"] <= real["copies"],
        ),
        "closer no more than among real images": (
            f"{100 * plain['closer']:.1f} % ({100 * real['closer']:.1f} %)",
            plain["closer"] <= real["closer"],
        ),
        "fit in 240 CPU seconds": (
            f"{record['fit_cpu_seconds']:.0f} s",
            record["fit_cpu_seconds"] <= 240,
        ),
    }
    lines += ["", "| goal | reached | |", "|---|---|---|"]
    for goal, (value, good) in goals.items():
        lines.append(f"| {goal} | {value} | {'✓' if good else '✗'} |")
    about = (
        f"{record['steps']:,} steps, {record['fit_cpu_seconds']:.0f} CPU seconds on "
        f"{record['threads']} thread; {record['images']} images a scale, {record['sampler']}; "
        f"seed {record['seed']}. Frechet distance of so many real images to a half "
        f"{record['halves']:.4f}, of so many to learn to those held out "
        f"{record['train_to_test']:.4f}."
    )
    return "\n".join([NOTE, about, "", *lines]) + "\n"


def main() -> None:
    """Measure, write JSON and the table beside it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/images.json"))
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument("--images", type=int, default=400, help="samples at each scale")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="where to draw the sweep")
    parser.add_argument("--table", action="store_true", help="only render what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        record = run(arguments.steps, arguments.images, arguments.seed, arguments.figure)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    table = render(json.loads(arguments.out.read_text()))
    arguments.out.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
