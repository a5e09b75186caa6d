"""Labels beside the episodes: bound to their content, never rewritten, resumable, proven when they are read."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from recorded import make_episode, make_spec

import robot_value.fit as fitting
from robot_value import components, flags
from robot_value.commands import train
from robot_value.commands._change import Label
from robot_value.critics import qc
from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes.cache import open_cache
from robot_value.labelers import minus_one, monte_carlo, return_weights, terminal_success
from robot_value.labels.cached import read_labels
from robot_value.labels.encoding import Origin
from robot_value.labels.labels import Labels
from robot_value.labels.root import LabelsDamaged, names
from robot_value.labels.run import label
from robot_value.labels.store import LabelStore, verify
from robot_value.training import TrainConfig

SPEC = make_spec()
PAGE = Path(__file__).resolve().parent.parent / "docs" / "labels.md"
LABELER = {"labeler": flags.Choice("labelers", None)}
STEPS = (4, 3, 5)


def make_store(path, commit="rename", steps=STEPS):
    with EpisodeStore.create(path, SPEC, commit) as store:
        for e, n in enumerate(steps):
            store.append(make_episode(SPEC, n, e, success=e != 1, terminated=e != 1))
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("template") / "s").path


@pytest.fixture
def store(template, tmp_path):
    return EpisodeStore.open(shutil.copytree(template, tmp_path / "s"))


def run(store, labeler="terminal_success", name="mine", config=None, **options):
    config = config or components.load("labelers", labeler).Config()
    return label(store, labeler, config, name, progress=False, **options)


def append(path, episode):
    with EpisodeStore.open(path, "a") as store:
        return store.append(episode)


@pytest.mark.parametrize("commit", ["rename", "manifest"])
def test_labels_come_back_as_they_were_written_and_open_in_stock_zarr(tmp_path, commit):
    store = make_store(tmp_path / "s", commit, (4,))
    (episode,) = store.names()
    said = Labels(np.arange(4, dtype=np.float32), np.ones(4, np.float32), True, False, {"a": [1, {"b": None}]})
    with LabelStore.create(store, "mine", Origin("somebody", {"H": 3})) as labels:
        labels.write(episode, said)
    found = LabelStore.open(store, "mine")
    back = found.read(episode)
    assert found.origin == Origin("somebody", {"H": 3}) and found.episodes() == [episode] and names(store) == ["mine"]
    assert back.rewards.tolist() == said.rewards.tolist() and back.weights.tolist() == [1] * 4 and back.returns is None
    assert (back.terminated, back.success, back.about) == (True, False, said.about)
    group = zarr.open_group(store.path, mode="r")["labels/mine"][episode]
    assert group["rewards"][:].tolist() == [0, 1, 2, 3]
    assert group.attrs["parent"] == store.manifest_hash(episode) and group.attrs["origin"]["labeler"] == "somebody"
    assert store.verify() == [] == verify(store)


def test_labels_that_cannot_be_of_the_episode_are_not_written(store):
    episode = store.names()[0]
    with LabelStore.create(store, "mine", Origin("x")) as labels:
        for wrong, message in (
            ({"rewards": np.zeros(3, np.float32)}, r"rewards: expected float32\[4\], got float32\[3\]"),
            ({"returns": np.zeros(4)}, r"returns: expected float32\[4\], got float64\[4\]"),
            ({"rewards": np.array([0, np.nan, 0, 0], np.float32)}, "rewards: expected finite numbers, got nan"),
            ({"weights": np.array([0, -1, 0, 0], np.float32)}, "weights: expected at least 0, got -1"),
            ({"about": {"x": float("inf")}}, "JSON compliant"),
        ):
            with pytest.raises(ValueError, match=message):
                labels.write(episode, Labels(**wrong))
        assert labels.episodes() == [] and verify(store) == []
        labels.write(episode, Labels())
        with pytest.raises(OSError):  # never rewritten
            labels.write(episode, Labels(success=True))
        assert labels.read(episode).success is None
    with pytest.raises(StoreError, match="open for reading"):
        LabelStore.open(store, "mine").write(episode, Labels())


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/tmp/x", ".hidden", "a.b", "-x", "x" * 65, "zarr.json"])
def test_a_name_that_is_no_plain_folder_name_is_refused(store, name):
    with pytest.raises(StoreError, match="name of labels: expected"):
        run(store, name=name)
    assert not (store.path / "labels").exists()


def test_every_flipped_or_missing_byte_of_labels_is_found(store):
    run(store)
    folder = store.path / "labels" / "mine"
    episode = store.names()[1]
    files = [path for path in folder.rglob("*") if path.is_file() and (path.parent == folder or episode in str(path))]
    assert len(files) == 5  # root, manifest, group, array and its chunk
    for path in files:
        content = path.read_bytes()
        for at in {0, len(content) // 3, len(content) // 2, len(content) - 2}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert verify(store), (path, at)  # mutation: only arrays are proven
            with pytest.raises(StoreError):
                LabelStore.open(store, "mine").read(episode)
        path.unlink()
        if path.parent != folder:  # without its root there are no such labels
            assert any(episode in str(problem) for problem in verify(store)), path
        path.write_bytes(content)
    assert verify(store) == []
    (folder / episode / "more").write_bytes(b"")
    assert [problem.file for problem in verify(store)] == ["more"]


def test_labels_of_another_content_are_refused(tmp_path, store):
    """The folder of one episode's labels under another's name, and a store whose episode was exchanged."""
    run(store)
    first, second, _ = store.names()
    folder = store.path / "labels" / "mine"
    other = make_store(tmp_path / "other", steps=(4,))
    shutil.copytree(folder, other.path / "labels" / "mine")
    shutil.rmtree(folder / second)
    shutil.copytree(folder / first, folder / second)
    with pytest.raises(LabelsDamaged, match=rf"labels/mine/{second}/zarr.json: expected labels of parent"):
        LabelStore.open(store, "mine").read(second)  # mutation: the parent's hash is written and never compared
    assert LabelStore.open(other, "mine").read(first).rewards.tolist() == [
        0,
        0,
        0,
        1,
    ]  # the same content: the same labels
    assert verify(other) == []  # labels of episodes that are not there are no damage


def test_labels_of_another_origin_below_the_same_root_are_refused(store):
    run(store, name="a")
    run(store, "minus_one", name="b")
    episode = store.names()[0]
    shutil.rmtree(store.path / "labels/a" / episode)
    shutil.copytree(store.path / "labels/b" / episode, store.path / "labels/a" / episode)
    with pytest.raises(
        LabelsDamaged, match=r"expected labels of origin .*terminal_success.*, got of origin .*minus_one"
    ):
        LabelStore.open(store, "a").read(episode)


def test_a_name_is_of_one_labeler_and_config_and_fresh_takes_the_next(store):
    run(store)
    for other in ({"labeler": "minus_one"}, {"config": terminal_success.Config(unknown="failure")}):
        with pytest.raises(StoreError, match=r"labels 'mine' are there already, made with .*--fresh"):
            run(store, **other)
    assert run(store, "minus_one", fresh=True).name == "mine-2"
    assert run(store, "minus_one", config=minus_one.Config(last_steps=1), fresh=True).name == "mine-3"
    assert names(store) == ["mine", "mine-2", "mine-3"]


def test_a_second_run_labels_what_is_missing_and_new_episodes(store):
    run(store)
    shutil.rmtree(store.path / "labels/mine" / store.names()[1])  # as if it had been interrupted
    kept = {path: path.stat().st_mtime_ns for path in (store.path / "labels/mine").rglob("*") if path.is_file()}
    done = run(store)
    assert (done.labelled, done.there) == (1, 2)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())  # mutation: labelled again
    append(store.path, make_episode(SPEC, 6, 9))
    cache = open_cache(store, progress=False)
    with pytest.raises(StoreError, match=r"expected all 4 episodes, got none for 1 \(first 00000003-"):
        read_labels(store, "mine", cache)
    assert run(store).labelled == 1 and len(read_labels(store, "mine", cache).reward) == len(cache.reward)
    assert run(store).labelled == 0


def test_a_labeler_that_was_fitted_to_the_dataset_does_not_mix_old_and_new(store, monkeypatch):
    run(store, "return_weights")
    shutil.rmtree(store.path / "labels/mine" / store.names()[2])
    assert run(store, "return_weights").labelled == 1  # the same dataset: it goes on
    append(store.path, make_episode(SPEC, 6, 9))
    with monkeypatch.context() as patch:
        patch.setattr(return_weights.ReturnWeights, "fit", lambda *_: pytest.fail("fitted before it was refused"))
        with pytest.raises(StoreError, match=r"fitted on other episodes than the store has now.*--fresh"):
            run(store, "return_weights")
    assert run(store, "return_weights", fresh=True).labelled == 4


def test_a_base_is_what_the_labeler_sees_and_stays_where_it_says_nothing(store):
    run(store, "minus_one", name="costs")
    run(store, "return_weights", name="both", base="costs")
    found = [LabelStore.open(store, "both").read(name) for name in store.names()]
    # returns -1, -3 and -2: costs of 4, 3 (a failure) and 5 steps, the last 3 of a success free
    expected = np.exp((np.array([-1, -3, -2]) + 1) / (0.1 * 2))
    assert [each.weights[0] for each in found] == pytest.approx(expected)  # mutation: the recorded returns
    assert found[1].rewards.tolist() == [-1] * 3 and found[1].terminated is False
    with pytest.raises(StoreError, match="made with base costs, asked for none"):
        run(store, "return_weights", name="both")
    with pytest.raises(StoreError, match=r"no labels 'absent'.*known: both, costs"):
        run(store, name="new", base="absent")


def test_returns_of_rewards_that_were_replaced_are_gone():
    zeros = np.zeros(2, np.float32)
    base = Labels(rewards=zeros, returns=zeros, success=True, about={"a": 1, "b": 1})
    assert Labels(rewards=zeros).over(base).returns is None
    both = Labels(weights=zeros, about={"b": 2}).over(base)
    assert both.returns is zeros and both.success is True and both.about == {"a": 1, "b": 2}


def test_one_writer_of_labels_while_episodes_are_recorded(store):
    recording, labelling = EpisodeStore.open(store.path, "a"), LabelStore.create(store, "mine", Origin("x"))
    with recording, labelling, pytest.raises(StoreError, match="is being written by process"):
        LabelStore.create(store, "other", Origin("x"))
    LabelStore.create(store, "other", Origin("x")).close()


def test_a_crashed_writer_leaves_nothing_that_a_reader_takes_for_labels(tmp_path):
    store = make_store(tmp_path / "s", "manifest", (4, 3))
    first, second = store.names()
    run(store)
    folder, mark = store.path / "labels/mine" / second, store.path / "labels/.staging/mine" / second
    (folder / "manifest.json").unlink()  # as it lies there before the last file is written
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_bytes(b"")
    assert LabelStore.open(store, "mine").episodes() == [first] and verify(store) == []
    assert run(store).labelled == 1
    assert LabelStore.open(store, "mine").read(second).rewards.tolist() == [0, 0, 0] and not mark.exists()


def test_a_remote_store_can_be_trained_on_with_its_labels_and_not_labelled(store):
    fsspec = pytest.importorskip("fsspec")
    run(store)
    remote = fsspec.filesystem("memory")
    remote.put(str(store.path), "/labelled", recursive=True)
    try:
        there = EpisodeStore.open("memory://labelled")
        assert names(there) == ["mine"] and verify(there) == []
        name = there.names()[0]
        assert LabelStore.open(there, "mine").read(name).rewards.tolist() == [0, 0, 0, 1]
        with pytest.raises(StoreError, match="can only be read; take a local copy"):
            run(there, name="new")
    finally:
        remote.rm("/labelled", recursive=True)


@dataclass(frozen=True)
class Sees:
    """A labeler that notes whether it got images and decisions."""

    seen: tuple = ()

    def build(self):
        return self

    def fit(self, episodes):
        pass

    def label(self, name, episode):
        return Labels(about={"images": len(episode.images), "decisions": len(episode.decisions)})


@pytest.mark.parametrize("wanted", [False, True])
def test_images_come_only_to_labelers_that_ask(tmp_path, monkeypatch, wanted):
    spec = make_spec(cameras=("front",))
    with EpisodeStore.create(tmp_path / "s", spec) as store:
        name = store.append(make_episode(spec, 3, decisions=2))
    monkeypatch.setattr(components, "load", lambda kind, name: type("Module", (), {"IMAGES": wanted}))
    label(store, "mine", Sees(), "mine", progress=False)
    assert LabelStore.open(store, "mine").read(name).about == {"images": int(wanted), "decisions": 0}


def test_the_summary_says_what_changed(store):
    text = run(store, "minus_one").to_text()
    assert "3 episodes labelled, 0 were already" in text and "3 episodes, 12 steps" in text
    assert "->  -2 (-3 to -1)" in text and "terminated   2  ->  2 of 3" in text and "success      2 of 3 known" in text
    effects = run(store, "success_filter", name="wins").effects
    assert effects.effective == pytest.approx(9) and (effects.weights == 0).sum() == 3
    weights = np.array([1, 1, 2.0])
    assert replace(effects, weights=weights).effective == pytest.approx(16 / 6)  # mutation: sum w / max w


def test_training_reads_the_labels_it_was_told(store, monkeypatch, tmp_path):
    run(store, "minus_one", name="costs")
    run(store, "monte_carlo", name="mc", config=monte_carlo.Config(gamma=0.9), base="costs")
    seen = {}
    monkeypatch.setattr(fitting, "train_offline", lambda *given: seen.update(zip("lstv", given, strict=True)))
    monkeypatch.setattr(fitting, "learner_for", lambda model, *_: SimpleNamespace(model=model))
    training = TrainConfig(folder=str(tmp_path / "run"), batch_size=64, steps=1, device="cpu", progress=False)
    windowing = fitting.Windowing(horizon=2, labels="mc")
    fitting.fit(fitting.Job(str(store.path), qc.Config(gamma=0.9, hidden=(8,)), training, windowing))
    batch = seen["s"].sample()
    assert set(batch.rewards.unique().tolist()) <= {-1, 0}
    statistics = seen["l"].model.statistics["return"]
    assert (statistics.low.item(), statistics.high.item()) == pytest.approx((-10, 0))
    with pytest.raises(ValueError, match=r"discounted by the critic's gamma 0\.5, got 0\.9"):
        fitting.fit(fitting.Job(str(store.path), qc.Config(gamma=0.5), training, windowing))


def test_every_labelers_config_is_plain_values():
    """It is stored as JSON and compared with what is asked for the next time."""
    for module in (minus_one, monte_carlo, return_weights, terminal_success):
        assert json.loads(json.dumps(asdict(module.Config()))) == asdict(module.Config())


def test_the_page_has_every_labeler_and_only_commands_that_exist():
    # mutation: delete a row of the table, or write --labeler.horizon=3
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in components.names("labelers") if f"| `{name}` |" not in text] == []
    for line in re.findall(r"^robot-value (data label|train) (.*)$", text, re.MULTILINE):
        _, words = flags.positional(line[1].split())
        command, choices = (Label, LABELER) if line[0] == "data label" else (train.Train, train.CHOICES)
        flags.parse(command, words, choices)


def test_an_edited_origin_is_found_before_any_episode_is_read(store):
    LabelStore.create(store, "mine", Origin("minus_one", {"H": 3})).close()
    root = store.path / "labels/mine/zarr.json"
    root.write_text(root.read_text().replace('"H": 3', '"H": 4'))
    with pytest.raises(LabelsDamaged, match="expected an origin of labels, got an origin with sha256"):
        LabelStore.open(store, "mine")
