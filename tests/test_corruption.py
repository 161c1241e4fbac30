"""Checkpoints, parents and snapshots of which one bit or one file is wrong, or which somebody hostile has sealed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_loop import Loop

from prefloop import checkpoints, models
from prefloop.errors import RequestError
from prefloop.formats import snapshot

STAGES = ("sft", "reward", "dpo", "ppo")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "one bit": flipped, "missing": Path.unlink, "empty": lambda path: path.write_bytes(b"")}


def damaged(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file of the folder, wrong in every way, one after another; put right again in between."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for name, damage in DAMAGE.items():
            if content or name == "missing":
                damage(path)
                yield path, name
        path.write_bytes(content)


@pytest.mark.parametrize("stage", STAGES)
def test_the_newest_that_verifies_is_taken_and_the_file_is_named(loop: Loop, tmp_path: Path, stage: str) -> None:
    run = shutil.copytree(loop.root / "runs" / stage, tmp_path / stage)
    tried = 0
    for path, name in damaged(run / "checkpoint-2"):
        reasons: list[RequestError] = []
        assert checkpoints.newest(run, reasons.append) == run / "checkpoint-1", (path, name)
        if path.name == checkpoints.MANIFEST and name == "missing":
            continue  # then it was never finished: see below
        assert str(path) in str(reasons[0]), (path, name)
        assert "\n" not in str(reasons[0])
        tried += 1
    assert tried > 20


@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_parent_is_refused_by_file(loop: Loop, tmp_path: Path, stage: str) -> None:
    run = shutil.copytree(loop.root / "runs" / stage, tmp_path / stage)
    models.resolve(str(run))
    for path, name in damaged(run / "final"):
        with pytest.raises(RequestError) as told:
            models.resolve(str(run))
        assert path.name in str(told.value), name
    models.resolve(str(run))


def reopened(loop: Loop, folder: Path) -> Path:
    """The SFT run as if it had been stopped before its end."""
    run = shutil.copytree(loop.root / "runs/sft", folder / "sft")
    shutil.rmtree(run / "final")
    record = tiny.record(run)
    checkpoints.write_json(run / "run.json", record | {"status": "failed", "before": [1.0] * 3})
    return run


def test_resume_says_what_it_passes_over_and_begins_again_if_nothing_is_left(
        loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (loop.root / "runs/sft/final" / models.ADAPTER).read_bytes()
    run = reopened(loop, tmp_path)
    flipped(run / "checkpoint-2" / "optimizer.pt")
    assert tiny.launch("resume", run) == 0
    told = capsys.readouterr().out
    assert f"passed over {run / 'checkpoint-2/optimizer.pt'}: altered since it was saved" in told
    assert f"going on from {run / 'checkpoint-1'}" in told
    assert (run / "final" / models.ADAPTER).read_bytes() == whole
    shutil.rmtree(run)
    run = reopened(loop, tmp_path)
    (run / "checkpoint-2" / checkpoints.MANIFEST).unlink()
    (run / "checkpoint-1" / models.ADAPTER).unlink()
    assert tiny.launch("resume", run) == 0
    told = capsys.readouterr().out
    assert f"passed over {run / 'checkpoint-2'}: it was never finished" in told
    assert f"passed over {run / 'checkpoint-1' / models.ADAPTER}: missing" in told
    assert "it starts again from step 0" in told
    assert (run / "final" / models.ADAPTER).read_bytes() == whole


@pytest.fixture
def final(loop: Loop, tmp_path: Path) -> Path:
    return shutil.copytree(loop.root / "runs/sft/final", tmp_path / "final")


@pytest.mark.parametrize(("name", "refused"), [
    ("adapter_model.bin", True), ("chat_template.json", True), ("sub/config.json", True), (".DS_Store", False)])
def test_a_file_that_was_put_there_later_is_refused(final: Path, name: str, refused: bool) -> None:
    """It could be loaded beside the weights. Hidden files, which file managers leave behind, never are."""
    (final / name).parent.mkdir(exist_ok=True)
    (final / name).write_text("x")
    if not refused:
        checkpoints.verify(final)
        return
    with pytest.raises(RequestError, match=rf"{name}: put there after"):
        checkpoints.verify(final)


def test_a_link_is_refused(final: Path, tmp_path: Path) -> None:
    (final / models.ADAPTER).rename(tmp_path / "elsewhere")
    (final / models.ADAPTER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="not a plain file"):
        checkpoints.verify(final)


def sealed_by_hand(folder: Path, manifest: Any) -> None:
    """A manifest whose own checksum is right."""
    if isinstance(manifest, dict):
        manifest = {**manifest, "sha256": checkpoints._own_sha256(manifest)}
    (folder / checkpoints.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("manifest", [
    [], 3, None, "x", {}, {"files": []}, {"files": {"../outside": {"size": 1, "sha256": "x"}}},
    {"files": {"/etc/passwd": {"size": 1, "sha256": "x"}}}, {"files": {"adapter_model.safetensors": 3}},
    {"files": {"adapter_model.safetensors": {"size": "1"}}}, {"files": {"..": {}, ".": None}}])
def test_a_hostile_manifest_is_one_line(final: Path, manifest: Any) -> None:
    sealed_by_hand(final, manifest)
    with pytest.raises(RequestError) as told:
        checkpoints.verify(final)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("facts", [{}, {"base": 3}, {"base": "x"}, {"base": None, "base_checksum": []},
                                   {"base": "x/y/z", "base_checksum": "c"}, {"base": "x", "base_checksum": {}}])
def test_a_manifest_that_names_no_base_is_one_line(final: Path, facts: dict[str, Any]) -> None:
    checkpoints.seal(final, **facts)
    with pytest.raises(RequestError) as told:
        models.resolve(str(final))
    assert str(final) in str(told.value)


@pytest.mark.parametrize("settings", [
    {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}, {"megatron_config": {},
     "megatron_core": "evil"}, {"base_model_name_or_path": "/somewhere/else"}, {"peft_type": "PREFIX_TUNING"},
    {"target_modules": ["no_such_layer"]}, {"target_modules": "("}, {"target_modules": 3}, {"r": 10**9}, {"r": "4"},
    {"lora_alpha": None}, {"use_dora": True}, {"runtime_config": {"ephemeral_gpu_offload": True}}, []])
def test_hostile_settings_of_an_adapter_run_no_code(loop: Loop, final: Path, settings: Any, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed by whoever wrote them. Only our few settings are read; what else stands there has no effect."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    path = final / models.SETTINGS
    own = checkpoints.read_json(path)
    path.write_text(json.dumps({**own, **settings} if isinstance(settings, dict) else settings))
    facts = checkpoints.read_json(final / checkpoints.MANIFEST)
    checkpoints.seal(final, **{key: facts[key] for key in facts.keys() - {"files", "sha256"}})
    found = models.resolve(str(final))
    config = models.ModelConfig(str(final))
    base = models.load_base(found, config)
    if isinstance(settings, list) or settings.keys() & {"peft_type", "target_modules", "r", "lora_alpha"}:
        with pytest.raises(RequestError) as told:
            models.add_adapter(base, "policy", found.adapter, config)
        assert str(path) in str(told.value)
        assert "\n" not in str(told.value)
    else:
        made: Any = models.add_adapter(base, "policy", found.adapter, config).peft_config["policy"]
        assert made.r == own["r"]
    assert not (tmp_path / "ran").exists()


def test_a_damaged_snapshot_is_refused_by_file(loop: Loop, tmp_path: Path) -> None:
    # Another test's server, asked to take the manifest for its store, may have left its lock beside it.
    folder = shutil.copytree(loop.root / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.lock"))
    content = (folder / snapshot.MANIFEST).read_bytes()
    for path, name in damaged(folder):
        if path.name == snapshot.MANIFEST and name == "one bit":
            continue  # its checksum names the snapshot: a run that is resumed sees another one
        with pytest.raises(RequestError) as told:
            snapshot.read(folder)
        assert path.name in str(told.value), name
    assert (folder / snapshot.MANIFEST).read_bytes() == content


# -- the base under an adapter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                                  "chat_template.jinja", "special_tokens_map.json", ""])
def test_a_base_that_changed_under_the_adapter_is_refused(loop: Loop, tmp_path: Path, said: Callable[[], str],
                                                          name: str) -> None:
    """By every stage after it, in one line with both checksums; gone altogether, with the one it had."""
    base = shutil.copytree(loop.root / "base", tmp_path / "base")
    run = shutil.copytree(loop.root / "runs/sft", tmp_path / "sft")
    facts = checkpoints.read_json(run / "final" / checkpoints.MANIFEST)
    about = {key: facts[key] for key in facts.keys() - {"files", "sha256"}} | {"base": str(base)}
    checkpoints.seal(run / "final", **about)
    models.resolve(str(run))
    if not name:
        base.rename(tmp_path / "moved")
    elif (base / name).exists():
        flipped(base / name)
    else:
        (base / name).write_text("{}")
    for stage in ("reward", "dpo", "generate"):
        asked = loop.asked(stage, "r", f"model.path={run}", root=tmp_path) if stage != "generate" else [
            stage, f"model.path={run}", f"data.path={loop.root / 'data'}", f"run.root={tmp_path}"]
        assert tiny.launch(*asked) == 2
        line = said()
        assert str(base) in line
        assert about["base_checksum"][:12] in line
        if name:
            assert models.fingerprint(base)[:12] in line
    assert not (tmp_path / "r").exists()


def test_a_base_by_a_relative_path_is_found_from_anywhere(loop: Loop, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(loop.root)
    found = models.resolve("base")
    assert os.path.isabs(found.base)
