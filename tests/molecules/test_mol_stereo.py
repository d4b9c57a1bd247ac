"""Stereo: found where open, set to what exists, and judged from coordinates."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.molecules.chem.figures import heavy_graph
from scidiffusion.molecules.chem.handedness import FLAT_VOLUME, asked_centres, stereo_kept
from scidiffusion.molecules.chem.smiles import read_smiles
from scidiffusion.molecules.chem.stereo import (
    enumerate_stereo,
    fix_stereo,
    unspecified,
)

CHIRAL = (
    "C[C@H](O)CC",
    "C[S@](=O)CC",
    "CC[P@](C)c1ccccc1",
    "C[S@@+](CC)CCC",
    "C[Si@](F)(Cl)CC",
    "C[N@+](CC)(CCC)Cl",
    "[2H][C@H](C)O",
    "C[C@@H](F)[C@H](O)CC",
    "CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2",
)
DOUBLE = ("F/C=C/Cl", "F/C=C\\Cl", "C/C=N/O", "CC/C(C)=C(/F)Cl", "C/C=C/C=C\\CC", "[H]/N=C(/C)CC")


def canonical(mol):
    return Chem.MolToSmiles(heavy_graph(mol))


def embedded(mol, n=3):
    mol = Chem.Mol(mol)
    options = rdDistGeom.ETKDGv3()
    options.randomSeed = 5
    assert len(rdDistGeom.EmbedMultipleConfs(mol, n, options)) == n
    return mol


def with_places(mol, places):
    """A copy with conformers at places (n, N, 3)."""
    mol = Chem.Mol(mol)
    mol.RemoveAllConformers()
    for place in places:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.Set3D(True)
        conformer.SetPositions(np.ascontiguousarray(place))
        mol.AddConformer(conformer, assignId=True)
    return mol


def places_of(mol):
    return np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])


def turned(mol, bond):
    """Places of the first conformer with one side of a bond turned by 180 degrees about it."""
    begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    cut = Chem.RWMol(mol)
    cut.RemoveBond(begin, end)
    side = next(list(part) for part in Chem.GetMolFrags(cut) if end in part)
    places = places_of(mol)[0]
    axis = places[end] - places[begin]
    axis /= np.linalg.norm(axis)
    arms = places[side] - places[end]
    places[side] = places[end] + 2 * np.outer(arms @ axis, axis) - arms
    return places


@pytest.mark.parametrize("text", CHIRAL)
def test_mirror_images_of_chiral_molecules_are_told(text):
    mol = embedded(read_smiles(text))
    places = places_of(mol)
    assert stereo_kept(mol).tolist() == [True] * 3
    both = with_places(mol, np.concatenate([places, -places]))
    assert stereo_kept(both).tolist() == [True] * 3 + [False] * 3
    assert stereo_kept(both, [4, 1]).tolist() == [False, True]
    # A rigid motion changes nothing.
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    assert stereo_kept(with_places(mol, places @ rotation + 7.0)).all()


@pytest.mark.parametrize("text", DOUBLE)
def test_turned_double_bonds_are_told(text):
    mol = embedded(read_smiles(text))
    assert stereo_kept(mol).all()
    assert stereo_kept(with_places(mol, -places_of(mol))).all()
    bonds = [bond for bond in mol.GetBonds() if bond.GetStereo() > Chem.BondStereo.STEREOANY]
    assert bonds
    for bond in bonds:
        wrong = with_places(mol, [turned(mol, bond)])
        assert stereo_kept(wrong).tolist() == [False]


@pytest.mark.parametrize(
    "text", ["C[C@H](O)[C@@H](C)O", "C[C@H]1CC[C@H](C)CC1", "C[C@H](F)C(O)[C@@H](C)F"]
)
def test_a_meso_compound_is_its_own_mirror_image(text):
    mol = embedded(read_smiles(text))
    assert stereo_kept(with_places(mol, -places_of(mol))).all()


def embedded_as(mol, other):
    """Conformers of another stereoisomer, in the atoms of a molecule."""
    return with_places(mol, places_of(embedded(read_smiles(other))))


def test_diastereomers_are_told():
    for one, other in (
        ("C[C@H](O)[C@@H](C)O", "C[C@H](O)[C@H](C)O"),
        ("C[C@H]1CC[C@H](C)CC1", "C[C@H]1CC[C@@H](C)CC1"),
        ("C/C=C/C=C\\C", "C/C=C/C=C/C"),
    ):
        assert not stereo_kept(embedded_as(read_smiles(one), other)).any()
        assert not stereo_kept(embedded_as(read_smiles(other), one)).any()
    # Which of two like double bonds is cis has no meaning.
    assert stereo_kept(embedded_as(read_smiles("C/C=C/C=C\\C"), "C/C=C\\C=C\\C")).all()


def test_flat_centres_and_missing_places_keep_nothing():
    mol = embedded(read_smiles("C[C@H](O)CC"), 1)
    places = places_of(mol)[0]
    flat = places * [1.0, 1.0, 0.0]
    assert not stereo_kept(with_places(mol, [flat, places * np.nan])).any()
    assert stereo_kept(read_smiles("C[C@H](O)CC")).shape == (0,)
    assert stereo_kept(with_places(read_smiles("O"), np.zeros((2, 3, 3)))).tolist() == [True] * 2


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("CCO", []),
        ("C[C@H](N)O", []),
        ("CC(N)O", ["tetrahedral centre C1"]),
        ("CCS(C)=O", ["tetrahedral centre S2"]),
        ("CC=CCl", ["double bond C1=C2"]),
        ("CC1CCC(C)CC1", ["tetrahedral centre C1", "tetrahedral centre C4"]),
        ("CC1CCCCC1", []),
        ("C1CCCCC=C1", []),
        ("C1CCCCCC=C1", ["double bond C6=C7"]),
        ("CCN(C)Cl", []),
        ("CC1CN1C", ["tetrahedral centre C1"]),
        ("CCC(=N)C", []),
        ("CCC(=NO)C", ["double bond C2=N3"]),
        ("NC(N)=[NH+]C", []),
        ("CC=C=CC", []),
        ("C[C@H](F)C=CC", ["double bond C3=C4"]),
    ],
)
def test_open_elements(text, texts):
    assert [str(one) for one in unspecified(read_smiles(text))] == texts


@pytest.mark.parametrize(
    "text",
    ["CC(N)O", "CC(F)C(O)C=CCl", "CC1CCC(C)CC1", "CC1(C)C2CCC1(C)C(=O)C2", "OC1C(O)C(O)C(O)C1O"],
)
def test_what_is_open_is_set_to_what_exists(text):
    mol = read_smiles(text)
    seen = set()
    for seed in range(4):
        fixed, texts = fix_stereo(mol, seed)
        again, same = fix_stereo(mol, seed)
        assert canonical(fixed) == canonical(again)
        assert texts == same
        assert len(texts) == len(unspecified(mol))
        assert unspecified(fixed) == []
        assert fixed.GetProp("smiles") == text
        assert stereo_kept(embedded(fixed, 1)).all()
        seen.add(canonical(fixed))
    assert len(seen) > 1
    assert seen <= {canonical(isomer) for isomer in enumerate_stereo(mol)}
    assert canonical(mol) == Chem.CanonSmiles(text)


def test_the_labels_are_those_of_the_isomer():
    seen = {}
    for seed in range(8):
        fixed, texts = fix_stereo(read_smiles("CC(O)C=CCl"), seed)
        seen[canonical(fixed)] = tuple(texts)
    named = {
        "C[C@H](O)/C=C/Cl": "SE",
        "C[C@@H](O)/C=C/Cl": "RE",
        "C[C@H](O)/C=C\\Cl": "SZ",
        "C[C@@H](O)/C=C\\Cl": "RZ",
    }
    assert len(seen) > 2
    for text, (centre, bond) in seen.items():
        label = next(name for known, name in named.items() if Chem.CanonSmiles(known) == text)
        assert centre == f"tetrahedral centre C1 ({label[0]})"
        assert bond == f"double bond C3=C4 ({label[1]})"


@pytest.mark.parametrize("text", ["CN1C2CCC1CC2", "C1CC2CCC1C2"])
def test_bridgeheads_that_leave_no_choice_are_not_reported(text):
    mol = read_smiles(text)
    assert unspecified(mol)
    fixed, texts = fix_stereo(mol, 0)
    assert texts == []
    assert stereo_kept(embedded(fixed, 1)).all()


def test_specified_stereo_stays():
    for seed in range(4):
        fixed, texts = fix_stereo(read_smiles("C[C@H](F)[C@H](N)C(O)Cl"), seed)
        assert len(texts) == 1
        assert heavy_graph(fixed).HasSubstructMatch(
            Chem.MolFromSmiles("C[C@H](F)[C@H](N)C(O)Cl"), useChirality=True
        )
    mol = read_smiles("C[C@H](N)O")
    fixed, texts = fix_stereo(mol, 0)
    assert fixed is not mol
    assert (canonical(fixed), texts) == (canonical(mol), [])


def test_double_bonds_in_small_rings_are_cis_unless_written():
    for seed in range(4):
        fixed, texts = fix_stereo(read_smiles("C1CCCCCC=C1"), seed)
        assert texts == ["double bond C6=C7 (Z)"]
        assert stereo_kept(embedded(fixed, 1)).all()
    trans = embedded(read_smiles("C1CCCCC/C=C/1"), 1)
    assert canonical(trans) != canonical(fixed)
    assert stereo_kept(trans).all()
    assert not stereo_kept(with_places(fixed, places_of(trans))).any()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("CCO", 1),
        ("CC(N)O", 2),
        ("CC(O)C(C)O", 3),
        ("CC=CC(N)O", 4),
        ("OC1C(O)C(O)C(O)C(O)C1O", 9),
        ("CC1(C)C2CCC1(C)C(=O)C2", 2),
    ],
)
def test_isomers_are_all_and_different(text, count):
    # 2,3-butanediol has a meso form, inositol nine isomers, and camphor's bridge allows but two.
    isomers = enumerate_stereo(read_smiles(text))
    texts = [isomer.GetProp("smiles") for isomer in isomers]
    assert len(set(texts)) == len(texts) == count
    assert [canonical(isomer) for isomer in isomers] == [Chem.CanonSmiles(one) for one in texts]


def test_a_limit_that_cuts_is_told():
    mol = read_smiles("CC(O)C(C)O")
    with pytest.warns(ScidiffusionWarning, match="more stereoisomers than the 2"):
        assert len(enumerate_stereo(mol, 2)) == 2
    assert len(enumerate_stereo(mol, 3)) == 3
    for limit in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="limit"):
            enumerate_stereo(mol, limit)


def test_impossible_combinations_are_an_error():
    # One of the two ways to specify the bridgeheads is no cage; the fluorine is open in both.
    outcomes = []
    for text in ("FC1C[C@H]2C[C@@H]1CC2", "FC1C[C@H]2C[C@H]1CC2"):
        try:
            outcomes.append(fix_stereo(read_smiles(text), 0)[1])
        except DataError as error:
            outcomes.append(str(error))
    (message,) = [one for one in outcomes if isinstance(one, str)]
    assert "3D geometry (tetrahedral centre C1)" in message
    (texts,) = [one for one in outcomes if isinstance(one, list)]
    assert [text[:21] for text in texts] == ["tetrahedral centre C1"]


def test_a_centre_pushed_through_one_of_its_faces_is_not_kept():
    mol = embedded(read_smiles("C[C@H](F)Cl"), 1)
    assert stereo_kept(mol).all()
    (centre, *last), sign = asked_centres(mol)[0][0], asked_centres(mol)[1][0]
    around = [one.GetIdx() for one in mol.GetAtomWithIdx(centre).GetNeighbors()]
    place = mol.GetConformer().GetPositions()
    pushed = []
    for left_out in around:
        a, b, c = (place[atom] for atom in around if atom != left_out)
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal)
        beyond = place.copy()
        # As far behind the face as it was before it.
        beyond[centre] -= 1.6 * ((place[centre] - a) @ normal) * normal
        pushed.append(beyond)
    made = with_places(mol, pushed)
    arms = np.stack(pushed)[:, last] - np.stack(pushed)[:, [centre]]
    seen = np.linalg.det(arms / np.linalg.norm(arms, axis=-1, keepdims=True)) * sign
    # From one side alone most of these look right.
    assert (seen > FLAT_VOLUME).sum() == 3
    assert not stereo_kept(made).any()
