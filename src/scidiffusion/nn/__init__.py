"""Networks and their parts: embeddings, conditioning, a residual perceptron, attention.

Every network is called as `network(z, time, cond)`; `scidiffusion.core.NetworkDenoiser` makes a
denoiser of it.
"""

from __future__ import annotations

from scidiffusion.nn.attention import CrossAttention, MultiHeadAttention
from scidiffusion.nn.conditioning import (
    AdaLN,
    ClassCondition,
    ConditionEmbedding,
    ConditionSpec,
    FiLM,
    Modulator,
    VectorCondition,
)
from scidiffusion.nn.embeddings import (
    FourierCoordinates,
    RandomFourierFeatures,
    SinusoidalEmbedding,
    TimeEmbedding,
)
from scidiffusion.nn.mlp import ResidualMLP
from scidiffusion.nn.transformer import Transformer, TransformerBlock

__all__ = [
    "AdaLN",
    "ClassCondition",
    "ConditionEmbedding",
    "ConditionSpec",
    "CrossAttention",
    "FiLM",
    "FourierCoordinates",
    "Modulator",
    "MultiHeadAttention",
    "RandomFourierFeatures",
    "ResidualMLP",
    "SinusoidalEmbedding",
    "TimeEmbedding",
    "Transformer",
    "TransformerBlock",
    "VectorCondition",
]
