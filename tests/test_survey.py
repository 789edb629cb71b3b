"""The survey's harness: verdicts, statistics, two claims from end to end, and a page that has all of them."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import fastopt  # noqa: E402
from bench.survey import harness, page  # noqa: E402
from bench.survey.generalization import Landscape  # noqa: E402
from bench.survey.harness import HELD, IN_PART, NOT_HELD, Check, Result, Study  # noqa: E402
from bench.survey.networks import Network, digits, flat  # noqa: E402
from bench.survey.training import fit  # noqa: E402

PAGE = ROOT / "docs" / "survey.md"


@pytest.mark.parametrize(
    ("checks", "expected"),
    [((True,), HELD), ((True, True), HELD), ((True, False), IN_PART), ((False,), NOT_HELD), ((False, False), NOT_HELD)],
)
def test_verdicts_are_computed_from_the_checks(checks, expected):
    found = Result("", ("a",), [("b",)], [Check("c", true) for true in checks])
    assert found.verdict == expected
    text = harness.section(harness.ordered()[0], found)
    assert f"Verdict: **{expected}**" in text
    assert text.count("**yes**") == sum(checks) and text.count("**no**") == len(checks) - sum(checks)


def test_a_claim_without_checks_is_refused():
    with pytest.raises(ValueError, match="at least one check"):
        harness.verdict([])


def test_below_asks_for_more_than_chance(rng):
    a = rng.standard_normal(20)
    assert harness.below(a, a + 1 + 0.1 * rng.standard_normal(20))
    assert not harness.below(a + 1, a)
    assert not harness.below(a, a)
    assert not harness.below([1.0, 2.0, 3.0], [1.1, 2.2, 2.9]), "less on average, and not clearly"
    assert harness.below([1.0, 2.0], [math.inf, 3.0]) and not harness.below([1.0, 3.0], [math.inf, 2.0])
    assert not harness.below([math.inf, 1.0], [math.inf, 2.0]) and not harness.below([math.nan, 1.0], [5.0, 2.0])


def test_the_95_percent_interval_is_one():
    """Where nothing differs, about 2.5 % of the comparisons say "below"."""
    rng = np.random.default_rng(1)
    said = np.mean([harness.below(*rng.standard_normal((2, 5))) for _ in range(2000)])
    assert 0.015 < said < 0.035


def test_same():
    assert harness.same([1.0, 2.0], [1.1, 2.1], 0.2) and harness.same([1.0, 5.0], [5.0, 1.5], 0.1)
    assert not harness.same([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], 0.5)


def test_spread_says_when_runs_diverged():
    assert harness.spread([1.0, 2.0, 3.0]) == "2 ± 1"
    assert harness.spread([1.0, math.inf]) == "diverges (1 of 2)"


def test_chosen_never_takes_a_rate_that_diverges():
    best, means = harness.chosen(
        [10.0, 0.1, 1.0], lambda lr, seed: {0.1: 2.0, 1.0: 1.0 + seed, 10.0: math.nan}[lr], [0, 1]
    )
    assert best == 1.0 and means[1.0] == 1.5
    assert harness.chosen([3, 4], lambda x, seed: math.inf if x == 3 else 9.0, [0])[0] == 4


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradient_of_the_network(norm, activation):
    net, split = Network((64, 6, 5, 10), activation), digits(0)
    if norm:
        from fastopt.strategies import BatchNorm

        net.norms = [BatchNorm(6, dtype=np.float64), BatchNorm(5, dtype=np.float64)]
    params, X, y = net.start(0, dtype=np.float64), split.X[:40].astype(np.float64), split.y[:40]
    for i in range(3):  # no unit sits on the kink of its activation
        params[f"b{i}"] += 0.1
    found = flat(net.loss_and_grad(params, X, y)[1])
    expected = []
    for array in params.values():
        for i in np.ndindex(array.shape):
            kept, ends = array[i], []
            for step in (1e-6, -1e-6):
                array[i] = kept + step
                ends.append(net.loss_and_grad(params, X, y)[0])
            array[i] = kept
            expected.append((ends[0] - ends[1]) / 2e-6)
    assert np.abs(found - expected).max() < 1e-7


def test_sharpness_is_the_most_that_ascent_finds():
    """With ten rounds it was half of that or less, and called the full batch's minima the flatter ones."""
    net, split = Network(), digits(0, noise=0.3)
    run = fit(net, split, lambda p: fastopt.SGD(p, lr=1.0), 0, 150, 1000)
    around = Landscape(net, run.params, split.X, split.y)
    assert around.sharpness() > 0.98 * around.sharpness(rounds=300) > 0


def test_splits_share_no_sample_and_follow_from_the_seed():
    a, b = digits(3), digits(3)
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    rows = [row.tobytes() for part in (a.X, a.X_val, a.X_test) for row in part]
    assert len(a.X) == 1000 and len(set(rows)) > 1790, "the digits have few samples twice"
    assert (digits(4).y != a.y).any()
    assert 0.1 < (digits(3, wrong=0.2).y != a.y).mean() < 0.3 and (digits(3, wrong=0.2).y_test == a.y_test).all()


def test_two_claims_from_end_to_end(tmp_path):
    out = tmp_path / "page.md"
    names = ["terminal-velocity", "saddle-point"]
    page.main([*names, "--quick", "--jobs", "1", "--out", str(out)])
    text = out.read_text()
    assert re.findall(r'<a id="([\w-]+)">', text) == [e.name for e in harness.ordered() if e.name in names]
    assert "A quick run: the figures mean nothing." in text
    assert re.search(r"\| 0\.9 \| 10 \| 10\.000 \| 29 \|", text), "the steps of momentum 0.9 on a steady slope"
    picture = tmp_path / "survey" / "saddle-point.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and f"survey/{picture.name}" in text
    again = page.run("terminal-velocity", tmp_path, True)
    assert again.rows == page.run("terminal-velocity", tmp_path, True).rows


def test_claims_that_are_named_replace_their_sections_of_a_page_and_nothing_else(tmp_path, capsys):
    found = Result("Another experiment.", ("a",), [("b",)], [Check("c", False)])
    old = PAGE.read_text()
    text = page.patched(old, {"nag-corrects": found, "random-labels": found})
    assert text.count("Another experiment.") == 2
    assert re.search(r"\(#nag-corrects\) \|.*\| \*\*did not hold\*\* \|", text)
    kept = [name for name in sections() if name not in ("nag-corrects", "random-labels")]
    assert {name: sections(text)[name] for name in kept} == {name: sections()[name] for name in kept}
    assert text.partition("\n## Changed")[2] == old.partition("\n## Changed")[2] != ""
    again = page.patched(text, dict.fromkeys(("nag-corrects", "random-labels"), found))
    assert again == text
    with pytest.raises(ValueError, match="no section of nag-corrects"):
        page.patched("# Another page\n", {"nag-corrects": found})
    out = tmp_path / "page.md"
    out.write_text(old)
    with pytest.raises(SystemExit):
        page.main(["terminal-velocity", "--quick", "--out", str(out)])
    assert "a quick run replaces no page" in capsys.readouterr().err and out.read_text() == old
    page.main(["terminal-velocity", "--jobs", "1", "--out", str(out)])
    assert out.read_text() == old, "terminal velocity has no chance in it"


def test_a_claim_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        page.main(["no-such-claim"])
    assert "there is no claim 'no-such-claim'" in capsys.readouterr().err


def test_quick_studies_do_less(tmp_path):
    quick, whole = Study("a", tmp_path, True), Study("a", tmp_path)
    assert len(quick.seeds(10)) == 2 and len(whole.seeds(10)) == 10
    assert quick.much(100) == 10 and quick.much(10, 5) == 5 and whole.much(100) == 100
    assert not set(whole.seeds(1000)) & set(whole.tuning(10)), "rates are chosen on other seeds than those that judge"


# ------------------------------------------------------------------------------------------ the page as it is committed


def sections(text: str | None = None) -> dict[str, str]:
    """The sections of a page by the names of the claims, less the title of the next theme: of docs/survey.md if None."""
    _, *rest = re.split(r'<a id="([\w-]+)"></a>\n', re.sub(r"\n## [^\n]*\n", "\n", text or PAGE.read_text()))
    return dict(zip(rest[::2], rest[1::2], strict=True))


def test_the_page_has_every_claim():
    expected = [entry.name for entry in harness.ordered()]
    assert list(sections()) == expected, "docs/survey.md is stale: run make survey"
    assert page.patched(PAGE.read_text(), {}) == PAGE.read_text(), "its first or last words are stale: run make survey"
    assert "A quick run" not in PAGE.read_text()


def test_the_page_has_claim_settings_figures_and_verdict():
    listed = dict(re.findall(r"\]\(#([\w-]+)\) \|.*\| \*\*([\w ]+)\*\* \|", PAGE.read_text()))
    for entry in harness.ordered():
        text = sections()[entry.name]
        assert text.startswith(f"### {entry.title}\n"), f"{entry.name}: run make survey"
        assert f"*Claim* ({entry.source}): {entry.says}" in text, f"{entry.name}: run make survey"
        assert re.search(r"\*Experiment\*: \S.{40}", text) and "\n| --- |" in text, entry.name
        said = [word == "yes" for word in re.findall(r"^- \*\*(yes|no)\*\*: ", text, re.M)]
        verdict = harness.verdict(Check("", true) for true in said)
        assert f"Verdict: **{verdict}**." in text and listed[entry.name] == verdict, entry.name


def test_the_pictures_of_the_page_are_there_and_small():
    used = re.findall(r"!\[[^\]]+\]\((survey/[^)]+)\)", PAGE.read_text())
    files = {f"survey/{file.name}": file.stat().st_size for file in (PAGE.parent / "survey").glob("*")}
    assert sorted(used) == sorted(files) and max(files.values()) < harness.MOST_BYTES
