"""SMILES: a molecule as written, or one error that says what is wrong where."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.errors import DataError, ScidiffusionError
from scidiffusion.molecules.chem.smiles import LARGEST, as_molecule, read_smiles

GOOD = (
    "CCO",
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[N+](C)(C)CC(=O)[O-]",
    "F/C=C/F",
    "C[C@H](N)C(=O)O",
    "C[S@](=O)CC",
    "c1cc[nH]c1",
    "OB(O)c1ccccc1",
    "C[Si](C)(C)Cl",
    "[2H]C(Br)I",
    "[C-]#[O+]",
    "FS(F)(F)(F)(F)F",
    "C%12CC%12",
)


def with_coordinates(text, seed=1):
    mol = read_smiles(text)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


@pytest.mark.parametrize("text", GOOD)
def test_a_molecule_is_as_written(text):
    mol = read_smiles(f" {text}\n")
    assert mol.GetProp("smiles") == text
    assert mol.GetNumConformers() == 0
    assert all(atom.GetTotalNumHs() == 0 for atom in mol.GetAtoms())
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(text)
    numbers = [atom.GetAtomicNum() for atom in Chem.MolFromSmiles(text).GetAtoms()]
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()][: len(numbers)] == numbers


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("CC1CC", 3),
        ("C1CC1C2", 7),
        ("CC(C", 3),
        ("CC)C", 3),
        ("C[Xx]C", 2),
        ("C[C", 2),
        ("CC]", 3),
        ("CNa", 3),
        ("CC?C", 3),
        ("C C", 2),
        ("C\x00", 2),
        ("Cé", 2),
        ("C\ud800", 2),
        ("C==C", 3),
        ("CC=", 3),
        ("CC=(C)C", 4),
        ("C..C", 3),
        ("=CC", 1),
        ("C%1", 2),
        ("C1C1", 4),
        ("C11", 3),
        ("C>>C", 2),
        ("[C,N]", 1),
        ("CC(C)(C)(C)C", 2),
        ("Occ", 2),
        ("CC=[C@]=CC", 4),
        ("C/C=C=C=C/C", 5),
    ],
)
def test_an_error_names_the_character(text, place):
    with pytest.raises(DataError, match=re.escape(repr(text))) as caught:
        read_smiles(text)
    assert re.findall(r"character (\d+)", str(caught.value))[0] == str(place)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t", "empty"),
        (None, "NoneType"),
        (b"CC", "bytes"),
        ("CC[N+](C)(C)(C)C", "N2 .* valence 5, more than nitrogen of charge \\+1"),
        ("[CH5]", "C0 .* valence 5, more than carbon of no charge"),
        ("n1cccc1", r"N0 .*C4 .*\[nH\]"),
        ("c1cccc1", "C0 .*C4"),
        ("C*", r"atom 1 \('\*'\)"),
        ("C~C", "atoms 0 and 1"),
        ("C$C", "quadruple"),
        ("N->B", "dative"),
        ("C[Fe]", "iron.*a metal.*H B C"),
        ("C[Se]C", r"selenium \(Se\), which"),
        ("CC(=O)[O-].[Na+]", r"sodium.*a metal.*'CC\(=O\)\[O-\]'"),
        ("C[NH3+].[Cl-]", r"2 parts.*'C\[NH3\+\]'.*allow_fragments"),
        ("[CH3]", "C0 is a radical"),
        ("[C+5]", r"charge \+5"),
        ("[H][H]", "hydrogen"),
        ("[H+]", "hydrogen"),
        ("C" * (LARGEST + 1), f"{LARGEST + 1} heavy atoms"),
        ("C" * 5000, "5000 heavy atoms"),
        ("C" * 20000, "20000 characters"),
        ("F[P@TB1](Cl)(Br)(I)C", "P1 has stereo that is not tetrahedral"),
    ],
)
def test_what_cannot_have_conformers_is_refused(text, reason):
    with pytest.raises(DataError, match=reason):
        read_smiles(text)


def test_limits_are_included():
    assert read_smiles("C" * LARGEST).GetNumHeavyAtoms() == LARGEST
    assert len(Chem.GetMolFrags(read_smiles("C[NH3+].[Cl-]", allow_fragments=True))) == 2
    # The way out that the message offers is one.
    assert read_smiles("C[NH3+]").GetNumHeavyAtoms() == 2


def test_marks_without_meaning_are_dropped():
    assert Chem.MolToSmiles(Chem.RemoveHs(read_smiles("C[C@H](C)O"))) == "CC(C)O"
    assert Chem.MolToSmiles(Chem.RemoveHs(read_smiles("C/C=C=C/C"))) == "CC=C=CC"


def test_nothing_but_a_molecule_or_one_of_our_errors(capfd):
    rng = random.Random(0)
    letters = [*"CNOPSFIcnops[]()=#:/\\@+-123%.*H~$>|&! Br", "Cl", "[nH]", "C@@H", "\x00"]
    read = 0
    messages = []
    for _ in range(3000):
        if rng.random() < 0.5:
            text = "".join(rng.choices(letters, k=rng.randint(1, 12)))
        else:
            spoiled = list(rng.choice(GOOD))
            for _ in range(rng.randint(1, 2)):
                spoiled[rng.randrange(len(spoiled))] = rng.choice(letters)
            text = "".join(spoiled)
        try:
            mol = read_smiles(text)
        except ScidiffusionError as error:
            messages.append(str(error))
        else:
            assert isinstance(mol, Chem.Mol)
            assert mol.GetNumHeavyAtoms()
            read += 1
    assert read > 100
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)
    assert capfd.readouterr() == ("", "")


def test_a_molecule_of_rdkit_is_copied_and_completed():
    bare = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    mol = as_molecule(bare)
    assert bare.GetNumAtoms() == 6
    assert not bare.HasProp("smiles")
    assert mol.GetNumAtoms() == 13
    assert mol.GetProp("smiles") == Chem.MolToSmiles(bare)
    bare.SetProp("smiles", "OC(=O)[C@@H](N)C")
    assert as_molecule(bare).GetProp("smiles") == "OC(=O)[C@@H](N)C"
    assert as_molecule("CCO").GetProp("smiles") == "CCO"
    unsanitised = Chem.MolFromSmiles("C1=CC=CC=C1", sanitize=False)
    assert as_molecule(unsanitised).GetAtomWithIdx(0).GetIsAromatic()


def test_coordinates_say_the_stereo_where_nothing_else_does():
    asked = "C[C@H](O)/C=C/F"
    for mirror in (1.0, -1.0):
        mol = with_coordinates(asked)
        places = mol.GetConformer().GetPositions() * np.array([mirror, 1.0, 1.0])
        Chem.RemoveStereochemistry(mol)
        mol.ClearProp("smiles")
        mol.GetConformer().SetPositions(places)
        expected = asked if mirror > 0 else asked.replace("@", "@@")
        found = as_molecule(mol)
        assert found.GetNumConformers() == 0
        assert found.GetProp("smiles") == Chem.CanonSmiles(expected)
    # Stereo that is there is not overruled by coordinates.
    mol = with_coordinates(asked)
    mol.GetConformer().SetPositions(-mol.GetConformer().GetPositions())
    assert Chem.MolToSmiles(Chem.RemoveHs(as_molecule(mol))) == Chem.CanonSmiles(asked)


def test_atoms_with_a_count_of_hydrogens_from_a_file_are_no_patterns():
    block = Chem.MolToMolBlock(with_coordinates("CC=O"))
    lines = block.split("\n")
    # The H-count column (characters 43-45) of the atom block; 1 means no more hydrogens.
    lines[4:11] = [line[:42] + "  1" + line[45:] for line in lines[4:11]]
    counted = Chem.MolFromMolBlock("\n".join(lines), removeHs=False)
    assert any(atom.HasQuery() for atom in counted.GetAtoms())
    mol = as_molecule(counted)
    assert not any(atom.HasQuery() for atom in mol.GetAtoms())
    assert mol.GetNumAtoms() == 7
    assert mol.GetProp("smiles") == "CC=O"


@pytest.mark.parametrize(
    ("mol", "reason"),
    [
        (3, "int"),
        (None, "NoneType"),
        (Chem.Mol(), "no atoms"),
        (Chem.MolFromSmarts("[C,N]C"), "pattern"),
        (Chem.MolFromSmiles("CC(C)(C)(C)C", sanitize=False), "C1 has valence 5"),
        (Chem.MolFromSmiles("c1cccc1", sanitize=False), "aromatic atoms"),
        (Chem.MolFromSmiles("C.C"), "2 parts"),
        (Chem.MolFromSmiles("[CH3]"), "radical"),
        (Chem.MolFromSmiles("C[Zn]C"), "zinc"),
    ],
)
def test_molecules_pass_the_same_checks(mol, reason, capfd):
    with pytest.raises(DataError, match=reason):
        as_molecule(mol)
    assert capfd.readouterr() == ("", "")


def test_more_hydrogens_than_can_be_counted_are_refused():
    with pytest.raises(DataError, match="CH246"):
        read_smiles("[13CH246]")
