"""Pictures of conformers: ball-and-stick drawings in a grid, and the ensemble in one drawing.

A molecule is seen along its shortest principal axis, so that it shows as much of itself as it can.
Bonds and atoms are painted from back to front, the far ones paler, as in a haze. Every function
returns a matplotlib figure of its own, opens no window and touches none of pyplot's state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from scidiffusion._files import write_atomic
from scidiffusion.errors import ConfigError, OutputError
from scidiffusion.molecules.chem.ensembles import align, rigid_core
from scidiffusion.molecules.chem.figures import (
    Figures,
    figures,
    finite_positions,
    heavy_graph,
    name_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ELEMENT_COLOURS", "draw_conformers", "draw_overlay"]

Array = NDArray[np.float64]
Colour = str | tuple[float, float, float]

INK = "#333333"
FAINT = "#777777"
WARNING_INK = "#b3261e"
MAX_CONFORMERS = 40
"""Conformers that a grid shows at most."""
ELEMENT_COLOURS = {
    1: "#f2f2f2",
    5: "#ffb5b5",
    6: "#555a60",
    7: "#3050f8",
    8: "#e8261a",
    9: "#70c050",
    14: "#d8b48c",
    15: "#ff8000",
    16: "#e6c21f",
    17: "#1fb01f",
    34: "#d98a1c",
    35: "#a62929",
    53: "#8a1fa0",
}
"""Colours by atomic number after Corey, Pauling and Koltun, darkened for white paper."""
OTHER_ELEMENT = "#c060b0"
BALL = 0.30
"""Radius of a drawn atom as a share of its van der Waals radius."""
STICK = 0.14
"""Radius of a drawn bond, Angstrom."""
HAZE = 0.5
"""How much of the colour of the farthest atom is lost."""


def draw_conformers(
    mol: Chem.Mol,
    path: str | PathLike[str] | None = None,
    columns: int = 4,
    *,
    title: str | None = None,
    hydrogen: bool = True,
    formula: bool = True,
) -> Figure:
    """Draw the conformers of a molecule in a grid, with what is known about each below it.

    All are laid on the first one and seen from the same side, at the same scale.

    Args:
        mol: A molecule with n conformers; energies, weights and flags are taken from them
            (`scidiffusion.molecules.chem.figures`). Energies are given above the lowest.
        path: Where to save the picture; the suffix gives the format.
        columns: Drawings in a row, 1 or more.
        title: Heading; default the SMILES as given.
        hydrogen: Draw hydrogen.
        formula: Show the structural formula above the grid.

    Returns:
        The figure, of the first `MAX_CONFORMERS` conformers.

    Raises:
        DataError: if there is no conformer, or a coordinate is not finite.
        ConfigError: if `columns` is below 1.
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    if columns < 1:
        raise ConfigError(f"columns must be 1 or more, got {columns}")
    places = _view(mol)
    known = figures(mol)
    shown = min(len(places), MAX_CONFORMERS)
    columns = min(columns, shown)
    rows = math.ceil(shown / columns)
    lowest = min(_numbers([figure.energy for figure in known]), default=0.0)
    atoms = _drawn(mol, hydrogen)
    frame = _frame(places[:shown, atoms])
    width, height = frame[2:]
    panel = 2.2
    tall = panel * min(1.6, max(0.5, height / width))
    head = 1.15 if formula else 0.5
    size = (max(3.2, panel * columns), head + rows * (tall + 0.5))
    figure = Figure(figsize=size, facecolor="white")
    text = name_of(mol) if title is None else title
    _head(figure, mol, text, f"{len(places)} conformers", head, formula)
    if shown < len(places):
        figure.text(0.98, 0.004, f"first {shown} shown", fontsize=7, color=FAINT, ha="right")
    for index in range(shown):
        row, column = divmod(index, columns)
        axes = figure.add_axes(
            (
                column / columns,
                1 - (head + row * (tall + 0.5) + tall) / size[1],
                1 / columns,
                tall / size[1],
            )
        )
        _empty(axes, frame)
        _paint(axes, mol, places[index], atoms)
        _caption(axes, known[index], lowest, index)
    return _finish(figure, path)


def draw_overlay(
    mol: Chem.Mol,
    path: str | PathLike[str] | None = None,
    *,
    core: Sequence[int] | None = None,
    title: str | None = None,
    hydrogen: bool = False,
) -> Figure:
    """Draw all conformers in one picture, laid on one another.

    Args:
        mol: A molecule with n conformers. The heavier its Boltzmann weight, the more of its
            colour a conformer keeps; all alike where there are no weights.
        path: Where to save the picture; the suffix gives the format.
        core: Numbers of the atoms that are laid on one another; default the largest system of
            fused rings, or all but hydrogen where there is no ring.
        title: Heading; default the SMILES as given.
        hydrogen: Draw hydrogen.

    Returns:
        The figure.

    Raises:
        DataError: if there is no conformer, a coordinate is not finite, or an atom of the core
            does not exist.
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    places = _view(mol, rigid_core(mol) if core is None else core)
    atoms = _drawn(mol, hydrogen)
    frame = _frame(places[:, atoms])
    width, height = frame[2:]
    head = 0.7
    tall = 5.0 * min(1.3, max(0.4, height / width))
    figure = Figure(figsize=(5.0, head + tall), facecolor="white")
    text = name_of(mol) if title is None else title
    _head(figure, mol, text, f"{len(places)} conformers, superposed", head, formula=False)
    axes = figure.add_axes((0.0, 0.0, 1.0, tall / (head + tall)))
    _empty(axes, frame)
    weights = _numbers([figure.weight for figure in figures(mol)])
    strengths = np.full(len(places), 0.75 if len(places) > 1 else 1.0)
    if len(weights) == len(places) and max(weights) > 0:
        strengths = 0.25 + 0.75 * np.sqrt(np.array(weights) / max(weights))
    # The lightest first, so that the most probable one is on top.
    for rank, index in enumerate(np.argsort(strengths, kind="stable")):
        _paint(
            axes, mol, places[index], atoms, fade=1 - strengths[index], layer=1 + rank, thin=0.55
        )
    return _finish(figure, path)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _drawn(mol: Chem.Mol, hydrogen: bool) -> list[int]:
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    return list(range(mol.GetNumAtoms())) if hydrogen or not heavy else heavy


def _view(mol: Chem.Mol, core: Sequence[int] | None = None) -> Array:
    """Coordinates of all conformers on the first, its long axis to the right and short one to us.

    `align` has turned the first one into its principal axes, the longest first.
    """
    finite_positions(mol)
    return finite_positions(align(mol, core))


def _frame(places: Array) -> tuple[float, float, float, float]:
    """Left, bottom, width and height that hold all points and the balls around them."""
    low, high = places[..., :2].min((0, 1)) - 0.8, places[..., :2].max((0, 1)) + 0.8
    # A small molecule is not blown up to fill its panel.
    room = np.maximum(high - low, (5.0, 2.5))
    left, bottom = (low + high - room) / 2
    return float(left), float(bottom), float(room[0]), float(room[1])


def _empty(axes: Axes, frame: tuple[float, float, float, float]) -> None:
    left, bottom, width, height = frame
    axes.set_xlim(left, left + width)
    axes.set_ylim(bottom, bottom + height)
    axes.set_aspect("equal", adjustable="box")
    axes.set_axis_off()


def _mix(colour: Colour, share: float, other: str = "#ffffff") -> tuple[float, float, float]:
    """The colour with a share of another one, in [0, 1]."""
    from matplotlib.colors import to_rgb

    mixed = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return float(mixed[0]), float(mixed[1]), float(mixed[2])


@dataclass
class _Shape:
    """A disc, or a bar where it has corners, with the depth by which it is sorted."""

    depth: float
    fill: tuple[float, ...]
    edge: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    width: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    radius: float = 0.0
    corners: Array | None = None


def _paint(
    axes: Axes,
    mol: Chem.Mol,
    points: Array,
    atoms: Sequence[int],
    *,
    fade: float = 0.0,
    layer: int = 1,
    thin: float = 1.0,
) -> None:
    """Draw one conformer from back to front, as one collection: a patch each is far slower."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path as Outline

    table = Chem.GetPeriodicTable()
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    radii = [BALL * thin * table.GetRvdw(max(1, number)) for number in numbers]
    colours = [ELEMENT_COLOURS.get(number, OTHER_ELEMENT) for number in numbers]
    depths = points[list(atoms), 2]
    high, thickness = float(depths.max()), max(float(np.ptp(depths)), 3.0)

    def tint(colour: str, depth: float) -> tuple[float, float, float]:
        haze = HAZE * (high - depth) / thickness
        return _mix(colour, 1 - (1 - haze) * (1 - fade))

    drawn = set(atoms)
    shapes: list[_Shape] = []
    for bond in mol.GetBonds():
        if {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()} <= drawn:
            shapes += _bars(bond, points, colours, tint, STICK * thin)
    for index in atoms:
        x, y, z = points[index].tolist()
        radius, colour = radii[index], colours[index]
        rim = _mix(_mix(colour, 0.45, "#000000"), fade)
        shapes.append(_Shape(z, tint(colour, z), rim, 0.5 * thin, (x, y), radius))
        # A highlight from the upper left makes a ball of the disc.
        for share, offset, strength in ((0.62, 0.18, 0.22), (0.3, 0.34, 0.45)):
            spot = (x - offset * radius, y + offset * radius)
            light = (1.0, 1.0, 1.0, strength * (1 - fade))
            shapes.append(_Shape(z, light, centre=spot, radius=share * radius))
    # Bars come first and the sort is stable: a ball covers the ends of its own bonds.
    shapes.sort(key=lambda shape: shape.depth)
    axes.add_collection(
        PathCollection(
            [
                Outline.circle(shape.centre, shape.radius)
                if shape.corners is None
                else Outline(shape.corners, closed=True)
                for shape in shapes
            ],
            facecolors=[shape.fill for shape in shapes],
            edgecolors=[shape.edge for shape in shapes],
            linewidths=[shape.width for shape in shapes],
            zorder=layer,
        ),
        autolim=False,
    )


def _bars(
    bond: Chem.Bond,
    points: Array,
    colours: Sequence[str],
    tint: Callable[[str, float], tuple[float, float, float]],
    stick: float,
) -> Iterator[_Shape]:
    """A bond as one to three bars, each half in the colour of its atom."""
    ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    start, stop = points[ends[0]], points[ends[1]]
    along = stop[:2] - start[:2]
    length = float(np.hypot(*along))
    if length < 1e-6:
        return
    across = np.array([-along[1], along[0]]) / length
    several = {Chem.BondType.DOUBLE: 2, Chem.BondType.AROMATIC: 2, Chem.BondType.TRIPLE: 3}
    count = several.get(bond.GetBondType(), 1)
    half = {1: 0.55, 2: 0.36, 3: 0.28}[count] * stick * across
    middle = (start + stop) / 2
    for bar in range(count):
        shift = (bar - (count - 1) / 2) * stick * (1.25 if count == 2 else 1.0) * across
        for near, atom in ((start, ends[0]), (stop, ends[1])):
            depth = float(near[2] + middle[2]) / 2
            a, b = near[:2] + shift, middle[:2] + shift
            corners = np.array([a - half, b - half, b + half, a + half, a - half])
            fill = tint(_dark(colours[atom]), depth)
            yield _Shape(min(depth, float(near[2])), fill, corners=corners)


def _dark(colour: str) -> str:
    """Bars to hydrogen are grey: white ones would vanish on the paper."""
    return "#c4c8cc" if colour == ELEMENT_COLOURS[1] else colour


def _caption(axes: Axes, known: Figures, lowest: float, index: int) -> None:
    lines = [f"{index + 1}"]
    if known.energy is not None:
        above = known.energy - lowest
        lines.append(f"+{above:.2f} kcal/mol" if math.isfinite(above) else "no energy")
    if known.weight is not None:
        share = 100 * known.weight
        lines.append("< 0.1 %" if 0 <= share < 0.05 else f"{share:.1f} %")
    bad = known.valid is False
    axes.text(
        0.5,
        -0.02,
        "   ".join(lines) + ("   not valid" if bad else ""),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=7.5,
        color=WARNING_INK if bad else INK,
    )


def _head(
    figure: Figure, mol: Chem.Mol, title: str, subtitle: str, head: float, formula: bool
) -> None:
    """Title, subtitle and structural formula in the upper `head` inches."""
    width, height = (float(value) for value in figure.get_size_inches())
    left = 0.15
    if formula:
        picture = _formula(mol)
        # 300 pixels to the inch, less where it would fill more than half of the width.
        high, wide = (float(size) / 300 for size in picture.shape[:2])
        shrink = min(1.0, (head - 0.1) / high, 0.48 * width / wide)
        high, wide = high * shrink, wide * shrink
        axes = figure.add_axes(
            (left / width, 1 - (head + high) / 2 / height, wide / width, high / height)
        )
        axes.imshow(picture, interpolation="lanczos", aspect="auto")
        axes.set_axis_off()
        left += wide + 0.15
    room = max(8, int((width - left) / 0.095))
    lines = [title[start : start + room] for start in range(0, len(title), room)][:4]
    if len(title) > 3 * room:
        lines = [*lines[:2], title[2 * room : 3 * room - 1] + "…"]
    entries = [(line, 10, INK) for line in lines] + [(subtitle, 8, FAINT)]
    down = head / 2 - 0.09 * (len(entries) - 1)
    for place, (text, size, colour) in enumerate(entries):
        # SMILES may hold dollar signs, which would begin a formula of TeX.
        figure.text(
            left / width,
            1 - (down + 0.18 * place) / height,
            text,
            fontsize=size,
            color=colour,
            va="center",
            parse_math=False,
        )


def _formula(mol: Chem.Mol) -> NDArray[np.float64]:
    """The structural formula as an RGB image."""
    from matplotlib.image import imread

    with rdBase.BlockLogs():
        flat = heavy_graph(mol)
        flat.RemoveAllConformers()
        rdDepictor.Compute2DCoords(flat)
        drawer = rdMolDraw2D.MolDraw2DCairo(1600, 900)
        options = drawer.drawOptions()
        for option, value in {"padding": 0.03, "bondLineWidth": 3, "fixedBondLength": 60}.items():
            setattr(options, option, value)
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, flat)
        drawer.FinishDrawing()
    image: NDArray[np.float64] = imread(io.BytesIO(drawer.GetDrawingText()))
    ink = np.argwhere(image[..., :3].min(-1) < 0.99)
    if len(ink):
        (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
        image = image[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6]
    return image


def _finish(figure: Figure, path: str | PathLike[str] | None) -> Figure:
    if path is not None:
        try:
            write_atomic(path, lambda target: figure.savefig(target, dpi=200))
        except ValueError as error:
            raise OutputError(f"cannot write {path}: {error}") from error
    return figure
