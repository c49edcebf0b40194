"""Settings for every test and for the kernels that nbmake starts: quick mode, one thread, no network."""

import os

os.environ.setdefault("E2VIT_MODE", "quick")
os.environ.setdefault("E2VIT_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel is that of this environment
# torch 2.4 checks its own types with beartype wherever that is installed, and fails on a newer onnxscript.
os.environ.setdefault("TORCH_ONNX_EXPERIMENTAL_RUNTIME_TYPE_CHECK", "DISABLED")


def pytest_make_parametrize_id(val):
    """Functions and groups by their names: the same in every process that runs tests."""
    return getattr(val, "__name__", None) or (str(val) if type(val).__name__ == "FiniteGroup" else None)
