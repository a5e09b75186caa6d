"""Keys from the terminal this process runs in, one at a time and without waiting."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty


class Terminal:
    """Raises ValueError where there is no terminal, as under ros2 launch: run the node in a terminal of its own."""

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise ValueError("keyboard: expected a terminal, got none; run `ros2 run robot_value teleop_node` in one")
        self._file = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)  # Ctrl-C still ends us

    def pressed(self) -> str:
        """Everything typed since the last call."""
        keys = ""
        while select.select([self._file], [], [], 0)[0] and (more := os.read(self._file, 64)):
            keys += more.decode(errors="ignore")
        return keys

    def close(self) -> None:
        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)
