"""What a process of ours has: memory, file descriptors, threads."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resident:
    """One look at /proc."""

    mb: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Resident":
        """Look at a process."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return cls(
            mb=round(int(status["VmRSS"].split()[0]) / 1024, 1),
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=int(status["Threads"]),
        )
