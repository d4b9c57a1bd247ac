"""Pictures and the web page: what they show, what they refuse, and that nothing is loaded."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("rdkit")

from matplotlib.image import imread
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.errors import ConfigError, DataError, OutputError
from scidiffusion.molecules.chem.figures import positions, set_figures
from scidiffusion.molecules.chem.pictures import (
    ELEMENT_COLOURS,
    MAX_CONFORMERS,
    draw_conformers,
    draw_overlay,
)
from scidiffusion.molecules.chem.viewer import write_html

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def embedded(smiles: str, count: int = 3, *, known: bool = True) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    mol.SetProp("smiles", smiles)
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=2)) == count
    if known:
        energies = -100.0 + np.arange(count)
        weights = np.exp(-np.arange(count))
        valid = np.arange(count) != 1
        set_figures(
            mol, energies=energies, method="MMFF94", weights=weights / weights.sum(), valid=valid
        )
    return mol


def panels(figure) -> list:
    return [axes for axes in figure.axes if axes.collections]


def shapes(axes, *, discs: bool) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Corners, colour and line width of the discs, or of the bars, in the order of painting."""
    found = []
    for layer in sorted(axes.collections, key=lambda collection: collection.get_zorder()):
        parts = (layer.get_paths(), layer.get_facecolors(), layer.get_linewidths())
        for path, colour, width in zip(*parts, strict=True):
            if (len(path.vertices) > 8) == discs:
                found.append((path.vertices, colour, width))
    return found


def balls(axes) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """The discs with a rim: one for each atom, without its highlights."""
    return [shape for shape in shapes(axes, discs=True) if shape[2] > 0]


def radius(shape) -> float:
    return float(np.ptp(shape[0], axis=0).max() / 2)


def texts(figure) -> list[str]:
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return inside + [text.get_text() for text in figure.texts]


def pixels(figure) -> np.ndarray:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)
    stream.seek(0)
    return imread(stream)[..., :3]


def test_a_grid_has_a_drawing_of_each_conformer():
    figure = draw_conformers(embedded(ASPIRIN), columns=2)
    shown = texts(figure)
    assert ASPIRIN in shown
    assert "3 conformers" in shown
    assert "1   +0.00 kcal/mol   66.5 %" in shown
    assert "2   +1.00 kcal/mol   24.5 %   not valid" in shown
    assert len(panels(figure)) == 3
    # Each atom is a disc with two highlights; each of 21 bonds two halves, of several bars some.
    assert len(shapes(panels(figure)[0], discs=True)) == 3 * 21
    assert len(balls(panels(figure)[0])) == 21
    assert len(shapes(panels(figure)[0], discs=False)) == 2 * (21 + 6 + 2)
    # The grid's cells do not overlap.
    boxes = [axes.get_position() for axes in panels(figure)]
    assert boxes[0].x1 <= boxes[1].x0 + 1e-9
    assert boxes[2].y1 < boxes[0].y0


def test_atoms_are_drawn_in_their_colours_from_back_to_front():
    from matplotlib.colors import to_rgb

    figure = draw_conformers(embedded("O", 1), formula=False)
    drawn = balls(panels(figure)[0])
    assert len(drawn) == 3
    oxygen = max(drawn, key=lambda shape: shape[1][0] - shape[1][1])
    assert oxygen[1][0] - oxygen[1][1] > 0.4
    assert radius(oxygen) == max(map(radius, drawn))
    image = pixels(figure)
    assert (np.abs(image - to_rgb(ELEMENT_COLOURS[8])).max(-1) < 0.25).sum() > 30


def test_what_is_far_is_painted_first_and_paler():
    figure = draw_conformers(embedded("ClC(Cl)(Cl)Cl", 1), formula=False)
    green = [s for s in balls(panels(figure)[0]) if s[1][1] > s[1][0] + 0.05]
    assert len(green) == 4
    paleness = [shape[1][0] for shape in green]
    assert paleness == sorted(paleness, reverse=True)
    assert paleness[0] > paleness[-1] + 0.1


def test_the_view_shows_as_much_as_it_can():
    figure = draw_conformers(embedded("c1ccccc1", 1), formula=False)
    centres = np.array([shape[0].mean(0) for shape in balls(panels(figure)[0])])
    width, height = np.ptp(centres, axis=0)
    assert width > 4.0
    assert height > 4.0


def test_pictures_without_figures_and_without_hydrogen(tmp_path):
    mol = embedded("CC#N", 2, known=False)
    figure = draw_conformers(mol, tmp_path / "a.png", hydrogen=False, title="cost: $5 and $6")
    assert texts(figure)[:2] == ["1", "2"]
    assert "cost: $5 and $6" in texts(figure)
    assert len(balls(figure.axes[-1])) == 3
    image = imread(tmp_path / "a.png")
    assert min(image.shape[:2]) > 200
    assert image[..., :3].min() < 0.5


def test_energies_that_are_unknown_are_said_to_be():
    mol = embedded("CO", 3)
    set_figures(mol, energies=[np.nan, 2.0, 1.0], method="MMFF94", weights=[0.0, 0.1, 0.9])
    shown = texts(draw_conformers(mol))
    assert "1   no energy   < 0.1 %" in shown
    assert "3   +0.00 kcal/mol   90.0 %" in shown


def test_many_conformers_are_not_all_drawn():
    mol = embedded("O", MAX_CONFORMERS + 2, known=False)
    figure = draw_conformers(mol, columns=10)
    assert len(panels(figure)) == MAX_CONFORMERS
    assert f"first {MAX_CONFORMERS} shown" in texts(figure)
    assert f"{MAX_CONFORMERS + 2} conformers" in texts(figure)


@pytest.mark.parametrize("smiles", [ASPIRIN, "CCO", "[Na+]", "[H][H]", "C#C", "[Na+].[Cl-]"])
def test_an_overlay_holds_all_conformers(tmp_path, smiles):
    mol = embedded(smiles)
    figure = draw_overlay(mol, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000
    heavy = mol.GetNumHeavyAtoms() or mol.GetNumAtoms()
    assert len(balls(figure.axes[0])) == 3 * heavy
    # The most probable conformer is on top.
    layers = figure.axes[0].collections
    top = max(layers, key=lambda layer: layer.get_zorder())
    assert len({layer.get_zorder() for layer in layers}) == 3
    strength = [layer.get_facecolors()[:, :3].mean() for layer in layers]
    assert top.get_facecolors()[:, :3].mean() == min(strength)
    assert np.isfinite(pixels(figure)).all()


@pytest.mark.parametrize("draw", [draw_conformers, draw_overlay])
def test_what_cannot_be_drawn(tmp_path, draw):
    with pytest.raises(DataError, match="'CCO' has no conformer"):
        draw(Chem.MolFromSmiles("CCO"))
    mol = embedded("CCO", 1)
    with pytest.raises(OutputError, match="cannot write"):
        draw(mol, tmp_path / "a.nonsense")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder"):
        draw(mol, tmp_path / "folder")
    mol.GetConformer().SetAtomPosition(0, [np.inf, 0.0, 0.0])
    with pytest.raises(DataError, match="not a finite number"):
        draw(mol)
    with pytest.raises(ConfigError, match="columns"):
        draw_conformers(mol, columns=0)


def test_pyplot_is_left_alone():
    code = (
        "import sys\n"
        "from rdkit import Chem\n"
        "from rdkit.Chem import rdDistGeom\n"
        "from scidiffusion.molecules.chem.pictures import draw_conformers\n"
        "mol = Chem.AddHs(Chem.MolFromSmiles('O'))\n"
        "rdDistGeom.EmbedMolecule(mol, randomSeed=1)\n"
        "draw_conformers(mol)\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
    assert done.stderr == ""


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the texts of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data

    def script(self, name: str) -> str:
        return next(
            text
            for (tag, attributes), text in zip(self.tags, self.texts, strict=True)
            if tag == "script" and attributes.get("id") == name
        )

    def text(self, wanted: str) -> str:
        return next(
            text.strip()
            for (tag, _), text in zip(self.tags, self.texts, strict=True)
            if tag == wanted
        )


def test_the_page_is_complete_and_loads_nothing(tmp_path):
    molecules = [embedded(ASPIRIN), embedded("C#N", 1, known=False)]
    assert write_html(tmp_path / "a.html", iter(molecules)) == 2
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "img", "object"})
    policies = [a["content"] for t, a in page.tags if a.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        page.tags
    )
    assert "BSD-3-Clause" in page.script("license")
    assert any("$3Dmol" in text or "3Dmol" in text[:200_000] for text in page.texts)
    assert page.text("title") == "2 molecules"

    first, second = json.loads(page.script("data"))["molecules"]
    assert first["name"] == ASPIRIN
    assert len(first["conformers"]) == 3
    assert first["conformers"][1]["energy"] == -99.0
    assert first["conformers"][1]["method"] == "MMFF94"
    assert [c["valid"] for c in first["conformers"]] == [True, False, True]
    assert second["conformers"][0]["energy"] is None
    assert sorted(second["bonds"]) == [[0, 1, 3], [0, 2, 1]]
    assert sorted(order for *_, order in first["bonds"]) == [1] * 16 + [2] * 5
    shown = np.reshape(first["conformers"][2]["coordinates"], (-1, 3))
    apart, expected = (
        np.linalg.norm(places[:, None] - places, axis=-1)
        for places in (shown, positions(molecules[0])[2])
    )
    np.testing.assert_allclose(apart, expected, atol=1e-3)


@pytest.mark.parametrize(
    "evil",
    [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!--<script>",
        "@DATA@ @LIBRARY@ \\1 \\g<0>",
        "C\u2028C & 'x' \"y\"",
    ],
)
def test_texts_of_the_user_stay_texts(tmp_path, evil):
    harmless, mol = embedded("CO", 1), embedded("CO", 1)
    mol.SetProp("smiles", evil)
    set_figures(mol, energies=[np.nan], method=evil)
    write_html(tmp_path / "good.html", harmless)
    write_html(tmp_path / "evil.html", mol)
    good, page = (
        Page((tmp_path / name).read_text(encoding="utf-8")) for name in ("good.html", "evil.html")
    )
    assert page.tags == good.tags
    entry = json.loads(page.script("data"))["molecules"][0]
    assert entry["name"] == evil
    assert entry["conformers"][0]["method"] == evil
    assert entry["conformers"][0]["energy"] is None
    assert page.text("title") == evil
    assert page.text("h1") == evil


def test_what_the_page_refuses(tmp_path):
    with pytest.raises(DataError, match="no molecule"):
        write_html(tmp_path / "a.html", [])
    with pytest.raises(DataError, match="no conformer"):
        write_html(tmp_path / "a.html", Chem.MolFromSmiles("CCO"))
    with pytest.raises(OutputError, match="folder"):
        write_html(tmp_path, embedded("CO", 1))
    assert list(tmp_path.iterdir()) == []
