"""Components are found by file name; a wrong name is answered with the closest one, an error inside is not hidden."""

import sys

import pytest

from robot_value import components
from robot_value.components import UnknownComponent, load, names, unknown


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Write modules of a package `theirs` and make it importable."""
    (tmp_path / "theirs").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda file, text: (tmp_path / "theirs" / file).write_text(text)
    for name in [name for name in sys.modules if name.split(".")[0] == "theirs"]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["critics", "policies", "selectors", "gates"])
def test_every_component_of_ours_loads_and_has_a_config(kind):
    assert names(kind) == sorted(names(kind)) and names(kind)
    for name in names(kind):
        assert hasattr(load(kind, name), "Config"), name


def test_listing_imports_nothing():
    before = set(sys.modules)
    assert "robosuite" in names("robots")
    assert not {name for name in set(sys.modules) - before if name.endswith("_robot")}


def test_parts_that_components_share_are_not_components():
    assert "iql" in names("critics") and "heads" not in names("critics")


def test_an_unknown_name_is_answered_with_the_closest_match_and_the_list():
    with pytest.raises(UnknownComponent, match=r"no critics called 'iqll'; did you mean 'iql'\? known: .*iql"):
        load("critics", "iqll")
    with pytest.raises(UnknownComponent, match="no critics called 'heads'"):
        load("critics", "heads")
    with pytest.raises(UnknownComponent, match="no component kind called 'critic'; did you mean 'critics'"):
        load("critic", "iql")
    assert unknown("gates", "zzz", ["always"]) == "no gates called 'zzz'; known: always"
    assert unknown("proposers", "x", []) == "no proposers called 'x'; known: none"


def test_a_new_file_is_a_new_component(third_party, monkeypatch):
    third_party("__init__.py", "")
    third_party("mine.py", "\nclass Config:\n    pass\n")
    monkeypatch.setitem(components.KINDS, "critics", (("theirs", "absent_package"), ""))
    assert names("critics") == ["mine"]
    assert load("critics", "mine").Config


def test_a_dotted_path_loads_a_third_partys_module(third_party):
    third_party("__init__.py", "")
    third_party("my_critic.py", "class Config:\n    pass\n")
    assert load("critics", "theirs.my_critic").__name__ == "theirs.my_critic"
    for missing in ("theirs.your_critic", "nobody.critic", "theirs.my_critic.deeper"):
        with pytest.raises(UnknownComponent, match=f"no module '{missing}' for critics; a dotted name must be"):
            load("critics", missing)
    with pytest.raises(UnknownComponent, match="no component kind called 'nonsense'"):
        load("nonsense", "theirs.my_critic")


# mutation: in components._third_party drop the `raise` -> the missing library is hidden, this fails.
def test_errors_inside_a_module_surface_unchanged(third_party):
    third_party("broken.py", "class Config:\n    pass\nraise RuntimeError('out of paper')\n")
    with pytest.raises(RuntimeError, match=r"^out of paper$"):
        load("critics", "theirs.broken")
    third_party("needy.py", "import a_library_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        load("critics", "theirs.needy")


def test_a_missing_library_in_a_third_partys_package_surfaces_too(third_party):
    third_party("__init__.py", "import a_library_nobody_has\n")
    third_party("fine.py", "class Config:\n    pass\n")
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        load("critics", "theirs.fine")
