"""tools/bootstrap.sh on machines that lack things: stand-ins for what it asks and calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import ROOT

TOOLS = (
    "bash", "cat", "chmod", "cp", "dirname", "env", "id", "mkdir", "nproc", "rm", "sha256sum",
    "touch",
)  # fmt: skip
FILES = ("requirements.lock", "requirements-test.lock", "pyproject.toml", "setup.py")
PACKAGES = "python3-venv python3-dev gcc libc6-dev libssl-dev"


class Machine:
    """A folder with a copy of the script, and a PATH that holds only what is put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.path = str(self.bin)
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        (folder / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "bootstrap.sh", folder / "tools")
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        (folder / "dataplane").mkdir()
        (folder / "dataplane" / "_one.pyx").write_text("# one")

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / "bash"), str(self.folder / "tools" / "bootstrap.sh"), *words],
            env={"PATH": self.path, "LOG": str(self.folder / "log")},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []


# A Python that is fit, makes venvs out of itself, and writes down what is asked of it.
FIT_PYTHON = """
case "$1" in
-) exit 0 ;;
-c) exit 0 ;;
--version) echo "Python 3.11.2"; exit 0 ;;
esac
echo "python $*" >>"$LOG"
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
fi
case "$*" in
*build_ext*) for source in dataplane/*.pyx; do touch "${source%.pyx}.here.so"; done ;;
*"-e ."*) touch .venv/bin/narthex; chmod +x .venv/bin/narthex ;;
esac
"""

# Prefixed to what stands for the compiler: what it makes says how it was asked.
SAY_KIND = 'for one in dataplane/*.pyx; do echo "debug=$NARTHEX_DEBUG" >"${one%.pyx}.here.so"; done'


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_bootstrap_says_what_to_install_when_not_root(machine: Machine) -> None:
    machine.command("id", "echo 1000")
    machine.command("apt-get", 'echo "apt-get $*" >>"$LOG"')
    done = machine.run()
    assert done.returncode == 1
    assert f"sudo apt-get install {PACKAGES}" in done.stderr
    assert machine.log() == []


def test_bootstrap_says_what_to_install_when_there_is_no_apt(machine: Machine) -> None:
    machine.command("id", "echo 0")
    done = machine.run()
    assert done.returncode == 1
    for thing in ("Python 3.11, 3.12 or 3.13 with venv and headers", "gcc", "OpenSSL's headers"):
        assert f"missing: {thing}" in done.stderr


def test_bootstrap_names_only_what_is_missing(machine: Machine) -> None:
    machine.command("id", "echo 1000")
    machine.command("python3.11", FIT_PYTHON)
    machine.command("gcc", 'case "$(cat)" in *openssl*) exit 1 ;; esac')
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "narthex: missing: OpenSSL's headers",
        "narthex: on Debian or Ubuntu: sudo apt-get install libssl-dev",
    ]


def test_bootstrap_shows_why_apt_failed(machine: Machine) -> None:
    machine.command("id", "echo 0")
    machine.command("apt-get", "echo 'E: no room'; exit 100")
    done = machine.run()
    assert done.returncode == 1
    assert "E: no room" in done.stderr
    assert f"apt-get install {PACKAGES} failed" in done.stderr


def test_bootstrap_says_what_apt_did_not_bring(machine: Machine) -> None:
    """A Debian whose Python is too old."""
    machine.command("id", "echo 0")
    machine.command("gcc", "exit 0")
    machine.command("apt-get", "exit 0")
    done = machine.run()
    assert done.returncode == 1
    assert "missing: Python 3.11, 3.12 or 3.13" in done.stderr
    assert "gcc" not in done.stderr


def test_bootstrap_installs_as_root_and_goes_on(machine: Machine) -> None:
    machine.command("id", "echo 0")
    machine.command("stand-in", FIT_PYTHON)
    machine.command(
        "apt-get",
        'echo "apt-get $*" >>"$LOG"\n'
        f'case "$*" in *" install "*) cp {machine.bin}/stand-in {machine.bin}/python3.11; '
        f"cp {machine.bin}/id {machine.bin}/gcc ;; esac",
    )
    done = machine.run()
    assert done.returncode == 0, done.stderr
    apt = [line for line in machine.log() if line.startswith("apt-get")]
    assert len(apt) == 2 and apt[0].endswith(" update")
    assert apt[1].endswith(f"install -y --no-install-recommends {PACKAGES}")


def test_bootstrap_passes_over_python_that_cannot_make_a_venv(machine: Machine) -> None:
    """A pyenv shim of a version that is not there, and Debian's python3 without venv."""
    machine.command("gcc", "exit 0")
    machine.command("python3.11", 'echo "pyenv: python3.11: command not found" >&2; exit 127')
    machine.command("python3", "exit 1")
    machine.command("python3.12", FIT_PYTHON)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    venv, install, build, project = machine.log()
    assert venv == "python -m venv .venv"
    assert "--no-deps --require-hashes -r requirements.lock" in install
    assert build.startswith("python setup.py -q build_ext --inplace")
    assert "--no-deps" in project and "--no-index" in project and project.endswith("-e .")


def test_bootstrap_finds_a_python_behind_a_shim_of_the_same_name(
    machine: Machine, tmp_path: Path
) -> None:
    shims = tmp_path / "pyenv shims"
    shims.mkdir()
    machine.command("gcc", "exit 0")
    machine.command("python3.11", FIT_PYTHON)
    (machine.bin / "python3").symlink_to("python3.11")
    for name in ("python3", "python3.11"):
        (shims / name).write_text("#!/nonexistent/pyenv\n")
        (shims / name).chmod(0o755)
    machine.path = f"{shims}{os.pathsep}{machine.bin}"
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.log()[0] == "python -m venv .venv"


def test_bootstrap_does_nothing_when_nothing_changed(machine: Machine) -> None:
    machine.command("gcc", "exit 0")
    machine.command("python3.11", FIT_PYTHON)
    assert machine.run().returncode == 0
    machine.command("touch", "exit 0")
    before = machine.log()
    again = machine.run()
    assert (again.returncode, again.stderr) == (0, "")
    assert machine.log() == before


def test_bootstrap_compiles_again_when_a_source_changed(machine: Machine) -> None:
    machine.command("gcc", "exit 0")
    machine.command("python3.11", FIT_PYTHON)
    assert machine.run().returncode == 0
    (machine.folder / "dataplane" / "_new.pyx").write_text("# new")
    before = machine.log()
    assert machine.run().returncode == 0
    (build,) = machine.log()[len(before) :]
    assert "build_ext" in build and "--force" not in build


def test_bootstrap_compiles_again_when_the_engine_was_deleted(machine: Machine) -> None:
    machine.command("gcc", "exit 0")
    machine.command("python3.11", FIT_PYTHON)
    assert machine.run().returncode == 0
    engine = machine.folder / "dataplane" / "_one.here.so"
    engine.unlink()
    assert machine.run().returncode == 0
    assert engine.exists()


def test_bootstrap_compiles_each_kind_of_engine_once(machine: Machine) -> None:
    """`make run` and `make test` taking turns; and no file of one kind left in the other."""
    machine.command("gcc", "exit 0")
    machine.command("python3.11", FIT_PYTHON.replace("*build_ext*)", f"*build_ext*) {SAY_KIND};"))
    engine = machine.folder / "dataplane" / "_one.here.so"
    for word, kind in (("run", ""), ("test", "1"), ("run", ""), ("test", "1")):
        done = machine.run(word)
        assert done.returncode == 0, done.stderr
        assert engine.read_text() == f"debug={kind}\n"
    builds = [line for line in machine.log() if "build_ext" in line]
    assert len(builds) == 2 and all("--force" in line for line in builds)

    assert machine.run("run").returncode == 0
    (machine.folder / "dataplane" / "_one.pyx").write_text("# changed")
    assert machine.run("run").returncode == 0
    assert "--force" in machine.log()[-1]  # the objects in build/ are of the other kind


def test_bootstrap_installs_again_when_the_folder_moved(machine: Machine, tmp_path: Path) -> None:
    """.venv/bin/narthex begins with the path of its Python."""
    machine.command("gcc", "exit 0")
    machine.command("python3.11", FIT_PYTHON)
    assert machine.run().returncode == 0
    before = len(machine.log())
    moved = tmp_path / "moved here"
    moved.mkdir()
    for name in (".venv", "build", "dataplane", "tools", *FILES):
        (machine.folder / name).rename(moved / name)
    machine.folder, log = moved, machine.folder / "log"
    assert machine.run().returncode == 0
    assert machine.log() and all(line.endswith("-e .") for line in machine.log())
    assert len(log.read_text().splitlines()) == before


def test_bootstrap_shows_why_the_engine_did_not_compile(machine: Machine) -> None:
    machine.command("gcc", "exit 0")
    failing = 'case "$*" in *build_ext*) echo "error: no such thing"; exit 1 ;; esac'
    machine.command("python3.11", f"{failing}\n{FIT_PYTHON}")
    done = machine.run()
    assert done.returncode == 1
    assert "error: no such thing" in done.stderr and "did not compile" in done.stderr
    assert machine.run().returncode == 1  # it is not taken for done
