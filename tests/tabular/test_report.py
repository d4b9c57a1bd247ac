"""The report: complete in itself, about every column, deaf to what a table's values may say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import ConfigError, DataError, OutputError, SchemaError
from scidiffusion.tabular import judges, telltales, write_report
from scidiffusion.tabular.findings import Tone, find, verdict
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.report_page import render_page
from scidiffusion.tabular.views import TableView

HOSTILE = "<script>alert(1)</script>"
LEVELS = ["</script><img src=x onerror=alert(2)>", "\"'&", "\x00control \ud800", "plain"]
SECTIONS = ["scores", "columns", "pairs", "judge", "copies", "notes"]


def population(n, seed):
    """Every kind of column, two of them dependent, with hostile names and levels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {
            "x": x,
            "y": x + rng.normal(scale=0.2, size=n),
            "count": rng.poisson(3, n),
            "gaps": pd.Series(rng.normal(size=n)).mask(rng.random(n) < 0.3),
            "flag": x > 0,
            HOSTILE: rng.choice(LEVELS, n),
            "city": rng.choice([f"city {k}" for k in range(60)], n),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "wait": pd.to_timedelta(rng.integers(0, 50, n), "min"),
            "same": 7,
            "empty": np.nan,
            "name": [f"person {seed} {k}" for k in range(n)],
        }
    )


REAL, HOLDOUT, SYNTHETIC = population(240, 0), population(120, 1), population(240, 2)
COMPARED = [name for name in REAL if name not in ("empty", "name")]


class Page(HTMLParser):
    """What a browser would make of a page: elements and texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "img"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        tag = self.inside[-1] if self.inside else ""
        self.texts.setdefault(tag, []).append(data)

    def with_tag(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", autouse=True)
def _hasty_judges():
    """A few trees a judge: the page is tested here, not the judges' skill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judges.TREES, "max_iter", 12)
        patch.setattr(telltales, "SMALL_TREES", 12)
        yield


@pytest.fixture(scope="module")
def findings():
    return find(REAL, SYNTHETIC, holdout=HOLDOUT, target="flag", seed=3)


@pytest.fixture(scope="module")
def text(findings):
    return render_page(findings, f"Title {HOSTILE}")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_asks_for_nothing(text, page):
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:"))
        assert not {"action", "srcset", "poster", "data", "background"} & set(attributes)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [m["content"] for m in page.with_tag("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_nothing_of_a_table_becomes_markup(text, page):
    scripts = page.with_tag("script")
    assert [script.get("type") for script in scripts] == ["application/json", None]
    assert not page.with_tag("img")
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    data, script = page.texts["script"]
    assert json.loads(data)["names"] == COMPARED
    assert "alert(" not in script
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert page.texts["h1"] == [f"Title {HOSTILE}"]


def test_every_column_is_named_and_drawn(page):
    cards = [a for a in page.with_tag("article") if "column" in a["class"]]
    assert {card["data-name"] for card in cards} == set(COMPARED)
    rows = [row["data-name"] for row in page.with_tag("tr") if "data-name" in row]
    assert sorted(rows) == sorted(COMPARED)
    drawn = [a["aria-label"] for a in page.with_tag("svg") if "aria-label" in a]
    for name in COMPARED:
        assert any(label.startswith(f"Distribution of {name},") for label in drawn)
    shown = " ".join(page.texts["p"])
    assert "Not compared" in shown


def test_columns_that_are_not_compared_are_named_with_the_reason(findings, text):
    assert list(findings.tables.left_out) == ["empty", "name"]
    assert "only missing values" in text
    assert "identifier or free text" in text
    # An identifier names people: none of its values may be shown.
    assert "person 0 " not in text
    assert "person 2 " not in text


def test_the_sections_can_be_reached(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [key for key in ids if key in SECTIONS] == SECTIONS
    for link in page.with_tag("a"):
        assert link["href"].removeprefix("#") in ids


def test_charts_say_what_they_show(page):
    charts = [a for a in page.with_tag("svg") if "chart" in a.get("class", "")]
    assert len(charts) > 20
    assert all(a["role"] == "img" and a["aria-label"] for a in charts)
    assert page.with_tag("html") == [{"lang": "en"}]


def test_the_figures_of_the_score_are_on_the_page(findings, page):
    cells = page.texts["td"]
    ours, best = findings.score.synthetic, findings.score.real
    for form, value in (
        ("{:.2f} %", ours.shape_error),
        ("{:.2f} %", ours.trend_error),
        ("{:.3f}", ours.c2st),
        ("{:.3f}", best.ml_efficacy),
        ("{:.3f}", ours.dcr_share),
    ):
        assert form.format(value) in cells
    assert any("AUC of flag" in heading for heading in page.texts["th"])


def test_the_same_seed_gives_the_same_page(tmp_path):
    columns = ["x", "flag", "city"]
    for name in "ab":
        write_report(REAL[columns], SYNTHETIC[columns], tmp_path / name, seed=5)
    write_report(REAL[columns], SYNTHETIC[columns], tmp_path / "c", seed=6)
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    assert first != (tmp_path / "c").read_bytes()


def test_order_of_columns_and_of_synthetic_dtypes_does_not_matter(tmp_path):
    columns = ["x", "count", "flag"]
    turned = SYNTHETIC[columns[::-1]].astype({"count": float})
    write_report(REAL[columns], SYNTHETIC[columns], tmp_path / "a")
    write_report(REAL[columns], turned, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_codes_read_as_numbers_are_text_again():
    real = pd.DataFrame({"code": ["12", "7", "3B", "44"] * 10})
    fake = pd.DataFrame({"code": [12, 7, 44, 44, 12, 7]})
    assert find(real, fake).score.synthetic.invalid == 0
    gaps = pd.DataFrame({"code": [12.0, 7.0, np.nan, 44.0]})
    assert find(real, gaps).score.synthetic.invalid == 1


def test_fresh_rows_and_copies_get_opposite_verdicts():
    columns = ["x", "y", "count", "flag"]
    real, holdout, fresh = (population(250, seed)[columns] for seed in range(3))
    tone, sentence = verdict(find(real, fresh, holdout=holdout))
    assert tone is Tone.GOOD
    assert "no sign of copied" in sentence
    tone, sentence = verdict(find(real, real.copy(), holdout=holdout))
    assert tone is Tone.POOR
    assert "leak" in sentence
    tone, sentence = verdict(find(real, real.copy()))
    assert tone is Tone.POOR
    assert "exact copies" in sentence


def test_near_copies_are_suspected_without_a_holdout():
    columns = ["x", "y", "gaps"]
    real = population(500, 0)[columns].fillna(0.0)
    noise = np.random.default_rng(1).normal(scale=1e-3, size=real.shape)
    tone, sentence = verdict(find(real, real + noise))
    assert tone is not Tone.GOOD
    assert "by heart" in sentence
    fresh = population(500, 3)[columns].fillna(0.0)
    tone, sentence = verdict(find(real, fresh))
    assert "cannot be judged without rows it has not seen" in sentence


def test_what_was_broken_is_what_gives_it_away(tmp_path):
    columns = ["x", "y", "count", "flag", "wait"]
    real, holdout, broken = (population(500, seed)[columns] for seed in range(3))
    broken["y"] = np.random.default_rng(0).permutation(broken["y"])
    found = find(real, broken, holdout=holdout)
    told = found.telltales
    assert "y" in told.pairs[0].columns
    assert told.pairs[0].gain > 0.2
    assert max(told.pairs[0].alone) < 0.6
    assert {tell.column for tell in told.columns[:2]} <= {"x", "y", "flag"}
    assert set(found.pairs.pairs[0].names) == {"x", "y"}
    tone, sentence = verdict(found)
    assert tone is Tone.POOR
    assert "y" in re.findall(r"\w+", sentence.split(";")[1])
    shifted = population(300, 4)[columns].assign(count=lambda t: t["count"] + 2)
    found = find(real, shifted)
    assert found.telltales.columns[0].column == "count"
    assert max(found.columns, key=lambda contrast: contrast.excess).name == "count"


def test_without_a_holdout_rows_are_held_aside_and_it_is_said(tmp_path):
    path = tmp_path / "report.html"
    score = write_report(REAL[["x", "flag"]], SYNTHETIC[["x", "flag"]], path)
    assert score.rows == {"train": 192, "synthetic": 240, "test": 48}
    assert score.synthetic.dcr_share is None
    text = path.read_text()
    assert "No holdout was given" in text
    assert "No copy report" in text


def test_copies_of_rows_held_aside_are_copies():
    found = find(REAL[["x", "y"]], REAL[["x", "y"]])
    assert found.score.synthetic.copies == 100


@pytest.mark.parametrize("name", ["x", "gaps", "flag", "city", "day", "wait", "same"])
def test_one_column_is_enough(name, tmp_path):
    write_report(REAL[[name]], SYNTHETIC[[name]], tmp_path / "r.html", holdout=HOLDOUT[[name]])
    text = (tmp_path / "r.html").read_text()
    assert f"Distribution of {name}," in text
    assert "no pairs" in text


def test_tiny_tables_and_columns_without_values_still_give_a_page(tmp_path):
    write_report(REAL.head(12), SYNTHETIC.head(1), tmp_path / "a", holdout=HOLDOUT.head(1))
    assert "too few rows" in (tmp_path / "a").read_text()
    lacking = SYNTHETIC.assign(gaps=np.nan, flag=None, city="Atlantis")
    write_report(REAL, lacking, tmp_path / "b", holdout=HOLDOUT)
    assert "unknown" in (tmp_path / "b").read_text()


def test_a_wide_table_draws_the_columns_that_differ_most(tmp_path):
    rng = np.random.default_rng(0)
    real = pd.DataFrame(rng.normal(size=(60, 64))).add_prefix("v")
    fake = pd.DataFrame(rng.normal(size=(60, 64))).add_prefix("v").assign(v55=5.0)
    write_report(real, fake, tmp_path / "wide.html")
    page = Page((tmp_path / "wide.html").read_text())
    cards = [a["data-name"] for a in page.with_tag("article")]
    assert cards[0] == "v55"
    assert len(cards) == 36
    rows = [row["data-name"] for row in page.with_tag("tr") if "data-name" in row]
    assert sorted(rows) == sorted(real.columns)
    assert (tmp_path / "wide.html").stat().st_size < 500_000


def test_telltales_are_found_among_many_columns():
    rng = np.random.default_rng(0)
    real = pd.DataFrame(rng.normal(size=(400, 75))).add_prefix("v")
    fake = pd.DataFrame(rng.normal(size=(400, 75))).add_prefix("v")
    fake["v40"] += 1.0
    schema = infer_schema(real)
    views = TableView.of(real, schema), TableView.of(fake, schema)
    told = telltales.find_telltales(*views, rng=rng)
    assert told.columns[0].column == "v40"
    assert told.columns[0].importance > 0.1
    assert told.columns[0].alone > 0.65
    assert len(told.columns) == 75
    assert "v40" in told.pairs[0].columns


def test_overrides_of_kinds_are_heeded():
    found = find(REAL[["x", "count"]], SYNTHETIC[["x", "count"]], columns={"count": "categorical"})
    assert str(found.columns[1].column.kind) == "categorical"
    asked = find(REAL[["x", "name"]], SYNTHETIC[["x", "name"]], columns={"name": "categorical"})
    assert not asked.tables.left_out


SMALL = REAL[["x", "flag"]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"synthetic": SMALL[["x"]]}, DataError, "synthetic table are not those .* lacks 'flag'"),
        ({"synthetic": SMALL.assign(z=1)}, DataError, "has also 'z'"),
        ({"holdout": SMALL[["x"]]}, DataError, "the holdout table .* lacks 'flag'"),
        ({"synthetic": SMALL.head(0)}, DataError, "the synthetic table has no rows"),
        ({"real": SMALL.head(0)}, DataError, "the real table has no rows"),
        ({"real": SMALL.head(9)}, DataError, r"9 row\(s\); at least 10"),
        ({"holdout": SMALL.head(0)}, DataError, "the holdout table has no rows"),
        ({"real": SMALL[[]], "synthetic": SMALL[[]]}, DataError, "has no columns"),
        ({"synthetic": [1, 2]}, DataError, "must be a pandas DataFrame, not list"),
        ({"real": SMALL.set_axis([1, 2], axis=1)}, DataError, "column name 1 .* is int"),
        ({"real": SMALL.set_axis(["x", "x"], axis=1)}, DataError, "'x' occurs more than once"),
        ({"synthetic": SMALL.assign(flag=[[1]] * 240)}, DataError, "'flag' of the synth.* nested"),
        ({"real": SMALL.assign(x=np.inf)}, DataError, "'x' .* infinite"),
        ({"target": "flog"}, SchemaError, "target: there is no column 'flog'; did you mean"),
        ({"columns": {"z": "numerical"}}, SchemaError, "there is no column 'z'"),
        ({"seed": -1}, ConfigError, "seed must be"),
        ({"path": "/proc/nowhere/report.html"}, OutputError, "/proc/nowhere"),
    ],
)
def test_one_clear_error(arguments, error, message, tmp_path):
    arguments = {"real": SMALL, "synthetic": SMALL, "path": tmp_path / "r.html"} | arguments
    with pytest.raises(error, match=message) as caught:
        write_report(**arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_target_or_a_table_that_names_rows_is_refused():
    with pytest.raises(SchemaError, match="'name' cannot be predicted"):
        find(REAL[["x", "name"]], SYNTHETIC[["x", "name"]], target="name")
    with pytest.raises(DataError, match="no column of the real table can be compared: 'name'"):
        find(REAL[["name"]], SYNTHETIC[["name"]])
    with pytest.raises(DataError, match="only missing values"):
        find(REAL[["empty"]], SYNTHETIC[["empty"]])


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")
def test_a_browser_shows_it_without_an_error(text, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr
    shown = Page(done.stdout)
    # The script has run: it marks the root and puts a button into every head of a table.
    assert shown.with_tag("html")[0]["class"] == "js"
    assert len(shown.with_tag("button")) > 8
    ids = {attributes.get("id") for _, attributes in shown.elements}
    assert set(SECTIONS) | {"tip"} <= ids
    assert not shown.with_tag("img")
