"""The page: self-contained, honest in its words, and built from results.json; provenance beside it."""

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from robot_value import provenance, report_plots
from robot_value import report_text as text
from robot_value.report import Extras, read_curves, render, write_report
from robot_value.report_video import Episode, Pair, encode, side_by_side
from robot_value.results_shape import InvalidResults


def arm(success, selector="argmax", **more):
    return {
        "success": success,
        "n": 200,
        "ci95": [max(0.0, success - 0.06), min(1.0, success + 0.06)],
        "selector": selector,
        "candidates": 16,
        "critic": "critic" if selector in ("argmax", "argmin", "softmax_average") else None,
        **more,
    }


def difference(mean, low, high, name="argmax", against="base"):
    values = {"arm": name, "against": against, "mean": mean, "ci95": [low, high], "p_mcnemar": 0.00001}
    return {**values, "gate": "always", "abstained": 0.0}


HEADROOM = {
    **{"n_episodes": 12, "n_points": 40, "candidates": 16, "points": 4, "rollouts": 4, "continuation": "steered"},
    **{
        "pass_at_n": 0.9,
        "base": 0.5,
        "ci95_base": [0.4, 0.6],
        "oracle": 0.9,
        "ci95_oracle": [0.8, 1.0],
        "arm": "argmax",
    },
    **{"selector": 0.7, "ci95_selector": [0.6, 0.8], "recovered": 0.5, "ci95_recovered": [0.3, 0.7]},
    **{"rank_correlation": 0.31, "regret": 0.2},
}
DIAGRAM = {"gamma": 0.98, "decisions": 9, "predicted": [0.1, 0.9], "realised": [0.2, 0.7], "count": [5, 4], "ece": 0.15}


@pytest.fixture
def results():
    point = {"success": 0.5, "n": 60, "ci95": [0.4, 0.6]}
    return {
        **{"format_version": 1, "command": "robot-value demo", "git": "abc", "versions": {"torch": "2"}},
        **{"machine": {"cores": 2, "gpu": None}, "wall_seconds": 611.0, "task": "robosuite/Lift"},
        **{"policy": "flow 12", "critic": "iql 34"},
        "seeds": {"training": [0, 1, 2], "validation": [1000, 1049], "test": [2000, 2199]},
        "recipe": {"arm": "argmax", "selector": "argmax", "n": 16, "chosen_on": "validation", "critic": "critic"},
        "arms": {
            "base": arm(0.3, "first"),
            "random": arm(0.31, "random"),
            "medoid": arm(0.32, "medoid"),
            "mean": arm(0.4, "mean"),
            "argmax": arm(0.8),
            "argmin": arm(0.1, "argmin"),
            "shuffled_critic": arm(0.3),
        },
        "difference": difference(0.5, 0.4, 0.6),
        "differences": [difference(0.5, 0.4, 0.6), difference(0.4, 0.3, 0.5, against="mean")],
        "success_by_n": {
            "base": [point | {"candidates": 1}],
            "argmax": [point | {"candidates": 2}, point | {"candidates": 8}],
        },
        "calibration": {
            "argmax": DIAGRAM | {"auroc_first_value": 0.8},
            "argmin": DIAGRAM | {"auroc_first_value": None},
        },
        "headroom": HEADROOM,
        "headroom_rows": [HEADROOM | {"continuation": "base"}, HEADROOM],
        "latency_ms": {"encode": 1.0, "sample": 2.0, "score": 0.5, "select": 0.1},
        "latency_batch": 1,
        "excluded_unstable_seeds": [],
    }


@pytest.fixture(scope="module")
def pair():
    frames = [np.full((48, 63, 3), 10 * t, np.uint8) for t in range(12)]
    return Pair(2003, Episode("plain policy", frames, False), Episode("argmax", frames[:5], True))


class Links(HTMLParser):
    """Everything a browser would fetch, and the tags that stay open."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "xlink:href", "poster")]
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words(page):
    """The page's text as a person reads it."""
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").replace("&#x27;", "'")


def test_the_page_needs_nothing_but_itself(results, pair, tmp_path):
    curves = {"critic: loss": {"train": [[1, 0.5], [2, None]], "validation": [[1, 0.6], [2, 0.4]]}}
    path = write_report(tmp_path, results, Extras(data="Scripted.", videos=[pair], curves=curves, commands=["x y"]))
    page = path.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(page)
    assert parser.open == []
    # mutation: src="data:video/mp4;base64 -> src="video.mp4
    assert all(link.startswith(("data:", "#")) for link in parser.found)
    assert len([link for link in parser.found if link.startswith("data:video/mp4;base64,")]) == 1
    assert not re.search(r"url\((?!#)|@import", page)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results.json"]


def test_the_page_shows_every_part(results, pair):
    found = words(
        render(results, Extras(title="A <title>", data="Scripted & biased.", videos=[pair], notes=["Noted."]))
    )
    for expected in (
        "A &lt;title&gt;",
        "raises success from 30.0 % to 80.0 % (+50.0 points, 95 % interval +40.0 to +60.0)",
        "Averaging the candidates without any critic reaches 40.0 %; the critic adds to that (+40.0 points",
        "200 episodes per arm (3 training seeds)",
        "plain policy: failure",
        "argmax: success",
        "argmax recovers 50 % (95 % interval 30 to 70 %)",
        "no upper bound",
        "expected calibration error 0.150",
        "Scripted &amp; biased.",
        "Noted.",
        "robot-value demo",
        "cores 2",
        "&lt; 0.0001",
    ):
        assert expected in found, expected
    assert "warnings" not in render(results, Extras()).split("</style>")[1]


def test_the_page_leaves_out_what_was_not_measured(results):
    bare = results | {"headroom": None, "headroom_rows": [], "calibration": {}, "success_by_n": None, "latency_ms": {}}
    page = render(bare | {"critic": None, "git": None}, Extras())
    for absent in ("What any choice", "Does the critic", "More candidates", "Cost per decision", "Learning curves"):
        assert absent not in page
    assert "not a checkout" in page


def test_results_of_the_wrong_shape_make_no_page(results, tmp_path):
    del results["arms"]
    with pytest.raises(InvalidResults, match="arms"):
        write_report(tmp_path, results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("interval", "start"),
    [
        ((0.5, 0.4, 0.6), "Steering with argmax raises success"),
        ((-0.2, -0.3, -0.1), "Steering with argmax lowers success"),
        ((0.05, -0.01, 0.11), "No reliable difference: steering with argmax"),
        ((0.05, 0.0, 0.11), "No reliable difference"),
    ],
)
def test_the_headline_claims_only_what_the_interval_allows(results, interval, start):
    # mutation: `low > 0` -> `low >= 0` in headline
    assert text.headline(results | {"difference": difference(*interval)}).startswith(start)


def test_the_headline_admits_that_the_plain_policy_was_chosen(results):
    chosen = results | {"difference": difference(0, 0, 0, "base")}
    assert "Validation chose the plain policy itself" in text.headline(chosen)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.1, 0.05, 0.15), "the critic adds to that"),
        ((-0.1, -0.2, -0.05), "more than with the critic"),
        ((0.0, -0.1, 0.1), "is not shown"),
    ],
)
def test_the_critic_is_judged_against_averaging_without_one_and_against_one_that_learned_nothing(
    results, interval, words
):
    for control, subject in {"mean": "the critic", "shuffled_critic": "what the critic learned"}.items():
        arms = results["arms"] | {control: arm(0.3)}
        differences = [difference(*interval, against=control)]
        (found,) = text.against_controls(results | {"differences": differences, "arms": arms})
        assert words.replace("the critic", subject) in found and "30.0" in found
    assert text.against_controls(results | {"differences": []}) == []


def test_warnings_name_what_speaks_against_the_result(results):
    assert text.warnings(results) == []
    arms = results["arms"] | {"argmin": arm(0.4, "argmin"), "shuffled_critic": arm(0.9)}
    del arms["medoid"]
    changed = {"seeds": results["seeds"] | {"training": [0]}, "excluded_unstable_seeds": [2001]}
    found = " ".join(text.warnings(results | changed | {"arms": arms}))
    for expected in (
        "not run: medoid",
        "worst candidate does as well",
        "shuffled rewards",
        "Fewer than 3",
        "1 test seeds",
    ):
        assert expected in found


def test_every_arm_says_what_it_does():
    assert text.describe("mean", arm(0.5, "mean")) == "the average of 16 candidates, no critic"
    assert "shuffled rewards" in text.describe("shuffled_critic", arm(0.5, "softmax_average"))
    assert "never saw a failure" in text.describe("success_only_critic_argmax", arm(0.5))
    assert text.describe("mine", arm(0.5, "my.selector")) == "my.selector"
    led = {
        **arm(0.5, "argmax"),
        "proposer": "samples",
        "guide": "halving",
        "gate": "calibrated",
    }  # mutation: selector only
    assert text.describe("guide_halving", led).endswith("highest value; guide halving; gate calibrated")


def test_headroom_says_when_there_is_nothing_to_recover_and_when_the_oracle_was_beaten():
    nothing = text.headroom(HEADROOM | {"recovered": None, "rank_correlation": None})
    assert "undefined share" in nothing
    assert "unknown" in nothing
    beaten = text.headroom(HEADROOM | {"recovered": 1.4, "ci95_recovered": [None, None]})
    assert "not bounded by these data" in beaten
    assert "the oracle's own choice is noisy" in beaten


def test_training_seeds_are_shown_one_by_one(results):
    pooled = results["difference"] | {"per_training_seed": [0.4, 0.5, 0.6], "ci95_training_seeds": [0.35, 0.65]}
    found = words(render(results | {"difference": pooled}, Extras()))
    assert "argmax minus base per training seed: +40.0, +50.0, +60.0 points" in found
    assert "rough guide" in found


def test_small_p_values_are_not_written_as_zero():
    assert [text.p_value(p) for p in (1e-9, 0.0012, 0.049, 1.0)] == ["< 0.0001", "0.0012", "0.05", "1.00"]


def test_plots_take_their_text_colour_from_the_page_and_share_no_ids(results):
    drawn = [
        report_plots.success_by_n(results["success_by_n"], results["arms"]["base"]),
        report_plots.calibration(results["calibration"]),
        report_plots.headroom(results["headroom_rows"]),
        report_plots.latency({"base": {"encode": 1.0}, "argmax": {"encode": 1.0, "score": 2.0, "other": 0.1}}),
        report_plots.curves({"a": {"train": [[0, 1.0], [1, 0.5]]}, "b": {"train": []}, "c": {"x": [[0, None]]}}),
    ]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in drawn]
    for i, svg in enumerate(drawn):
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg)) <= ids[i]
        assert not any(ids[i] & other for other in ids[:i])
        assert re.search(r"<svg[^>]*viewBox", svg)
        assert not re.search(r"<svg[^>]* width=", svg)


def test_the_same_figures_draw_the_same_page(results):
    assert render(results, Extras()) == render(results, Extras())


def test_the_shorter_episode_keeps_its_last_picture(pair):
    frames = side_by_side(pair.left.frames, pair.right.frames)
    assert frames.shape == (12, 48, 130, 3)  # 63 + 4 + 63, even sides
    assert (frames[11, :48, :63] == 110).all()
    assert (frames[11, :48, 67:130] == 40).all()
    odd = np.zeros((3, 5, 5, 3), np.uint8)
    assert side_by_side(odd, odd).shape == (3, 6, 14, 3)


def test_pictures_of_different_size_are_refused():
    with pytest.raises(ValueError, match="pictures of one size"):
        side_by_side(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="no frames"):
        side_by_side([], [])


def test_the_video_is_an_mp4_with_as_many_frames():
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    video = encode(np.zeros((9, 48, 64, 3), np.uint8), fps=10)
    assert video[4:8] == b"ftyp"
    assert video.index(b"moov") < video.index(b"mdat")  # plays before it is complete
    assert b"avc1" in video
    assert imageio_ffmpeg is not None


def test_learning_curves_come_from_the_runs_of_training(tmp_path):
    points = {
        "train": {"step": [1, 2], "loss": [0.5, 0.4], "value": [0, 1]},
        "validation": {"step": [2], "loss": [0.6]},
    }
    (tmp_path / "curves.json").write_text(json.dumps(points))
    assert read_curves({"critic": tmp_path}) == {
        "critic: loss": {"train": [[1, 0.5], [2, 0.4]], "validation": [[2, 0.6]]},
        "critic: value": {"train": [[1, 0], [2, 1]]},
    }


def test_provenance_is_what_results_json_begins_with():
    found = provenance.provenance(time.monotonic() - 5, ["/somewhere/bin/robot-value", "demo", "--name=a b"])
    assert found["command"] == "robot-value demo '--name=a b'"
    assert found["wall_seconds"] >= 5
    assert found["versions"]["numpy"] == np.__version__
    assert found["machine"]["cores"] >= 1
    json.dumps(found, allow_nan=False)


def test_the_commit_is_the_checkouts_own_or_none(tmp_path):
    assert provenance.commit(tmp_path) is None
    (tmp_path / "package.xml").touch()
    assert provenance.commit(tmp_path) is None  # a source tree without git
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    clean = provenance.commit(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (tmp_path / "package.xml").write_text("changed")
    assert provenance.commit(tmp_path) == f"{clean}-dirty"


def test_a_machine_without_git_still_reports(monkeypatch, tmp_path):
    (tmp_path / "package.xml").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(tmp_path) is None


def test_libraries_that_are_not_installed_are_left_out():
    assert set(provenance.versions(("numpy", "no_such_library"))) == {"python", "numpy"}


def test_naming_the_gpu_costs_no_import_of_torch():
    code = "import sys; from robot_value.provenance import machine; print(machine()['gpu'], 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["None", "False"]
    assert provenance.machine(lambda: "H200")["gpu"] == "H200"


def test_an_unknown_processor_is_null(tmp_path):
    assert provenance._processor(tmp_path / "missing") is None
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: Fast One\n")
    assert provenance._processor(tmp_path / "cpuinfo") == "Fast One"
