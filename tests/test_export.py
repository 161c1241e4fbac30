"""What `prefloop export` writes is what was trained, as the plain libraries read it in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import launch, tiny_adapter, tiny_model, tiny_snapshot
from tiny_loop import Loop

from prefloop import export, models, passes
from prefloop.chat import PROBES, probe_rows
from prefloop.errors import RequestError, RunError

PLAINLY = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
asked = json.loads(sys.stdin.read())
tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
if asked["base"]:
    from peft import PeftModel
    base = AutoModelForCausalLM.from_pretrained(asked["base"], dtype="auto")
    model = PeftModel.from_pretrained(base, asked["folder"]).eval()
else:
    model = AutoModelForCausalLM.from_pretrained(asked["folder"], dtype="auto").eval()
totals = []
for row, start in zip(asked["rows"], asked["starts"]):
    with torch.no_grad():
        logprobs = model(torch.tensor([row])).logits[0].float().log_softmax(-1)
    totals.append(sum(float(logprobs[n - 1, row[n]]) for n in range(start, len(row))))
prompts = [tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                         tokenize=True, return_dict=False) for text in asked["texts"]]
ends = model.generation_config.eos_token_id
print(json.dumps({"totals": totals, "prompts": prompts, "dtype": str(model.dtype), "ends": ends,
                  "ours": [name for name in sys.modules if name.startswith("prefloop")]}))
"""


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, and an adapter on it that changes it much."""
    root = tmp_path_factory.mktemp("adapted")
    tiny_adapter(root / "policy", tiny_model(root / "base"), seed=3)
    return root


def exported(policy: Path, out: Path, *overrides: str, four_bit: str = "false") -> int:
    return launch("export", f"export.run={policy}", f"export.out={out}", f"export.four_bit={four_bit}",
                  "data.max_new_tokens=12", *overrides)


def loaded_plainly(folder: Path, base: Path | None, rows: list[list[int]], starts: list[int]) -> dict:
    asked = {"folder": str(folder), "base": str(base or ""), "rows": rows, "starts": starts,
             "texts": [ask for ask, _ in PROBES]}
    done = subprocess.run([sys.executable, "-c", PLAINLY], input=json.dumps(asked), capture_output=True, text=True,
                          check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_the_plain_libraries_read_what_was_trained(form: str, adapted: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert exported(adapted / "policy", out, f"export.form={form}") == 0
    assert "KL " in capsys.readouterr().out
    found, held = models.resolve(str(adapted / "policy")), models.ModelConfig("any")
    chat = models.load_chat(found)
    rows, starts = probe_rows(chat)
    trained = export.loaded(found, held)
    ours = passes.total_logprobs(trained, export.ROLE, rows, starts, chat.pad_id)
    bare = passes.total_logprobs(trained, None, rows, starts, chat.pad_id)
    read = loaded_plainly(out, adapted / "base" if form == "adapter" else None, rows, starts)
    theirs = torch.tensor(read["totals"])
    assert read["ours"] == []
    assert bool(((theirs - ours).abs() < 0.1 * (bare - ours).abs()).all())
    assert read["prompts"] == [row[:start] for row, start in zip(rows, starts, strict=True)]
    if form == "merged":
        assert read["dtype"] == "torch.bfloat16"
        assert chat.end_id in read["ends"]
    about = json.loads((out / "export.json").read_text())
    assert about["run"]["checksum"] == found.checksum
    assert about["measured"]["kl"] < 1e-3
    assert about["measured"]["tokens"] > 8
    assert "from_pretrained" in (out / "README.md").read_text()


def test_a_base_in_four_bits_is_written_out_as_it_was(adapted: Path, tmp_path: Path,
                                                      said: Callable[[], str]) -> None:
    """The original weights are another model than the one that was trained, and that is noticed."""
    assert exported(adapted / "policy", tmp_path / "trained", four_bit="true") == 0
    assert "quantization_config" not in json.loads((tmp_path / "trained" / "config.json").read_text())
    about = json.loads((tmp_path / "trained" / "export.json").read_text())
    assert (about["four_bit"], about["measured"]["kl"] < 1e-3) == (True, True)
    for form in ("merged", "adapter"):
        asked = (adapted / "policy", tmp_path / "original", "export.onto=original", f"export.form={form}")
        assert exported(*asked, "export.max_kl=1e-3", four_bit="true") == 1
        assert "in 4 bits, which export.onto=trained keeps" in said()
        assert [path.name for path in tmp_path.iterdir()] == ["trained"]
    assert exported(*asked, "export.max_kl=null", four_bit="true") == 0
    far = json.loads((tmp_path / "original" / "export.json").read_text())["measured"]
    assert far["kl"] > 1e-3 > about["measured"]["kl"]


def test_the_bases_ways_of_sampling_are_not_exported(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({
        "do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3, "eos_token_id": [1, 5],
        "pad_token_id": 0, "bos_token_id": 2}))
    policy = tiny_adapter(tmp_path / "policy", base, seed=3)
    assert exported(policy, tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (told["eos_token_id"], told["pad_token_id"], told["bos_token_id"]) == ([1, 5], 0, 2)
    assert not {"temperature", "top_p", "top_k", "repetition_penalty"} & {key for key in told if told[key] is not None}


@pytest.mark.parametrize("told", ["[1]", '{"model": null}', '{"model": {"four_bit": "yes"}}'])
def test_what_is_beside_a_checkpoint_and_says_nothing_is_no_answer(told: str, adapted: Path, tmp_path: Path,
                                                                   said: Callable[[], str]) -> None:
    policy = tiny_adapter(tmp_path / "run" / "policy", adapted / "base", seed=3)
    (policy.parent / "resolved.json").write_text(told)
    assert launch("export", f"export.run={policy}", f"export.out={tmp_path / 'out'}") == 2
    assert "say export.four_bit=true or false" in said()


def test_a_merge_that_forgot_the_adapter_is_not_written(adapted: Path, tmp_path: Path, said: Callable[[], str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "merged", lambda weight, change: weight)
    assert exported(adapted / "policy", tmp_path / "out") == 1
    assert "nothing was written: KL " in said()
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_itself_how_its_base_was_held(loop: Loop, tmp_path: Path) -> None:
    data = tiny_snapshot(tmp_path / "data")
    assert launch("export", f"export.run={loop.root / 'runs/dpo'}", f"export.out={tmp_path / 'out'}",
                  f"data.path={data}", "data.limit=3", "data.max_new_tokens=8") == 0
    assert json.loads((tmp_path / "out" / "export.json").read_text())["four_bit"] is False
    models.resolve(str(tmp_path / "out"))  # a base to go on from, verified


def test_a_model_trained_whole_is_merged_already(loop: Loop, tmp_path: Path, said: Callable[[], str]) -> None:
    run = loop.run("sft", "whole", "model.whole=true", root=tmp_path)
    asked = ("export", f"export.run={run}", f"export.out={tmp_path / 'out'}")
    assert launch(*asked, "export.form=adapter") == 2
    assert "trained whole, so it has no adapter" in said()
    assert launch(*asked) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    own = load_file(run / "final" / "model.safetensors")
    assert all(torch.equal(weight, own[name].bfloat16()) for name, weight in weights.items())


def test_what_cannot_be_exported_is_refused(loop: Loop, adapted: Path, tmp_path: Path,
                                            said: Callable[[], str]) -> None:
    def refused(run: Path, *overrides: str) -> str:
        assert launch("export", f"export.run={run}", f"export.out={tmp_path / 'out'}", *overrides) == 2
        assert list(tmp_path.glob("*")) == []
        return said()

    assert "`prefloop serve` offers" in refused(loop.root / "runs/reward")
    assert "a plain model already" in refused(loop.root / "base")
    assert "say export.four_bit=true" in refused(adapted / "policy")
    assert "context of 512" in refused(loop.root / "runs/sft", "data.max_new_tokens=512")
    assert "above 0, or null" in refused(adapted / "policy", "export.max_kl=0")
    (tmp_path / "out").mkdir()
    assert launch("export", f"export.run={loop.root / 'runs/sft'}", f"export.out={tmp_path / 'out'}") == 2
    assert "exists already" in said()


def test_an_adapter_on_a_shared_weight_is_not_merged(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | {"tie_word_embeddings": True}))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if name != "lm_head.weight"},
              tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = models.ModelConfig(str(tmp_path), lora_targets=["lm_head"])
    base = models.load_base(models.resolve(str(tmp_path)), settings)
    with pytest.raises(RequestError, match="lm_head, whose weight this base uses twice"):
        export.unloaded(models.add_adapter(base, export.ROLE, None, settings))


def test_weights_beyond_float16_are_told(adapted: Path, tmp_path: Path) -> None:
    found = models.resolve(str(adapted / "policy"))
    trained = export.loaded(found, models.ModelConfig("any"))
    passes.plain(trained).model.norm.weight.data[0] = 1e5
    with pytest.raises(RunError, match=r"norm\.weight does not fit into float16"):
        export.save_merged(trained, models.load_chat(found), tmp_path, "float16")


def test_divergence_by_hand() -> None:
    trained_AV, copied_AV = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(export.divergences(trained_AV, copied_AV)) == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3))
    assert float(export.divergences(trained_AV, trained_AV)) == 0


def test_a_sum_is_rounded_once() -> None:
    # Rounded to bf16 before the sum, the change would be 2**-7 and the sum 1 + 2**-7.
    weight, change = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2**-8 + 2**-20])
    assert float(export.merged(weight, change)) == 1 + 2**-7
    assert float(export.merged(weight, torch.tensor([2**-8 - 2**-20]))) == 1
