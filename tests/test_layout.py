"""The repository's shape: import directions, what a wheel contains, and that Hugging Face `datasets` survives us."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"robot_value": "robot_value", "sim": "robot_value.sim", "ros_nodes": "robot_value.ros_nodes"}
FOLDERS["datasets"] = "robot_value.datasets"
SIBLINGS = ("sim", "ros_nodes", "datasets")
# Libraries of an extra, or slow to import: only inside the function or sibling that adapts them.
HEAVY = {"mujoco", "robosuite", "ogbench", "rclpy", "lerobot", "ray", "accelerate", "launch", "h5py", "cv2", "wandb"}
HEAVY |= {"av", "pyarrow", "PIL", "imagecodecs", "fsspec", "tensorstore", "selenium", "rerun", "foxglove"}
HEAVY |= {"diagnostic_msgs", "sensor_msgs", "trajectory_msgs", "std_msgs", "rosbags", "mink", "dm_control", "gymnasium"}
# Guard and recorder run on a small robot computer without torch.
WITHOUT_TORCH = ("types", "protocols", "components", "actions", "randomness", "safety", "braking", "guard", "wire")
WITHOUT_TORCH += ("episodes.store", "topics", "messages", "resampling", "serving.client")
WITHOUT_TORCH += ("ros_nodes.health", "ros_nodes.node_table", "ros_nodes.start", "ros_nodes.arm_robot")
# Of robot_value.deploy all but what steering needs.
WITHOUT_TORCH += tuple(
    f"deploy.{path.stem}"
    for path in sorted((ROOT / "robot_value" / "deploy").glob("*.py"))
    if path.stem not in ("__init__", "cautious", "steering_setup")
)
# `pieces` know nothing of what is built from them.
USERS = {"loop", "training", "evaluate", "collect", "cli", "commands", "report"}
TOPS = {"evaluate", "cli", "commands", "report"}


def modules(folder):
    """{dotted name: path}; a folder's own files only."""
    return {
        ".".join([FOLDERS[folder], *path.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


@cache
def imports(path, name, module_level):
    """Absolute dotted names a module imports, `a.b` for `from a import b`; TYPE_CHECKING blocks are not imports."""
    tree = ast.parse(path.read_text(), str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found, todo = set(), list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif not (module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            todo += ast.iter_child_nodes(node)
    return found


def offenders(folder, wrong, module_level=False, within=""):
    """["module imports name"] where `wrong(name)`."""
    return [
        f"{name} imports {imported}"
        for name, path in modules(folder).items()
        if name.startswith(f"{FOLDERS[folder]}{within}")
        for imported in sorted(imports(path, name, module_level))
        if wrong(imported)
    ]


def below(imported, *packages):
    return any(imported == package or imported.startswith(f"{package}.") for package in packages)


# -- import directions ------------------------------------------------------------------------------------------------


def test_the_core_never_imports_sim_ros_nodes_or_datasets():
    # mutation: `from robot_value.sim import simulator` inside any function of robot_value/
    siblings = [FOLDERS[sibling] for sibling in SIBLINGS]
    assert offenders("robot_value", lambda name: below(name, *siblings)) == []


@pytest.mark.parametrize("folder", SIBLINGS)
def test_siblings_never_import_each_other(folder):
    # mutation: `from robot_value.ros_nodes import health` in sim/fleet.py
    others = [FOLDERS[other] for other in SIBLINGS if other != folder]
    assert offenders(folder, lambda name: below(name, *others)) == []


def test_nobody_imports_the_folders_by_their_bare_names():
    # mutation: `import sim` anywhere; `datasets` by itself is Hugging Face's
    for folder in FOLDERS:
        assert offenders(folder, lambda name: below(name, "sim", "ros_nodes", "tests", "benchmarks")) == []


def test_heavy_libraries_are_imported_where_they_are_needed():
    # mutation: `import mujoco` at the top of robot_value/evaluate.py
    assert offenders("robot_value", lambda name: name.partition(".")[0] in HEAVY, module_level=True) == []


def test_types_import_nothing_of_ours_and_protocols_only_types():
    # mutation: `from .components import load` in types.py
    core = modules("robot_value")
    ours = {name: imports(core[name], name, False) for name in ("robot_value.types", "robot_value.protocols")}
    assert not [name for name in ours["robot_value.types"] if below(name, "robot_value")]
    used = [name for name in ours["robot_value.protocols"] if below(name, "robot_value")]
    assert used and all(below(name, "robot_value.types") for name in used)


def test_critics_and_policies_never_import_each_other():
    # mutation: `from robot_value.policies import flow` in critics/iql.py
    assert offenders("robot_value", lambda name: below(name, "robot_value.policies"), within=".critics") == []
    assert offenders("robot_value", lambda name: below(name, "robot_value.critics"), within=".policies") == []


def test_steering_and_the_loop_know_only_protocols():
    # mutation: `from robot_value.critics import iql` in steering/steerer.py
    concrete = ("robot_value.policies", "robot_value.critics")
    assert offenders("robot_value", lambda name: below(name, *concrete), within=".steering") == []
    assert offenders("robot_value", lambda name: below(name, *concrete), within=".loop") == []


def test_imports_flow_from_types_to_the_command_line():
    # mutation: `from ..training import train_offline` in critics/iql.py
    users = [f"robot_value.{name}" for name in sorted(USERS)]
    for piece in (".critics", ".policies", ".networks", ".episodes", ".sampling", ".normalize", ".checkpoint"):
        assert offenders("robot_value", lambda name: below(name, *users, "robot_value.steering"), within=piece) == []
    tops = [f"robot_value.{name}" for name in sorted(TOPS)]
    for piece in (".steering", ".loop", ".training"):
        assert offenders("robot_value", lambda name: below(name, *tops), within=piece) == []


WITHOUT = """
import importlib, sys
sys.modules["torch"] = None  # importing it fails
for name in sys.argv[1:]:
    importlib.import_module(f"robot_value.{name}")
print("started")
"""


def test_guard_recorder_and_health_start_without_torch():
    # mutation: `import torch` in types.py or safety.py
    assert "started" in python("-c", WITHOUT, *WITHOUT_TORCH, cwd=ROOT)


# -- files and names --------------------------------------------------------------------------------------------------


def test_datasets_launch_and_tests_are_no_packages():
    # mutation: touch datasets/__init__.py
    for folder in ("datasets", "launch", "tests"):
        assert list((ROOT / folder).rglob("__init__.py")) == []


def test_no_module_carries_the_name_of_a_library():
    # mutation: touch sim/robosuite.py
    installed = {name.lower() for name in HEAVY | {"torch", "zarr", "numpy", "scipy", "datasets", "diffusers"}}
    installed |= sys.stdlib_module_names
    for folder in SIBLINGS:
        names = {path.stem for path in (ROOT / folder).rglob("*.py")} - {"__init__"}
        assert names & installed == set()
        assert [path for path in (ROOT / folder).iterdir() if path.is_dir() and list(path.glob("*.py"))] == []


def test_the_three_folders_are_subpackages_in_the_checkout():
    # mutation: drop the __path__ line of robot_value/__init__.py
    code = "import sys, importlib.util as u; print([u.find_spec(f'robot_value.{n}') is not None for n in sys.argv[1:]])"
    assert python("-c", code, *SIBLINGS, cwd=ROOT).strip() == "[True, True, True]"


def test_every_script_is_an_executable_wrapper_of_a_nodes_main():
    # mutation: chmod -x ros_nodes/scripts/doctor_node
    for script in (ROOT / "ros_nodes" / "scripts").iterdir():
        lines = script.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env python3" and len(lines) == 4 and os.access(script, os.X_OK)
        assert f"from robot_value.ros_nodes.{script.name} import main" in lines
        assert f"{script.name} = robot_value.ros_nodes.{script.name}:main" in (ROOT / "setup.py").read_text()


# -- the wheel --------------------------------------------------------------------------------------------------------


def python(*arguments, cwd, executable=sys.executable):
    """Standard output of a fresh interpreter with nothing inherited from this one's environment."""
    inherited = ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "AMENT_PREFIX_PATH")
    variables = {key: value for key, value in os.environ.items() if key not in inherited}
    variables |= {"HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"}
    done = subprocess.run([executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout without what building would leave in it."""
    skip = shutil.ignore_patterns(
        ".*", "outputs", "build", "dist", "*.egg-info", "__pycache__", "install", "log", "docs"
    )
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("tree") / "robot_value", ignore=skip)


@pytest.fixture(scope="module")
def wheel(tree):
    arguments = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tree.parent), str(tree))
    python("-m", "pip", *arguments, cwd=tree.parent)
    return next(tree.parent.glob("*.whl"))


def test_the_wheel_has_no_generic_top_level_names(wheel):
    # mutation: drop package_dir from setup.py and list "sim" itself
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "robot_value",
        "robot_value-0.1.0.dist-info",
        "robot_value-0.1.0.data",
    }
    for folder in SIBLINGS:
        files_here = {path.name for kind in ("*.py", "*.xml") for path in (ROOT / folder).glob(kind)}
        assert files_here == {name.split("/")[2] for name in names if name.startswith(f"robot_value/{folder}/")}
    assert not [
        name for name in names if name.startswith(("robot_value/tests", "robot_value/setup", "robot_value/launch"))
    ]


def test_the_wheel_serves_ros2_launch(wheel):
    # mutation: drop a data_files line from setup.py
    data = "robot_value-0.1.0.data/data/"
    names = {name.removeprefix(data) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(data)}
    launches = {f"share/robot_value/launch/{path.name}" for path in (ROOT / "launch").glob("*.launch.py")}
    parameters = {f"share/robot_value/launch/params/{path.name}" for path in (ROOT / "launch/params").glob("*.yaml")}
    scripts = {f"lib/robot_value/{path.name}" for path in (ROOT / "ros_nodes/scripts").iterdir()}
    index = {"share/ament_index/resource_index/packages/robot_value", "share/robot_value/package.xml"}
    assert launches and scripts and launches | parameters | scripts | index <= names


HUGGING_FACE = """
import datasets, pathlib, sys
assert len(datasets.Dataset.from_dict({"x": [1, 2]})) == 2 and callable(datasets.load_dataset)
assert pathlib.Path(datasets.__file__).is_relative_to(sys.argv[1]), datasets.__file__
print("hugging face")
"""
HERE = "import robot_value.sim, robot_value.ros_nodes, robot_value.sim.simulator as s; print(s.__file__)"


def test_hugging_face_datasets_survives_our_checkout_our_wheel_and_its_removal(wheel, tree, tmp_path):
    # mutation: touch datasets/__init__.py (checkout), and with it package "datasets" in setup.py (wheel)
    theirs = Path(sysconfig.get_path("purelib"))
    if not (theirs / "datasets" / "arrow_dataset.py").exists():  # importorskip would find our own folder and skip
        pytest.skip('needs Hugging Face datasets (extra "lerobot")')
    python("-c", HUGGING_FACE, str(theirs), cwd=ROOT)
    venv = tmp_path / "venv"
    python("-m", "venv", "--without-pip", str(venv), cwd=tmp_path)
    executable = str(venv / "bin" / "python")
    site = Path(
        python(
            "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path, executable=executable
        ).strip()
    )
    shutil.copytree(theirs / "datasets", site / "datasets")  # where an install could overwrite it
    (site / "libraries.pth").write_text(f"{theirs}\n")
    before = {path: path.read_bytes() for path in (site / "datasets").rglob("*.py")}
    pip = ("-m", "pip", "--quiet", "--python", executable)
    python(*pip, "install", "--no-deps", str(wheel), cwd=tmp_path)
    python("-c", HUGGING_FACE, str(site), cwd=tmp_path, executable=executable)
    assert python("-c", HERE, cwd=tmp_path, executable=executable).strip().startswith(str(site / "robot_value"))
    assert python("-c", HERE, cwd=tree, executable=executable).strip() == str(tree / "sim" / "simulator.py")
    python(*pip, "uninstall", "--yes", "robot_value", cwd=tmp_path)
    assert {path: path.read_bytes() for path in (site / "datasets").rglob("*.py")} == before
    assert not (site / "robot_value").exists()


@pytest.mark.skipif(
    shutil.which("colcon") is None, reason="colcon is not on PATH (pip install colcon-common-extensions)"
)
@pytest.mark.parametrize("how", ["", "--symlink-install"])
def test_colcon_sees_an_ament_package_and_installs_launch_files_and_nodes(tree, tmp_path, how):
    # mutation: a maintainer without an e-mail in package.xml
    shutil.copytree(tree, tmp_path / "src" / "robot_value")
    listed = subprocess.run(["colcon", "list"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "(ros.ament_python)" in listed.stdout, listed.stdout + listed.stderr
    command = ["colcon", "build", *how.split()]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    prefix = tmp_path / "install" / "robot_value"
    assert (prefix / "share/robot_value/launch/doctor.launch.py").exists()
    assert (prefix / "share/robot_value/hook/ament_prefix_path.sh").exists()
    assert os.access(prefix / "lib/robot_value/doctor_node", os.X_OK)
