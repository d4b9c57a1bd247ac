"""Guidance: how to steer. Each rule is a denoiser around a denoiser, or a sampler around one."""

from scidiffusion.guidance.classifier import ClassifierGuidance
from scidiffusion.guidance.classifier_free import ClassifierFreeGuidance
from scidiffusion.guidance.inpainting import ReconstructionGuidance, RePaint

__all__ = ["ClassifierFreeGuidance", "ClassifierGuidance", "RePaint", "ReconstructionGuidance"]
