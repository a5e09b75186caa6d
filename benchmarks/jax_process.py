"""The JAX reference in a process of its own, asked for one update at a time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

WORKER = Path(__file__).resolve().parent / "qc_reference.py"


class JaxProcess:
    """Raises RuntimeError where the process ends; what it said is on stderr."""

    def __init__(self, python: str, checkout: Path, actor_type: str, members: int, threads: int) -> None:
        command = [python, str(WORKER), str(checkout), actor_type, str(members)]
        pipe, env = subprocess.PIPE, os.environ | {"JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)
        # before the interpreter has read jax, whose thread pool is as large as the cores it may use
        os.sched_setaffinity(self.process.pid, sorted(os.sched_getaffinity(0))[:threads])
        self.version = self._answer()

    def update(self) -> None:
        print(1, file=self.process.stdin, flush=True)
        self._answer()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system, all threads

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _answer(self) -> str:
        if not (line := self.process.stdout.readline().strip()):
            raise RuntimeError(f"reference: expected an answer, got the end of the process ({self.process.args})")
        return line
