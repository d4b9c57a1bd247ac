"""Constraints written as text."""

from __future__ import annotations

import pytest

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.constraints import FixedCombinations, Formula, Inequality, Unique
from scidiffusion.tabular.rule_texts import parse_rules


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("start <= end", Inequality("start", "end")),
        ("start<end", Inequality("start", "end", strict=True)),
        ("end >= start", Inequality("start", "end")),
        ("high > low", Inequality("low", "high", strict=True)),
        ("total = price + tax", Formula("total", "price + tax")),
        ("combinations: city, country", FixedCombinations(["city", "country"])),
        ("Unique: ward,bed", Unique(["ward", "bed"])),
    ],
)
def test_every_spelling(text, rule) -> None:
    assert parse_rules([text]) == [rule]


@pytest.mark.parametrize("text", ["", "price", "= price", "total =", "other: a, b"])
def test_what_is_none_has_one_clear_error(text) -> None:
    with pytest.raises(ConfigError, match="constraint"):
        parse_rules([text])
