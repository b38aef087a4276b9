"""The extension list and its C flags; everything else is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = bool(os.environ.get("NARTHEX_DEBUG"))  # BUG_ON_HOT checks on, as the tests have it
# Set by tools/bootstrap.sh when it installs the metadata of a folder whose engine is built.
SKIP = bool(os.environ.get("NARTHEX_NO_EXTENSIONS"))
FLAGS = ["-O2", "-g", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
MORE = os.environ.get("NARTHEX_CFLAGS", "").split()  # behind ours: tools/sanitize.sh
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "nonecheck": False,
    "cdivision": True,
    "freethreading_compatible": False,
}

extensions = [
    Extension(
        f"dataplane.{source.stem}",
        [str(source)],
        libraries=["ssl", "crypto"],
        extra_compile_args=[*FLAGS, *(["-DNARTHEX_DEBUG=1"] if DEBUG else []), *MORE],
    )
    for source in sorted(Path("dataplane").glob("_*.pyx"))
    if not SKIP
]

setup(ext_modules=cythonize(extensions, nthreads=2, compiler_directives=DIRECTIVES))
