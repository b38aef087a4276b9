"""The extension list and its C flags; everything else is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = (
    "_core _http _frame _tables _tokens _tls _handshake _exchange _relay _worker".split()
)
DEBUG = bool(os.environ.get("NARTHEX_DEBUG"))  # BUG_ON_HOT checks on, as the tests have it
FLAGS = ["-O2", "-g", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]

extensions = [
    Extension(
        f"dataplane.{name}",
        [f"dataplane/{name}.pyx"],
        libraries=["ssl", "crypto"],
        extra_compile_args=[*FLAGS, *(["-DNARTHEX_DEBUG=1"] if DEBUG else [])],
    )
    for name in MODULES
    if Path(f"dataplane/{name}.pyx").exists()
]

setup(
    ext_modules=cythonize(
        extensions,
        nthreads=2,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "nonecheck": False,
            "cdivision": True,
            "freethreading_compatible": False,
        },
    )
)
