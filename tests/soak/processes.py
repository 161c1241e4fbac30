"""make soak NAME=processes: several processes (DDP, FSDP, one of them killed), and two rounds of the loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", "--durations=10", str(TESTS / "test_ranks.py"),
                             str(TESTS / "test_loop.py")], env={**os.environ, "SOAK": "1"}).returncode)
