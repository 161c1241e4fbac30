"""The house's rules, held by reading imports with ast; each rule is tried on planted violations."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("sft", "reward", "ppo", "feedback_ui")
FOLDERS = ("prefloop", *STAGES, "launch")
# Who alone may import a package; None is nobody.
ONLY_IN = {"gradio": ("feedback_ui/",), "fastapi": ("feedback_ui/", "reward/serve.py"),
           "uvicorn": ("feedback_ui/", "reward/serve.py"), "bitsandbytes": ("prefloop/models.py",), "pickle": ()}
HEAVY = ("torch", "transformers", "trl", "peft", "gradio", "datasets", "bitsandbytes", "accelerate", "fastapi")
LINES, FUNCTION_LINES = 420, 60


def imports(tree: ast.AST, path: str) -> Iterator[tuple[str, int]]:
    """Dotted names of everything imported, relative imports made absolute, with line numbers."""
    package = [*([] if path.startswith("prefloop/") else ["prefloop"]), *Path(path).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """What `path` (relative to the root) breaks."""
    tree, found = ast.parse(source), []
    home = Path(path).parts[0]
    for name, line in imports(tree, path):
        where = f"{path}:{line}: {name}"
        parts = name.split(".")
        other = parts[1] if parts[0] == "prefloop" and len(parts) > 1 else ""
        if home in STAGES and other in (*STAGES, "launch") and other != home:
            found.append(f"{where}: a stage imports another stage")
        if home == "prefloop" and path != "prefloop/cli.py" and other in (*STAGES, "launch"):
            found.append(f"{where}: the floor imports a stage")
        if home != "launch" and "world" in parts:
            found.append(f"{where}: only launch/ knows the world")
        if parts[0] in STAGES or parts[0] == "launch":
            found.append(f"{where}: stages are imported as prefloop.{parts[0]}")
        if parts[0] in ONLY_IN and not path.startswith(ONLY_IN[parts[0]] or ("-",)):
            found.append(f"{where}: not allowed here")
        if home == "feedback_ui" and parts[0] in ("torch", "transformers", "peft", "trl"):
            found.append(f"{where}: the page's process never imports torch")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.append(f"{path}:{node.value.lineno}: trust_remote_code is never set")
        if isinstance(node, ast.Global):
            found.append(f"{path}:{node.lineno}: module state")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load" and not any(
                k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords):
            found.append(f"{path}:{node.lineno}: torch.load without weights_only=True")
    if source.count("\n") > LINES:
        found.append(f"{path}: {source.count(chr(10))} lines")
    if Path(path).name == "utils.py":
        found.append(f"{path}: say what it is for")
    return found


def sources() -> list[Path]:
    return sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_breaks_a_rule(path: Path) -> None:
    assert violations(str(path.relative_to(ROOT)), path.read_text()) == []


@pytest.mark.parametrize(("path", "source"), [
    ("sft/train.py", "from prefloop.reward import loss"),
    ("ppo/train.py", "def f():\n    import prefloop.sft.train"),
    ("ppo/train.py", "from ..reward import loss"),
    ("prefloop/runs.py", "from prefloop.ppo import train"),
    ("prefloop/runs.py", "from prefloop import sft"),
    ("reward/train.py", "from prefloop.launch.world import grammar"),
    ("reward/train.py", "from reward import loss"),
    ("prefloop/runs.py", "import gradio as gr"),
    ("reward/train.py", "from fastapi import FastAPI"),
    ("ppo/train.py", "import bitsandbytes"),
    ("prefloop/models.py", "import pickle"),
    ("feedback_ui/app.py", "def f():\n    from torch import nn"),
    ("prefloop/models.py", "load(x, trust_remote_code=False)"),
    ("prefloop/models.py", "import torch\ntorch.load('x')"),
    ("prefloop/models.py", "import torch\ntorch.load('x', weights_only=False)"),
    ("prefloop/x.py", "def f():\n    global state\n    state = 1"),
    ("prefloop/x.py", "x = 1\n" * (LINES + 1)),
    ("prefloop/x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
    ("prefloop/utils.py", ""),
])
def test_planted_violations_are_found(path: str, source: str) -> None:
    assert violations(path, source)


@pytest.mark.parametrize(("path", "source"), [
    ("reward/train.py", "from . import loss\nfrom .groups import Batch\nfrom prefloop import models"),
    ("launch/demo.py", "from prefloop.launch.world import grammar\nfrom prefloop.feedback_ui import assignment"),
    ("prefloop/cli.py", "import prefloop.sft.train"),
    ("prefloop/models.py", "import torch\ntorch.load('x', weights_only=True)"),
])
def test_what_is_allowed_is_not_reported(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_the_command_line_answers_without_heavy_imports() -> None:
    code = ("import sys; from prefloop.cli import main; main(['--help']); main(['sftt']);"
            f"print([m for m in {HEAVY!r} if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout
    assert "did you mean sft?" in done.stderr


def test_every_command_names_a_module_that_exists() -> None:
    from importlib.util import find_spec

    from prefloop.cli import COMMANDS

    missing = [module for module, _ in COMMANDS.values() if module and find_spec(module) is None]
    assert missing == []
