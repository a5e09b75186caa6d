"""A fleet's worker process: `python -m robot_value.sim.fleet_worker FD`, one Simulator behind one socket.

A fresh interpreter instead of multiprocessing's spawn: the parent's main module is not imported again (it may hold
torch, or be a notebook), no threads or locks are inherited, and no helper process outlives the fleet.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which closes us
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    serve(Connection(int(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # at once: nothing of ours outlives the process, and a closing fleet waits for it


def serve(connection: Connection) -> None:
    """First sys.path, then (config, driver), then lists of calls on Rows, which are answered in order."""
    try:
        sys.path[:] = connection.recv()
        from .fleet_rows import Rows

        config, driver = connection.recv()  # may need the path to be imported
        rows = Rows(config.simulator(), driver)
        _send(connection, ("done", [rows.hello()]))
        while True:
            calls = connection.recv()
            _send(connection, ("done", [getattr(rows, name)(*arguments) for name, *arguments in calls]))
    except (EOFError, ConnectionError):
        return  # the parent closed the fleet or died
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}", traceback.format_exc()))


def _send(connection: Connection, message: tuple) -> None:
    connection.send_bytes(pickle.dumps(message, protocol=5))


def _die_with_parent(parent: int) -> None:
    """The socket's end tells too, but not while a fork of the parent still holds its copy."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
