"""Loads what it is told to, line by line, and answers what came of it. A parent kills it when it is silent too long."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_loaders import answers, loaders


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries that print do not answer for us
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    known = loaders()
    print(json.dumps({"peak": peak()}), file=channel, flush=True)
    for line in sys.stdin:
        loader, path = json.loads(line)
        print(json.dumps(outcome(known[loader], Path(path)) | {"peak": peak()}), file=channel, flush=True)


def outcome(load, path: Path) -> dict:
    began = time.process_time()
    end, said = _end(load, path)
    return {"end": end, "said": said, "seconds": time.process_time() - began}


def _end(load, path: Path) -> tuple[str, str]:
    try:
        load(path)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:300]
        return "refused" if answers(error, path) else "foreign", said
    return "loaded", ""


def peak() -> int:
    """MB of memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
