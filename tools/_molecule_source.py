"""Small organic molecules out of a random number generator: where training data begin.

Two ways of making one, mixed by size. *Growth* adds atom after atom with a free valence to a
graph and closes rings now and then: the strained, polycyclic, heteroatom-rich molecules of the
GDB and QM9. *Assembly* joins rings, linkers and end groups of drugs by single bonds, swaps atoms
for others of the same valence, and sometimes fuses a ring to an edge. A filter throws out what
no chemist would draw: runs of heteroatoms, peroxides, anti-Bredt double bonds, cumulated small
rings, acid next to acyl halide, and the like.

Molecule i of a source depends on its seed alone, and on i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import EnumerateStereoisomers, rdmolops


def _words(text: str) -> list[str]:
    return text.split()


RINGS = _words("""
c1ccccc1 c1ccccc1 c1ccccc1 c1ccncc1 c1cncnc1 c1cnccn1 c1ccnnc1 c1ccoc1 c1ccsc1 c1cc[nH]c1
c1cn[nH]c1 c1c[nH]cn1 c1cocn1 c1cscn1 c1cnoc1 c1cnsc1 c1nc[nH]n1 c1nnc[nH]1 c1nnco1 c1nncs1
c1nnn[nH]1 c1ncon1 c1ncsn1 c1cnn[nH]1 c1ncncn1 C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1CCCCC1 C1CCCCCC1
C1CCCCCCC1 C1=CCCC1 C1=CCCCC1 C1CO1 C1CN1 C1COC1 C1CNC1 C1CCOC1 C1CCNC1 C1CCNC1 C1CCSC1 C1COCCO1
C1CCOCC1 C1CCNCC1 C1CCNCC1 C1CNCCN1 C1CNCCN1 C1COCCN1 C1COCCN1 C1CSCCN1 C1CCSCC1 C1OCCO1
C1CNCCCN1 C1CCNCCC1 O=C1CCCN1 O=C1CCCCN1 O=C1CCCO1 O=C1CCC(=O)N1 O=C1CCCCC1 O=C1CCCC1 O=C1NCCN1
O=C1CNC(=O)N1 O=C1CNCCN1 O=C1COCCN1 O=C1CCN1 O=C1CCO1 O=C1NC(=O)CN1 O=S1(=O)CCCC1 O=S1(=O)CCCN1
O=S1(=O)CCNCC1 C1=CCNCC1 C1=CCOC1 C1=NCCN1 C1=NCCO1 O=C1C=CC(=O)N1 O=C1C=CCCC1 O=c1cccc[nH]1
O=c1ccnc[nH]1 O=c1cc[nH]c(=O)[nH]1 O=c1ccocc1 O=c1ccccn1C O=C1NC(=O)CS1 S=C1NCCN1 C1CSCS1
C1CCC=CC1 C1C2CC2C1 C1CC2CC2C1 C1CC2CCC1C2 C1CC2CCC1CC2 C1CN2CCC1CC2 C1CC2CCC(C1)N2 C1CC2CCC1N2
C1CC2CNCC2C1 C1CC2CCC1O2 C1C2CNCC1C2 C1CC12CCNCC2 C1CC12CCC2 C1CCC2(CC1)CCNC2 C1CC2(C1)CNC2
C1CC2(C1)COC2 C1CCC2CCCCC2C1 C1CCC2NCCCC2C1 C1CC2CCCC2C1 C1CC2C=CC1C2 C12CC(C1)C2 C1CC2CC1CN2
c1ccc2ccccc2c1 c1ccc2ncccc2c1 c1ccc2cnccc2c1 c1ccc2[nH]ccc2c1 c1ccc2occc2c1 c1ccc2sccc2c1
c1ccc2[nH]cnc2c1 c1ccc2ocnc2c1 c1ccc2scnc2c1 c1ccc2[nH]ncc2c1 c1cnc2[nH]cnc2n1 c1ccc2ncncc2c1
c1ccc2nccnc2c1 c1cc2ccccn2c1 c1cnc2ccccn12 c1cnc2[nH]ccc2c1 c1cnn2cccnc12 c1ccc2c(c1)CCCC2
c1ccc2c(c1)CCC2 c1ccc2c(c1)CCN2 c1ccc2c(c1)CCNC2 c1ccc2c(c1)OCO2 c1ccc2c(c1)OCCO2
c1ccc2c(c1)CCCN2 c1ccc2c(c1)CCO2 c1ccc2c(c1)COC2 O=C1Cc2ccccc2N1 O=C1NCc2ccccc12
O=C1NC(=O)c2ccccc12 O=c1ccc2ccccc2o1 O=c1cnc2ccccc2[nH]1 O=c1[nH]cnc2ccccc12 O=C1CCc2ccccc12
c1cc2c(s1)CCNC2 c1ccc2c(c1)CCCCN2 c1ccc2c(c1)[nH]c1ccccc12 c1ccc2c(c1)Cc1ccccc1O2
c1ccc2c(c1)CN=CCN2 c1ccc2c(c1)OCCN2 O=C1CSc2ccccc2N1 O=C1CN=Cc2ccccc2N1 C1CCCC2(C1)OCCO2
c1c[nH]c2nccc-2c1
""")
"""Ring systems; common ones stand here more than once."""

LINKERS = _words("""
C C C CC CC CCC CCCC O O N N S NC NC OC SC CO CN C(=O) C(=O)N C(=O)N C(=O)N NC(=O) NC(=O) NC(=O)
C(=O)O OC(=O) C(=O)NC NC(=O)C CC(=O)N NC(=O)N S(=O)(=O) S(=O)(=O)N NS(=O)(=O) S(=O) NC(=O)O
OC(=O)N C=C C#C C=C C(C) C(C)(C) C(O) C(F)(F) CCN CCO CNC COC N(C)C C(=O)C CC(=O) N=C C=N NN
C(=O)NN=C C=CC(=O) C(=O)C=C NC(=S)N C(=S)N CS(=O)(=O) C(C#N) C(N) C(=O)N(C) N(C)C(=O) OCCO
OCC(=O)N CCCN C=CC C#CC CSC C(=NO) ON=C C(=O)ON=C N=N C(C(=O)O) C(=O)NS(=O)(=O) CC(C)C P(=O)(OC)
""")
"""What stands between two parts: joined at the first and at the last heavy chain atom."""

ENDS = _words("""
C C C C C CC C(C)C C(C)(C)C C1CC1 C=C C#C C#N F F F Cl Cl Br O O O N N S OC OC OCC NC N(C)C SC
C(F)(F)F C(F)F OC(F)(F)F [N+](=O)[O-] C(=O)O C(=O)OC C(=O)N C(=O)C C=O C(=O)[O-] [NH3+]
C[NH+](C)C S(=O)(=O)C S(=O)(=O)N NC(=O)C NS(=O)(=O)C CO CN CF CCl C(=O)NC C(=O)N(C)C OC(=O)C
N=C=O N=C=S N=[N+]=[N-] C(=N)N NC(=N)N NC(=O)N C=NO C(C)=NO CC#N CC=C CC#C CCO CCN CCC CCCC
CC(C)C OCC=C OCC#C C=C=C SC(F)(F)F C(C)O C(C)N C(=O)NO S(=O)(=O)[O-] P(=O)(O)O P(=O)(OC)OC S(C)=O
C(=O)C(F)(F)F B(O)O [Si](C)(C)C C(=S)N ON OCC#N C(C#N)C#N SC#N N(O)C C(O)CO
""")
"""End groups; joined at their first atom."""

FORBIDDEN = [
    "[OX2,SX2][OX2]",
    "[NX3;!$(NC=[O,S,N]);!$(Nc);!$(NS(=O)=O)][NX3;!$(NC=[O,S,N]);!$(Nc);!$(N[CX4])]",
    "[#7,#8,#16;!a;!$(N=*);!$([#16](=O)=O)]~[#7,#8,#16;!a;!$(*=O)]~[#7,#8,#16;!a;!$([#16](=O)=O);"
    "!$([OX1])]",
    "[NX3,OX2,SX2;!a][F,Cl,Br,I]",
    "[OX2H,NX3H2,SX2H][CX4;!$(C(F)F)][OX2,SX2H,F,Cl,Br]",
    "[NX3;!$(NC=*);!$(Nc);!$(NS=O)][CX4][OX2H,F,Cl,Br]",
    "[NX3H2,NX3H1;!$(NC=*);!$(Nc);!$(NS=O)][CX4][NX3H2,NX3H1;!$(NC=*);!$(Nc);!$(NS=O)]",
    "[OX2H][CX3;!$(C=[O,N,S])]=[CX3,NX2;!$(*C=O)]",
    "[OX2H][CX2]",
    "[NX3H2,NX3H1;!$(NC=[O,S])][CX3H1,CX3H0;!a;!$(C=[O,N,S]);!$(C(=C)C=O)]=[CX3;!$(CC=[O,N]);!$(CC#N)]",
    "[SX2H][CX3]=[CX3,NX2,OX1]",
    "[CX4]([F,Cl,Br,OX2,NX3])([Cl,Br])[Cl,Br,OX2,NX3]",
    "[#6](=O)[Cl,Br,F]",
    "C(=O)-C(=O)-C(=O)",
    "[CX3](=O)[OX2][CX3](=O)[OX2,NX3]",
    "[OX2H]C(=O)[OX2,NX3]",
    "[NX3H2,NX3H1]C(=O)[OX2H]",
    "[r3,r4;#6]=,#[r3,r4;#6]=,#*",
    "*=[r3]=*",
    "[r3,r4,r5,r6,r7]=[C;r3,r4,r5,r6,r7]=*",
    "[r3,r4,r5,r6,r7,r8]#*",
    "[C;r3]1=[C,N;r3][O,N,S;r3]1",
    "[N,O;r3][N,O;r3]",
    "[N;r3]=[C,N;r3]",
    "[r3;#7,#8,#16]1~[#7,#8,#16]~[#6,#7,#8]~1",
    "N=[NX3]",
    "[NX2]=[NX2][CX3]=*",
    "[NX2;!a]=[NX2;!a]-[NX2,NX3,OX2,SX2;!a]",
    "[CX2]=[CX2]=[CX2]",
    "*#*-*#*-*#*",
    "[NX2](=C)[OX2,NX3,SX2;!$(*C);!$([OX2H]);!$([NX3H2])]",
    "C=C=[O,S,N]",
    "[NX3H2,NX3H][CH]=O.[CH]=O",
    "[CH]=O.[NX3H2;!$(NC=*);!$(Nc)]",
    "[CX3H2]=[NX2]",
    "[CX3H1;!$(*c)]=[NX2H]",
    "[CX3;!$(C[N,O,S])]=[NX2H]",
    "[#7,#8;!a][C;H2][Cl,Br]",
    "[PX3,BX3;R]",
    "[SX2H1][SX2,NX3]",
    "[S;!$(S(=O)=O);!a]-[NX2,NX3;!a]",
    "O=C1[O,N]C1",
    "[C;r3](=O)",
    "[OX2;!a][OX2,NX2;!$(N=C);!a]",
]
"""SMARTS of what is thrown out."""

SIZES: tuple[tuple[int, int, float], ...] = ((7, 10, 0.6), (10, 24, 0.4))
"""Default: heavy atoms from, to (both included), and the share of the molecules."""


@dataclass(frozen=True)
class MoleculeSource:
    """An endless stream of distinct molecules.

    Args:
        seed: Of everything random.
        sizes: Ranges of heavy atoms, both ends included, and their shares.
        exclude: SMILES, canonical and without stereo (see `flat`), that are never made.
    """

    seed: int
    sizes: Sequence[tuple[int, int, float]] = SIZES
    exclude: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[str]:
        """Isomeric SMILES, no two of which are the same without stereo."""
        made: set[str] = set()
        shares = np.array([share for *_, share in self.sizes])
        index = 0
        while True:
            rng = np.random.default_rng([self.seed, index])
            index += 1
            low, high, _ = self.sizes[rng.choice(len(shares), p=shares / shares.sum())]
            smiles = draw(rng, int(rng.integers(low, high + 1)))
            if smiles is None:
                continue
            plain = flat(smiles)
            if plain is not None and plain not in made and plain not in self.exclude:
                made.add(plain)
                yield smiles


def flat(smiles: str) -> str | None:
    """Canonical SMILES without stereo and isotopes, or None if it is no SMILES."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    return Chem.MolToSmiles(mol, isomericSmiles=False)


def draw(rng: np.random.Generator, size: int) -> str | None:
    """One molecule of about `size` heavy atoms, with stereo, or None if nothing sensible came.

    Growth makes most of those of up to 10 atoms, assembly those above.
    """
    with rdBase.BlockLogs():
        grown = rng.random() < (0.75 if size <= 9 else 0.4 if size <= 11 else 0.05)
        mol = _grow(rng, size) if grown else _assemble(rng, size)
        if mol is None or not sensible(mol) or abs(mol.GetNumHeavyAtoms() - size) > 1:
            return None
        return _with_stereo(rng, mol)


def _with_stereo(rng: np.random.Generator, mol: Chem.Mol) -> str:
    options = EnumerateStereoisomers.StereoEnumerationOptions(
        maxIsomers=1, rand=int(rng.integers(2**31)), onlyUnassigned=True, unique=True
    )
    for isomer in EnumerateStereoisomers.EnumerateStereoisomers(mol, options=options):
        return Chem.MolToSmiles(isomer)
    return Chem.MolToSmiles(mol)


# ------------------------------------------------------------------------- growth

_VALENCE = {"C": 4, "N": 3, "O": 2, "F": 1, "S": 2, "Cl": 1}
_ELEMENTS = ["C", "N", "O", "F", "S", "Cl"]
_ORDERS = [Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]


def _grow(rng: np.random.Generator, size: int) -> Chem.Mol | None:
    hetero = rng.uniform(0.05, 0.5)
    weights = np.array([1 - hetero, 0.42 * hetero, 0.46 * hetero, 0.05 * hetero, 0.05 * hetero, 0])
    weights[5] = 0.02 * hetero
    weights /= weights.sum()
    ring_rate = rng.choice([0.0, 0.15, 0.3, 0.5])
    unsaturated = rng.choice([0.03, 0.12, 0.25])
    mol = Chem.RWMol()
    mol.AddAtom(Chem.Atom("C"))
    free = [4]
    while mol.GetNumAtoms() < size:
        open_atoms = [index for index, left in enumerate(free) if left > 0]
        if not open_atoms:
            return None
        # Recent atoms are favoured a little: chains, not only dendrimers.
        bias = np.array([1.0 + index / len(free) for index in open_atoms])
        anchor = int(rng.choice(open_atoms, p=bias / bias.sum()))
        element = str(rng.choice(_ELEMENTS, p=weights))
        near = mol.GetAtomWithIdx(anchor).GetSymbol()
        if element != "C" and near != "C" and rng.random() < 0.9:
            element = "C"
        order = 1
        if rng.random() < unsaturated:
            order = 3 if rng.random() < 0.25 else 2
        order = min(order, free[anchor], _VALENCE[element])
        if element == "S" or near == "S":
            order = 1
        new = mol.AddAtom(Chem.Atom(element))
        free.append(_VALENCE[element] - order)
        free[anchor] -= order
        mol.AddBond(anchor, new, _ORDERS[order - 1])
        if rng.random() < ring_rate:
            _close(rng, mol, free)
    for _ in range(int(rng.integers(0, 3))):
        if ring_rate > 0:
            _close(rng, mol, free)
    out = mol.GetMol()
    try:
        Chem.SanitizeMol(out)
    except (Chem.AtomValenceException, Chem.KekulizeException):
        return None
    return Chem.MolFromSmiles(Chem.MolToSmiles(out))


def _close(rng: np.random.Generator, mol: Chem.RWMol, free: list[int]) -> None:
    """Close a ring of 3 to 7 atoms between two atoms with free valences, if there are such."""
    distance = rdmolops.GetDistanceMatrix(mol, force=True)
    wanted = int(rng.choice([3, 4, 5, 6, 7], p=[0.16, 0.16, 0.34, 0.28, 0.06]))
    places = [
        (a, b)
        for a in range(len(free))
        for b in range(a)
        if free[a] and free[b] and distance[a, b] == wanted - 1
    ]
    if not places:
        return
    a, b = places[int(rng.integers(len(places)))]
    symbols = {mol.GetAtomWithIdx(index).GetSymbol() for index in (a, b)}
    if "C" not in symbols:
        return
    double = min(free[a], free[b]) > 1 and wanted >= 5 and symbols != {"S"}
    order = 2 if double and rng.random() < 0.25 else 1
    mol.AddBond(int(a), int(b), _ORDERS[order - 1])
    free[a] -= order
    free[b] -= order


# ----------------------------------------------------------------------- assembly


def _choice(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _assemble(rng: np.random.Generator, size: int) -> Chem.Mol | None:
    if rng.random() < 0.85:
        mol = Chem.MolFromSmiles(_choice(rng, RINGS))
    else:
        mol = Chem.MolFromSmiles("C" * int(rng.integers(1, 5)))
    mol = _swap(rng, mol, 0.5)
    if mol.GetNumHeavyAtoms() > size:
        return None
    for _ in range(20):
        room = size - mol.GetNumHeavyAtoms()
        if room <= 0:
            break
        kind = rng.random()
        if room >= 6 and kind < 0.55:
            part = _choice(rng, RINGS)
            linker = _choice(rng, LINKERS) if rng.random() < 0.8 else ""
            grown = _attach(rng, mol, linker, room)
            if grown is not None:
                mol, tail = grown
                ring = _swap(rng, Chem.MolFromSmiles(part), 0.4)
                if ring.GetNumHeavyAtoms() <= size - mol.GetNumHeavyAtoms():
                    mol = _join(rng, mol, ring, tail) or mol
        elif room >= 4 and kind < 0.65:
            mol = _fuse(rng, mol, room) or mol
        elif kind < 0.75:
            grown = _attach(rng, mol, _choice(rng, LINKERS), room)
            mol = grown[0] if grown is not None else mol
        else:
            part = Chem.MolFromSmiles(_choice(rng, ENDS))
            if part is not None and part.GetNumHeavyAtoms() <= room:
                mol = _join(rng, mol, part, None, first=0) or mol
    return mol


def _open_atoms(mol: Chem.Mol) -> list[int]:
    return [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if atom.GetTotalNumHs() > 0
        and atom.GetFormalCharge() == 0
        and not (atom.GetSymbol() in "OS" and not atom.IsInRing() and atom.GetDegree() == 0)
    ]


def _attach(
    rng: np.random.Generator, mol: Chem.Mol, linker: str, room: int
) -> tuple[Chem.Mol, int | None] | None:
    """Attach a linker; return the molecule and the atom that the next part is joined to."""
    if not linker:
        return mol, None
    part = Chem.MolFromSmiles(linker)
    if part is None or part.GetNumHeavyAtoms() > room:
        return None
    tail = _tail(part)
    joined = _join(rng, mol, part, None, first=0)
    return None if joined is None else (joined, mol.GetNumAtoms() + tail)


def _tail(part: Chem.Mol) -> int:
    """The open atom of a linker furthest from its first atom; the last one of several."""
    distance = Chem.GetDistanceMatrix(part)[0]
    candidates = [
        atom.GetIdx()
        for atom in part.GetAtoms()
        if atom.GetTotalNumHs() > (1 if atom.GetIdx() == 0 else 0)
        or (atom.GetIdx() == 0 and part.GetNumAtoms() == 1)
    ]
    return max(candidates, key=lambda index: (distance[index], index), default=0)


def _join(
    rng: np.random.Generator,
    mol: Chem.Mol,
    part: Chem.Mol,
    anchor: int | None,
    *,
    first: int | None = None,
) -> Chem.Mol | None:
    """Join two molecules by a single bond between atoms with hydrogens."""
    left = _open_atoms(mol) if anchor is None else [anchor]
    right = _open_atoms(part) if first is None else [first]
    if not left or not right:
        return None
    a, b = int(rng.choice(left)), int(rng.choice(right)) + mol.GetNumAtoms()
    symbols = (mol.GetAtomWithIdx(a).GetSymbol(), part.GetAtomWithIdx(b - mol.GetNumAtoms()))
    if symbols[0] != "C" and symbols[1].GetSymbol() != "C" and rng.random() < 0.95:
        return None
    both = Chem.RWMol(Chem.CombineMols(mol, part))
    for index in (a, b):
        atom = both.GetAtomWithIdx(index)
        if atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    both.AddBond(a, b, Chem.BondType.SINGLE)
    try:
        Chem.SanitizeMol(both)
    except (Chem.AtomValenceException, Chem.KekulizeException):
        return None
    return both.GetMol()


def _swap(rng: np.random.Generator, mol: Chem.Mol, rate: float) -> Chem.Mol:
    """Swap a ring atom for another of the same valence, now and then."""
    if mol is None or rng.random() > rate:
        return mol
    changed = Chem.RWMol(mol)
    places = [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if atom.GetSymbol() == "C"
        and atom.IsInRing()
        and all(near.GetSymbol() == "C" for near in atom.GetNeighbors())
    ]
    if not places:
        return mol
    index = int(rng.choice(places))
    atom = changed.GetAtomWithIdx(index)
    hydrogens = atom.GetTotalNumHs()
    if atom.GetIsAromatic() and hydrogens == 1:
        atom.SetAtomicNum(7)
    elif not atom.GetIsAromatic() and hydrogens == 2:
        atom.SetAtomicNum(int(rng.choice([7, 8, 16, 7, 8])))
    elif not atom.GetIsAromatic() and hydrogens == 1 and atom.GetDegree() == 3:
        atom.SetAtomicNum(7)
    else:
        return mol
    atom.SetNoImplicit(False)
    try:
        Chem.SanitizeMol(changed)
    except (Chem.AtomValenceException, Chem.KekulizeException):
        return mol
    return changed.GetMol()


def _fuse(rng: np.random.Generator, mol: Chem.Mol, room: int) -> Chem.Mol | None:
    """Fuse a saturated ring to an edge, or across a spiro atom."""
    edges = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        for bond in mol.GetBonds()
        if bond.IsInRing()
        and bond.GetBeginAtom().GetTotalNumHs() > 0
        and bond.GetEndAtom().GetTotalNumHs() > 0
        and bond.GetBeginAtom().GetSymbol() == bond.GetEndAtom().GetSymbol() == "C"
    ]
    spiro = [
        (atom.GetIdx(), atom.GetIdx())
        for atom in mol.GetAtoms()
        if atom.IsInRing() and atom.GetSymbol() == "C" and atom.GetTotalNumHs() == 2
    ]
    places = edges + spiro[: len(edges)]
    if not places:
        return None
    a, b = places[int(rng.integers(len(places)))]
    most = min(room, 4)
    length = int(rng.integers(1 if a != b else 2, most + 1))
    if mol.GetAtomWithIdx(a).GetIsAromatic() and length < 3:
        return None
    grown = Chem.RWMol(mol)
    last = a
    symbols: list[str] = []
    for position in range(length):
        symbol = "C"
        if (not symbols or symbols[-1] == "C") and rng.random() < 0.25:
            symbol = str(rng.choice(["N", "O", "S"], p=[0.5, 0.4, 0.1]))
        if 0 < position < length - 1 and symbol != "C" and symbols[0] != "C":
            symbol = "C"
        symbols.append(symbol)
        new = grown.AddAtom(Chem.Atom(symbol))
        grown.AddBond(last, new, Chem.BondType.SINGLE)
        last = new
    grown.AddBond(last, b, Chem.BondType.SINGLE)
    for index in (a, b):
        atom = grown.GetAtomWithIdx(index)
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
    try:
        Chem.SanitizeMol(grown)
    except (Chem.AtomValenceException, Chem.KekulizeException):
        return None
    return grown.GetMol()


# ------------------------------------------------------------------------- filter

_QUERIES = [Chem.MolFromSmarts(text) for text in FORBIDDEN]


def sensible(mol: Chem.Mol) -> bool:
    """Whether a chemist might draw it: see the module."""
    if "." in Chem.MolToSmiles(mol) or any(mol.HasSubstructMatch(query) for query in _QUERIES):
        return False
    charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    if abs(sum(charges)) > 1:
        return False
    heavy = mol.GetNumHeavyAtoms()
    carbon = sum(atom.GetAtomicNum() == 6 for atom in mol.GetAtoms())
    if carbon < 0.45 * heavy:
        return False
    info = mol.GetRingInfo()
    rings = [set(ring) for ring in info.AtomRings()]
    if sum(len(ring) == 3 for ring in rings) > 2 or sum(len(ring) < 5 for ring in rings) > 3:
        return False
    if any(info.NumAtomRings(atom.GetIdx()) > 3 for atom in mol.GetAtoms()):
        return False
    return not _strained(mol, rings)


def _strained(mol: Chem.Mol, rings: list[set[int]]) -> bool:
    """Anti-Bredt double bonds, flat atoms in cages, small rings sharing more than an edge."""
    shared: set[int] = set()
    for first in range(len(rings)):
        for second in range(first):
            common = rings[first] & rings[second]
            if len(common) > 2:
                shared |= common
                if min(len(rings[first]), len(rings[second])) < 5:
                    return True
    # Bridgeheads carry three bonds of such rings.
    heads = {
        index
        for index in shared
        if sum(near.IsInRing() for near in mol.GetAtomWithIdx(index).GetNeighbors()) > 2
    }
    for bond in mol.GetBonds():
        ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
        if bond.GetBondType() != Chem.BondType.SINGLE and ends & heads:
            return True
        flat_bond = bond.GetBondType() != Chem.BondType.SINGLE
        small = [ring for ring in rings if ends <= ring and len(ring) < 5]
        if flat_bond and small and len([ring for ring in rings if ends & ring]) > 1:
            return True
    return False
