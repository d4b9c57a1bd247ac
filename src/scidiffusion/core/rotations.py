r"""Rotation matrices and their tangent vectors.

A rotation vector v stands for the rotation by the angle |v| about v / |v|, R = exp(hat(v)). The
convention of the whole library is *right multiplication, body frame*: from a rotation R one moves
to R exp(hat(v)), and tangent vectors (scores, displacements) are given in the frame of R. They do
not change when everything is rotated from the left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiffusion.core.rng import Noise


def hat(vector: Tensor) -> Tensor:
    """Skew-symmetric matrix (..., 3, 3) of v (..., 3): times w it is the product v x w."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).reshape(*vector.shape, 3)


def vee(matrix: Tensor) -> Tensor:
    """Inverse of `hat`, (..., 3); of a general matrix, that of its skew-symmetric part."""
    skew = 0.5 * (matrix - matrix.mT)
    return torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)


def exp_so3(vector: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) of a rotation vector (..., 3), by Rodrigues' formula.

    Differentiable everywhere: series replace sin(a) / a and (1 - cos a) / a^2 near a = 0.
    """
    square = (vector**2).sum(-1)
    tiny = square < 1e-3
    angle = torch.where(tiny, 1.0, square).sqrt()
    first = torch.where(
        tiny, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), angle.sin() / angle
    )
    second = torch.where(
        tiny,
        0.5 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56))),
        2 * (0.5 * angle).sin() ** 2 / angle**2,
    )
    skew = hat(vector)
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return eye + first[..., None, None] * skew + second[..., None, None] * (skew @ skew)


def _quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternion (..., 4), real part first and not negative.

    Four times the outer product of the quaternion with itself is linear in the matrix; its largest
    column is taken, so that nothing is divided by a small number (Shepperd 1978).
    """
    a, b, c = rotation[..., 0, 0], rotation[..., 1, 1], rotation[..., 2, 2]
    x = rotation[..., 2, 1] - rotation[..., 1, 2]
    y = rotation[..., 0, 2] - rotation[..., 2, 0]
    z = rotation[..., 1, 0] - rotation[..., 0, 1]
    xy = rotation[..., 0, 1] + rotation[..., 1, 0]
    xz = rotation[..., 0, 2] + rotation[..., 2, 0]
    yz = rotation[..., 1, 2] + rotation[..., 2, 1]
    rows = [1 + a + b + c, x, y, z]
    rows += [x, 1 + a - b - c, xy, xz]
    rows += [y, xy, 1 - a + b - c, yz]
    rows += [z, xz, yz, 1 - a - b + c]
    outer = torch.stack(rows, -1).reshape(*a.shape, 4, 4)
    largest = torch.diagonal(outer, dim1=-2, dim2=-1).argmax(-1)
    column = outer.gather(-2, largest[..., None, None].expand(*a.shape, 1, 4))[..., 0, :]
    column = column / torch.linalg.vector_norm(column, dim=-1, keepdim=True)
    return torch.where(column[..., :1] < 0, -column, column)


def log_so3(rotation: Tensor) -> Tensor:
    """Rotation vector (..., 3) of length at most pi, of a rotation matrix (..., 3, 3).

    Goes through the quaternion, which is exact near 0 and near pi alike. At pi either of the two
    opposite vectors may be returned. Differentiable at the identity.
    """
    quaternion = _quaternion(rotation)
    real, imaginary = quaternion[..., 0], quaternion[..., 1:]
    square = (imaginary**2).sum(-1)
    tiny = square < 1e-6
    length = torch.where(tiny, 1.0, square).sqrt()
    # 2 asin(y) / y as a series in y^2, exact to 1e-18 below the threshold.
    series = 2 + square / 3 * (1 + 9 / 20 * square)
    factor = torch.where(tiny, series, 2 * torch.atan2(length, real) / length)
    return factor[..., None] * imaginary


def geodesic_distance(first: Tensor, second: Tensor) -> Tensor:
    """Angle in [0, pi], (...), of the rotation that takes one matrix (..., 3, 3) to the other."""
    return torch.linalg.vector_norm(log_so3(first.mT @ second), dim=-1)


def uniform_rotation(like: Tensor, noise: Noise) -> Tensor:
    """Draw rotations (B, ..., 3, 3) from the Haar measure: a uniform unit quaternion each."""
    draws = noise.normal(like.new_empty(*like.shape[:-2], 4))
    w, v = (draws / torch.linalg.vector_norm(draws, dim=-1, keepdim=True)).split([1, 3], -1)
    skew = hat(v)
    eye = torch.eye(3, dtype=like.dtype, device=like.device)
    return eye + 2 * w[..., None] * skew + 2 * (skew @ skew)
