"""What the options of `TabularDiffusion` may be, looked at before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from scidiffusion.errors import ConfigError
from scidiffusion.estimator import check_positive

__all__ = ["check_options"]

CHOICES = {
    "method": ("auto", "masked", "ddpm"),
    "precision": ("auto", "float32", "bf16"),
}
"""Options that are one of a few words."""
COUNTS = (
    "width",
    "blocks",
    "components",
    "max_steps",
    "batch_size",
    "patience",
    "num_nodes",
    "sample_steps",
)
"""Options that are integers >= 1, or None."""
SHARES = {
    "dropout": ("[0, 1)", lambda share: 0 <= share < 1),
    "known_share": ("[0, 1)", lambda share: 0 <= share < 1),
    "validation_fraction": ("[0, 0.5]", lambda share: 0 <= share <= 0.5),
}
"""Options that are shares, or None."""


def check_options(options: Mapping[str, Any]) -> None:
    """Check every option of the estimator that training does not check itself.

    Args:
        options: The options by name.

    Raises:
        ConfigError: if one has an impossible value; the message names it.
    """
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {options[name]!r}")
    for name in COUNTS:
        check_positive(options[name], name)
    for name, (span, holds) in SHARES.items():
        share = options[name]
        if share is None:
            continue
        if isinstance(share, bool) or not isinstance(share, Real) or not holds(share):
            raise ConfigError(f"{name} must be a number in {span}, got {share!r}")
    for name, example in (("columns", "{'zip': 'categorical'}"), ("public", "{'age': (0, 120)}")):
        if not isinstance(options[name], Mapping | None):
            raise ConfigError(
                f"{name} must be a dict such as {example}, got {options[name]!r:.80}"
            )
    target, privacy = options["target"], options["privacy"]
    if not isinstance(target, str | None):
        raise ConfigError(f"target must be the name of one column, got {target!r:.80}")
    if privacy is not None and not hasattr(privacy, "split"):
        raise ConfigError(
            f"privacy must be a DPBudget, such as DPBudget(epsilon=4), got {privacy!r:.80}"
        )
    if options["public"] and privacy is None:
        raise ConfigError(
            "public says what a private fit may know; give privacy=DPBudget(...) too, or leave "
            "it out"
        )
