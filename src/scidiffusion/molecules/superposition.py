"""Best rigid motions of batches of positions in torch; `chem.ensembles.kabsch` is that of arrays.

References:
    Kabsch 1976, with the correction that keeps rotations proper.
"""

from __future__ import annotations

import torch
from torch import Tensor


def turned_onto(mobile: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Rotate centred positions onto others by the proper rotation of least squares.

    Derivatives take the rotation for a constant.

    Args:
        mobile: (B, N, 3) centred, padding 0.
        target: (B, N, 3) likewise.
        mask: (B, N).
    """
    with torch.no_grad():
        covariance = (mobile * mask[..., None]).transpose(1, 2) @ target
        left, _, right = torch.linalg.svd(covariance)
        sign = torch.linalg.det(left @ right).sign()
        flip = torch.ones_like(left[:, 0])
        flip[:, 2] = sign
        rotation = (left * flip[:, None]) @ right
    return mobile @ rotation


def laid_onto(places: Tensor, onto: Tensor) -> Tensor:
    """Lay (C, 3) places onto each of (B, C, 3) by the proper rigid motion of least squares."""
    mean = onto.mean(1, keepdim=True)
    own = (places - places.mean(0)).expand(len(onto), -1, -1)
    everything = torch.ones(own.shape[:2], dtype=torch.bool, device=own.device)
    return turned_onto(own, onto - mean, everything) + mean
