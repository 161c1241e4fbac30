"""A prefloop command on a GPU; its last line is a JSON object of what it took.

usage: python tests/gpu/measured.py COMMAND [CONFIG] [section.key=value ...]
"""

from __future__ import annotations

import json
import sys
import time

import torch

from prefloop.cli import main

if __name__ == "__main__":
    began = time.monotonic()
    code = main(sys.argv[1:])
    print(json.dumps({"command": sys.argv[1], "seconds": round(time.monotonic() - began, 1),
                      "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
                      "peak_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2)}), flush=True)
    sys.exit(code)
