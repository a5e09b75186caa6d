"""A wall clock that can be set without setting the machine's: a preloaded clock_gettime with an offset from a file.

    clock = WallClock(folder)
    graph.start("guard_node", variables=clock.variables)
    clock.jump(-3600.0)

Only CLOCK_REALTIME moves, as when somebody sets the time; compiled here with `cc`.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long *offset(void) {  /* ns */
    static volatile long long *shared, none;
    if (!shared) {
        int file = open(getenv("WALL_CLOCK_OFFSET"), O_RDONLY);
        void *page = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        shared = page == MAP_FAILED ? &none : page;
    }
    return shared;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (!code && id == CLOCK_REALTIME) {
        long long ns = t->tv_sec * 1000000000LL + t->tv_nsec + *offset();
        t->tv_sec = ns / 1000000000LL;
        t->tv_nsec = ns % 1000000000LL;
    }
    return code;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class WallClock:
    def __init__(self, folder: Path) -> None:
        compiler, library = shutil.which("cc"), folder / "wall_clock.so"
        if compiler is None:
            raise RuntimeError("expected a C compiler `cc` to make a wall clock that can be set, got none")
        (folder / "wall_clock.c").write_text(SOURCE)
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, folder / "wall_clock.c", "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self._file = folder / "wall_clock_offset"
        self._file.write_bytes(bytes(8))
        self.variables = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._file)}

    def jump(self, seconds: float) -> None:
        """From now on the wall clock is this far off."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", round(seconds * 1e9)))
