"""The three programs in C, compiled: upstream, load generator and relay."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COMPILER = "gcc"


class CannotCompile(Exception):
    """The programs cannot be made here; the text says why."""


@dataclass(frozen=True)
class Programs:
    """Where the compiled programs are."""

    upstream: Path
    loadgen: Path
    relay: Path


def compiled(directory: Path) -> Programs:
    """Compile the programs into a directory; raises `CannotCompile`."""
    names = ("upstream", "loadgen", "relay")
    return Programs(**{name: _compiled(name, directory) for name in names})


def _compiled(name: str, directory: Path) -> Path:
    gcc = shutil.which(COMPILER)
    if gcc is None:
        raise CannotCompile(f"{COMPILER} is not installed (Debian: apt-get install gcc libc6-dev)")
    program = directory / name
    command = [gcc, "-O2", "-o", str(program), str(HERE / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCompile(f"{COMPILER} cannot compile {name}.c: {done.stderr.strip()[:2000]}")
    return program
