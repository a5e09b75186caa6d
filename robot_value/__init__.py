"""robot_value: value-guided steering of chunked robot policies, in simulation, in replay and on real arms."""

from pathlib import Path

__version__ = "0.1.0"

# sim/, ros_nodes/ and datasets/ are subpackages of robot_value: in a checkout they lie beside us, installed inside us.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "package.xml").is_file():
    __path__.append(str(_checkout))
