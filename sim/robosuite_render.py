"""Headless pictures of a MuJoCo scene, with the settings that make software rendering cheap switched by the caller.

Resolution hardly matters below 224 pixels; multisampling and the shadow pass do (27 against 7 ms a frame).
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys

import mujoco
import numpy as np


class Renderer:
    """One GL context and scene for all cameras of a model; images are upright uint8[h, w, 3]."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, size: tuple[int, int], samples: int, shadows: bool):
        self._model, self._data, self._size = model, data, size
        height, width = size
        model.vis.quality.offsamples = samples
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        self._gl = gl_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        atexit.register(self.close)  # before the exit handler of the GL module, which was there first
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = shadows
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # robosuite's collision shapes
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def __call__(self, camera: str) -> np.ndarray:
        height, width = self._size
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, self._camera, everything, self._scene)
        view = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(view, self._scene, self._context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, view, self._context)
        return image[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        atexit.unregister(self.close)
        self._context.free()
        self._gl.free()


def gl_context(width: int, height: int):
    """MUJOCO_GL's context, EGL where it is unset on Linux; independent of how mujoco was first imported."""
    default = {"linux": "egl", "darwin": "cgl"}.get(sys.platform, "glfw")
    name = os.environ.setdefault("MUJOCO_GL", default).lower()
    if name not in ("egl", "osmesa", "glfw", "cgl"):
        raise ValueError(f"MUJOCO_GL: cameras need egl, osmesa, glfw or cgl, got {name!r}")
    try:
        return importlib.import_module(f"mujoco.{name}").GLContext(width, height)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise RuntimeError(
            f"cameras: no {name} rendering here ({error}); install libegl1 libgl1-mesa-dri, or set MUJOCO_GL=osmesa "
            "and install libosmesa6"
        ) from error
