"""What a private fit may know, written as text."""

from __future__ import annotations

import pandas as pd
import pytest

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.public import public_texts

TABLE = pd.DataFrame(
    {
        "age": [30, 40],
        "height": [1.5, 1.75],
        "sex": ["F", "M"],
        "day": pd.to_datetime(["2020-01-01", "2020-02-01"]),
        "member": [True, False],
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age=0..120", {"age": (0, 120)}),
        ("height = -1.5 .. 2.5", {"height": (-1.5, 2.5)}),
        ("age=10,20,30", {"age": [10, 20, 30]}),
        ("sex=F, M", {"sex": ["F", "M"]}),
        ("day=2020-01-01..2020-12-31", {"day": ("2020-01-01", "2020-12-31")}),
    ],
)
def test_ranges_and_levels_are_read_as_the_column_has_them(text, expected) -> None:
    assert public_texts([text], TABLE) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["age"], "column=low..high or column=a,b, got 'age'"),
        (["age="], "column=low..high"),
        (["agee=0..120"], "no column 'agee'"),
        (["age=young..old"], "'age' holds numbers"),
        (["age=0..9", "age=0..120"], "'age' is given twice"),
    ],
)
def test_texts_that_cannot_be_read(texts, message) -> None:
    with pytest.raises(ConfigError, match=message):
        public_texts(texts, TABLE)
