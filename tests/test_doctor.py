"""What doctor says of machines that lack things, and of configs that fit or do not."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from prefloop import cli, doctor, footprint
from prefloop.doctor import DoctorConfig, Finding

ROOT = Path(__file__).resolve().parent.parent


def said(findings: Iterator[Finding] | list[Finding], kind: str = "missing") -> str:
    return "\n".join(one.text for one in findings if one.kind == kind)


def test_a_machine_that_can_run_the_demo_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.launch("doctor", f"doctor.runs={ROOT / 'runs'}") == 0
    out = capsys.readouterr().out
    assert "This machine has:\n  Python 3." in out
    assert "NF4 (bitsandbytes) works" in out
    assert out.endswith("Ready: `make demo` can run here.\n")


@pytest.mark.parametrize(("code", "line"), [
    ("raise ImportError('libcudart is missing')", "torch: it cannot be imported (ImportError: libcudart is"),
    ("import os; os.abort()", "torch: it cannot be imported (it was killed"),
])
def test_a_torch_that_does_not_start_is_a_line(code: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DEVICES", code)
    (found,) = doctor.guarded(doctor.devices)
    assert found.text.startswith(line)
    assert found.essential


def test_a_bitsandbytes_that_does_not_start_leaves_the_gpus_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DEVICES", """if True:
        print('{"torch": "2.13", "built": "13.0", "threads": 2}')
        print('{"gpus": [{"name": "T4", "free": 3000000000, "total": 16000000000, "major": 7}]}', flush=True)
        import os; os.abort()""")
    found = doctor.guarded(doctor.devices)
    assert "GPU 0: T4, 3.0 of 16.0 GB free, no bf16" in said(found, "has")
    assert "older than Ampere" in said(found, "slow")
    assert "hold much of its memory" in said(found, "slow")
    assert "NF4: bitsandbytes does not work here" in said(found)
    assert not any(one.essential for one in found)


def test_a_build_of_torch_for_cpus_is_told_apart_from_an_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor, "driver", lambda: ", driver 450.1")
    assert "built for CPUs only" in said(doctor.gpus({"gpus": [], "torch": "2.13.0+cpu", "built": None}))
    assert "the driver, driver 450.1 too old" in said(doctor.gpus({"gpus": [], "torch": "2.13", "built": "13.0"}))


def test_a_probe_that_breaks_says_what_it_found_before() -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("has", "one")
        raise ValueError("two\nlines")

    assert [one.text for one in doctor.guarded(broken)] == [
        "one", "one thing could not be looked at: ValueError: two lines"]


@pytest.mark.parametrize(("version", "kind", "line"), [
    ((3, 36, 0), "missing", "SQLite 3.37 or newer"), ((3, 40, 1), "has", "allows only one"),
    ((3, 51, 3), "has", "SQLite")])
def test_sqlite_by_version(version: tuple[int, ...], kind: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    (found,) = doctor.sqlite()
    assert (found.kind, line in found.text) == (kind, True)


def test_packages_outside_the_tried_ranges_or_absent_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "peft":
            raise doctor.PackageNotFoundError(name)
        return "99.0" if name == "torch" else "0"

    monkeypatch.setattr(doctor, "version", version)
    found = list(doctor.python_and_packages())
    assert "99.0 is installed, which was not tried" in said(found)
    assert [one.text for one in found if one.essential] == ["peft: run `make setup`"]


def test_a_port_in_use_and_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert "another program has it" in said(doctor.port(held.getsockname()[1]))
    assert "locks that hold" in said(doctor.folder(tmp_path / "not" / "there"), "has")

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    assert "the right to write" in said(doctor.folder(tmp_path))


@pytest.mark.parametrize(("folder", "gigabytes"), [("configs", 12), ("configs/8b", 24)])
@pytest.mark.parametrize("stage", ["sft", "generate", "reward", "score", "dpo", "ppo", "compare"])
def test_shipped_configs_fit_the_gpu_that_they_are_for(folder: str, gigabytes: int, stage: str) -> None:
    need, four_bit = doctor.fits(DoctorConfig(config=str(ROOT / folder / f"{stage}.yaml")))
    assert four_bit
    assert need.total < 0.9 * gigabytes * 1e9
    assert "It fits in" in doctor.judged((need, True), "x", int(gigabytes * 1e9))
    assert "It may not fit" in doctor.judged((need, True), "x", int(need.total * 1.05))
    assert "It does not fit" in doctor.judged((need, True), "x", int(need.total * 0.9))


def test_what_no_base_can_be_found_for_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ppo.yaml").write_text("model: {path: runs/none}\nreward: {path: x}\ndata: {path: y}\n")
    assert tiny.launch("doctor", f"doctor.config={tmp_path / 'ppo.yaml'}") == 2
    assert "name one as doctor.base" in capsys.readouterr().err
    assert tiny.launch("doctor", f"doctor.config={tmp_path / 'none.yaml'}") == 2
    assert "which stage is it for? Say doctor.stage" in capsys.readouterr().err
    assert tiny.launch("doctor", f"doctor.config={ROOT / 'configs/import.yaml'}") == 2
    assert "no plan is made for import; it takes configs of sft" in capsys.readouterr().err


def test_a_base_whose_config_is_broken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    asked = ("doctor", f"doctor.config={ROOT / 'configs/8b/ppo.yaml'}", f"doctor.base={tmp_path}")
    assert tiny.launch(*asked) == 2
    assert f"{tmp_path / 'config.json'}: hidden_size is missing" in capsys.readouterr().err


def test_a_larger_adapter_takes_more(tmp_path: Path) -> None:
    for rank in (16, 64):
        (tmp_path / f"{rank}.yaml").write_text(f"model: {{path: Qwen/Qwen3-8B, four_bit: true, lora_r: {rank}}}\n"
                                               "data: {path: x}\n")
    small, large = (doctor.fits(DoctorConfig(config=str(tmp_path / f"{rank}.yaml"), stage="sft"))[0]
                    for rank in (16, 64))
    assert large.adapters == 4 * small.adapters
    assert large.base == small.base == footprint.base_bytes(footprint.KNOWN["Qwen/Qwen3-8B"], footprint.ON_GPU)


def test_a_database_that_does_not_answer_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "doctor.store=postgresql+psycopg://nobody@127.0.0.1:1/x"]) == 1
    told = capsys.readouterr().out
    assert "postgresql+psycopg://nobody@127.0.0.1:1/x: cannot be reached" in told
    assert "Error" not in told
