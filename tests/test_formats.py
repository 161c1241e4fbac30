"""Outside files become snapshots: every format, every kind of bad row, and never half a snapshot."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefloop import config
from prefloop.errors import RequestError
from prefloop.formats import importing, snapshot
from prefloop.formats.readers import FORMATS
from prefloop.formats.row import Row, Rules
from prefloop.records import Demonstration, Message, Prompt, Ranking, Response

HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: joke?\n\nAssistant:"
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
GOOD = {"prompt": "why?", "chosen": "because", "rejected": "no"}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def said(content: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": content}


def read(form: str, values: dict[str, Any], source: str = "", **rules: Any) -> Any:
    """The first thing that a row says."""
    return next(FORMATS[form].read(Row(values, Rules(**rules), source)))


def texts(found: Ranking) -> list[str]:
    return [response.text for response in found.responses]


def dumped(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def ran(folder: Path, content: bytes | None, *overrides: str, form: str = "preference") -> snapshot.Snapshot:
    """The snapshot that the import command makes of a file with this content."""
    if content is not None:
        (folder / "in.jsonl").write_bytes(content)
    asked = [f"import.path={folder / 'in.jsonl'}", f"import.format={form}", f"import.out={folder / 'out'}"]
    importing.main(config.read("import", None, [*asked, *overrides]))
    return snapshot.read(folder / "out")


def refused(folder: Path, content: bytes | None, *overrides: str, form: str = "preference") -> str:
    """What is said of this content; nothing may be left behind."""
    with pytest.raises(RequestError) as caught:
        ran(folder, content, *overrides, form=form)
    assert [path.name for path in folder.iterdir() if path.name != "in.jsonl"] == []
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


# Readers

def test_hh_transcripts() -> None:
    found = read("hh", {"chosen": HH + " a joke\n\nof two parts ", "rejected": HH + " no"}, source="f")
    turns = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "joke?"))
    assert found.prompt == Prompt(turns, source="f")
    assert texts(found) == ["a joke\n\nof two parts", "no"]
    assert (found.ranks, found.rater) == ((1, 2), "import")


@pytest.mark.parametrize("answers", [("a", "b"), ([said("a")], [said("b")])])
@pytest.mark.parametrize("asked", ["u", [said("u", "user")]])
def test_preference_with_a_prompt(asked: Any, answers: Any) -> None:
    found = read("preference", {"prompt": asked, "chosen": answers[0], "rejected": answers[1]})
    assert (found.prompt.messages, texts(found)) == ((Message("user", "u"),), ["a", "b"])


def test_preference_whose_answers_repeat_the_prompt() -> None:
    found = read("preference", {"prompt": "u", "chosen": [said("u", "user"), said("a")],
                                "rejected": [said("u", "user"), said("b")]})
    assert (found.prompt.messages, texts(found)) == ((Message("user", "u"),), ["a", "b"])


def test_preference_whose_prompt_is_what_the_chats_share() -> None:
    found = read("preference", {"chosen": [*CHAT, said("a")], "rejected": [*CHAT, said("b")]}, rater="ann")
    assert (found.prompt.chat(), texts(found), found.rater) == (CHAT, ["a", "b"], "ann")


def test_completion() -> None:
    assert read("completion", {"prompt": "q", "completion": [said("a")]}) == Demonstration(
        Prompt((Message("user", "q"),)), "a")


def test_messages_end_with_the_last_answer() -> None:
    chat = [*CHAT, said("first"), said("more", "user"), said("last"), said("bye", "user")]
    found = read("messages", {"messages": chat})
    assert (found.prompt.chat(), found.answer) == (chat[:4], "last")


def test_rankings_by_named_raters() -> None:
    row = {"q": "u", "responses": ["a", "b", "c"], "ranks": [2.0, None, 1], "who": 7, "topic": "t",
           "strength": "better"}
    found = read("rankings", row, columns={"prompt": "q", "rater": "who", "stratum": "topic"})
    assert (texts(found), found.ranks, found.rater) == (["a", "b", "c"], (2, None, 1), "7")
    assert (found.prompt.stratum, found.strength) == ("t", "better")


def test_our_own_rankings_come_back_whole() -> None:
    made = Ranking(Prompt((Message("user", "u"),), "t", "f"), (Response("a", "runs/x", "12", {"top_p": 0.5}, 3),
                   Response("b")), (1, None), "ann", "slightly", True, "r", "better", (1, 0), 2.5, "v1", "repeat")
    assert read("rankings", json.loads(json.dumps(made.to_json())), source="other") == made


# Bad rows

BAD = {
    "malformed JSON": ('{"prompt": "a', "malformed JSON at character 12"),
    "malformed array": ('[', "malformed JSON at character 2"),
    "too deep": ("[" * 100_000, "cannot be read"),
    "number too long": ('{"prompt": ' + "9" * 5000 + "}", "cannot be read"),
    "not an object": ("[1, 2]", "expected an object with columns, got a JSON array"),
    "not UTF-8": (b'{"prompt": "\xe9"}\n', "not UTF-8 text, at byte 12"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16") + b"\n", "not UTF-8"),
    "missing column": ({"prompt": "a", "choosen": "b"}, "'chosen' is missing; the nearest here is 'choosen'"),
    "no column alike": ({"prompt": "a", "x": 1}, "'chosen' is missing; here are 'prompt', 'x'"),
    "null": ({**GOOD, "chosen": None}, "column 'chosen' holds null"),
    "empty": ({**GOOD, "rejected": " \n"}, "column 'rejected': the answer is empty"),
    "equal": ({**GOOD, "rejected": "because "}, "column 'rejected': the answer equals its rival, column 'chosen'"),
    "empty prompt": ({**GOOD, "prompt": ""}, "column 'prompt': the prompt is empty"),
    "NUL": ({**GOOD, "chosen": "a\x00b"}, "column 'chosen': the text holds a NUL"),
    "surrogate": ({**GOOD, "prompt": "a\ud800"}, "column 'prompt': the text holds half of a surrogate pair"),
    "surrogate inside": ({**GOOD, "chosen": [said("\udc00")]}, "column 'chosen': the text holds half"),
    "wrong type": ({**GOOD, "prompt": 5}, "column 'prompt': expected a text or a list of messages, got 5"),
    "wrong role": ({**GOOD, "prompt": [said("a", "wizard")]}, "column 'prompt[0]': role: 'wizard'"),
    "not a message": ({**GOOD, "prompt": [said("a", "user"), "b" * 9999]}, "column 'prompt[1]': expected a message"),
    "content in parts": ({**GOOD, "prompt": [{"role": "user", "content": []}]}, "column 'prompt[0]': content"),
    "two answers": ({**GOOD, "chosen": [said("a"), said("b")]}, "column 'chosen': expected one message"),
    "prompt answered": ({**GOOD, "prompt": [said("a")]}, "column 'prompt': the prompt ends with a turn"),
    "texts alone": ({"chosen": "a b", "rejected": "a c"}, "column 'prompt' is missing"),
    "nothing shared": ({"chosen": [*CHAT, said("a")], "rejected": [CHAT[1], said("b")]}, "differ before their last"),
    "rater": ({**GOOD, "rater": ["ann"]}, "column 'rater': expected a name"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_is_refused_by_name_or_dropped_and_counted(tmp_path: Path, bad: str) -> None:
    row, message = BAD[bad]
    row = row.encode() + b"\n" if isinstance(row, str) else row
    content = dumped(GOOD, b"\n", row, {**GOOD, "prompt": "other"})
    told = refused(tmp_path, content)
    assert told.startswith(f"{tmp_path / 'in.jsonl'}:3: ")
    assert message in told
    assert told.endswith("import.bad_rows=drop")
    made = ran(tmp_path, content, "import.bad_rows=drop")
    assert [ranking.prompt.messages[0].content for ranking in made.rankings] == ["why?", "other"]
    assert sum(json.loads((made.path / "manifest.json").read_text())["dropped"].values()) >= 1


RANKED = {"prompt": "u", "responses": ["a", "b"], "ranks": [1, 2], "rater": "ann"}


@pytest.mark.parametrize(("form", "row", "message"), [
    ("hh", {"chosen": "hello", "rejected": HH + "b"}, "column 'chosen': a transcript begins with"),
    ("hh", {"chosen": HH, "rejected": HH + "b"}, "column 'chosen': the answer is empty"),
    ("hh", {"chosen": HH + "a\n\nHuman: and?", "rejected": HH + "b"}, "column 'chosen': its last turn is not"),
    ("hh", {"chosen": HH + "a\n\nAssistant: c", "rejected": HH + "b"}, "'chosen' and 'rejected' differ before"),
    ("hh", {"chosen": HH + "a", "rejected": [said("b")]}, "column 'rejected': expected a transcript"),
    ("messages", {"messages": CHAT}, "column 'messages': no message is the assistant's"),
    ("messages", {"messages": [said("a")]}, "column 'messages': the prompt is empty"),
    ("messages", {"messages": []}, "column 'messages': no message"),
    ("completion", {"prompt": "a", "completion": ""}, "column 'completion': the answer is empty"),
    ("completion", {"prompt": "a", "complete": "b"}, "the nearest here is 'complete'"),
    ("rankings", {**RANKED, "responses": ["a"], "ranks": [1]}, "'responses': a ranking needs two answers, got 1"),
    ("rankings", {**RANKED, "responses": ["a", "a\n"]}, "'responses[1]': the answer equals its rival 'responses[0]'"),
    ("rankings", {**RANKED, "responses": ["a", ""]}, "column 'responses[1]': the answer is empty"),
    ("rankings", {**RANKED, "responses": ["a", 5]}, "column 'responses[1]': expected an answer, got 5"),
    ("rankings", {**RANKED, "responses": "ab"}, "column 'responses': expected a list of answers"),
    ("rankings", {**RANKED, "responses": ["a", {"text": "b", "policy": {}}]}, "policy: expected str"),
    ("rankings", {**RANKED, "ranks": [1]}, "column 'ranks': expected a list of 2 ranks"),
    ("rankings", {**RANKED, "ranks": [0, 1]}, "ranks: 0 is not a whole number from 1"),
    ("rankings", {**RANKED, "ranks": [1, "x" * 9999]}, "ranks: 'xxx"),
    ("rankings", {**RANKED, "ranks": [1, {"a": []}]}, "ranks: {'a': []}"),
    ("rankings", {**RANKED, "rater": None}, "column 'rater' holds null"),
    ("rankings", {**RANKED, "prompt": {"text": "u"}}, "column 'prompt[0]': expected a message"),
    ("rankings", {**RANKED, "shown": [[0], [1]]}, "shown"),
    ("rankings", {**RANKED, "shown": 3}, "shown"),
    ("rankings", {**RANKED, "none_acceptable": "no"}, "none_acceptable: expected bool"),
    ("rankings", {**RANKED, "reason": 5}, "reason: expected str"),
])
def test_bad_rows_of_the_other_formats(tmp_path: Path, form: str, row: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, dumped(row), form=form)
    assert "no row can be used" in refused(tmp_path, dumped(row), "import.bad_rows=drop", form=form)


# Files and the command

def test_gzipped_or_not_many_files_are_one_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"q": f"q{number}", "chosen": "\u2028yes", "rejected": "no"} for number in range(30)]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + dumped(*rows[:10]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(dumped(*rows[10:20])))
    (tmp_path / "c.jsonl").write_bytes(gzip.compress(dumped(*rows[20:]).rstrip()))  # its name does not say so
    paths = ", ".join(str(tmp_path / name) for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"))
    made = ran(tmp_path, None, f"import.path=[{paths}]", "import.columns={prompt: q}")
    assert [one.prompt.messages[0].content for one in made.rankings] == [row["q"] for row in rows]
    assert made.rankings[0].responses[0].text == "\u2028yes"
    assert {one.source for one in made.prompts} == {"a.jsonl", "b.jsonl.gz", "c.jsonl"}
    assert sum(len(made.prompts_of(split)) for split in ("train", "validation", "test")) == 30
    assert 0 < len(made.pairs("train")) < len(made.pairs()) == 30
    assert "30 rows, 30 used, 0 dropped" in capsys.readouterr().out


def test_every_row_is_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = dumped(GOOD, {**GOOD, "chosen": ""}, GOOD, {**GOOD, "chosen": "else"}, b"{\n", {**GOOD, "chosen": " "})
    made = ran(tmp_path, content, "import.bad_rows=drop")
    out = capsys.readouterr().out
    assert "6 rows, 2 used, 4 dropped" in out
    assert f"dropped 2: empty answer (first {tmp_path / 'in.jsonl'}:2: column 'chosen'" in out
    assert "2 rankings, 2 pairs; 1 prompts" in out
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["dropped"] == {"empty answer": 2, "exact duplicate": 1, "malformed JSON": 1}
    assert (manifest["source"]["rows"], manifest["source"]["used"]) == (6, 2)


def test_duplicates_are_kept_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(ran(tmp_path, dumped(GOOD, GOOD), "import.duplicates=keep").rankings) == 2
    assert "kept 1: exact duplicate" in capsys.readouterr().out


def test_the_same_row_in_two_files_is_a_duplicate(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(dumped(GOOD))
    assert len(ran(tmp_path, None, f"import.path=[{tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}]").rankings) == 1


def test_two_raters_who_agree_are_no_duplicates(tmp_path: Path) -> None:
    made = ran(tmp_path, dumped(RANKED, {**RANKED, "rater": "bob"}, RANKED), form="rankings")
    assert [one.rater for one in made.rankings] == ["ann", "bob"]
    assert len(made.prompts) == 1


@pytest.mark.parametrize(("content", "overrides", "message"), [
    (None, [], "in.jsonl: cannot read this file: No such file"),
    (b"", [], "in.jsonl: this file is empty"),
    (b" \n\n", ["import.bad_rows=drop"], "in.jsonl: this file is empty"),
    (gzip.compress(b"", mtime=0), [], "in.jsonl: this file is empty"),
    (gzip.compress(dumped(GOOD) * 50, mtime=0)[:-12], ["import.bad_rows=drop"], "in.jsonl: damaged gzip file"),
    (b"\x1f\x8bjunk", [], "in.jsonl: damaged gzip file"),
    (dumped(GOOD), ["import.format=preferences"], "did you mean 'preference'?"),
    (dumped(GOOD), ["import.bad_rows=skip"], "import.bad_rows: 'skip' is not known"),
    (dumped(GOOD), ["import.bad_row=drop"], "did you mean import.bad_rows?"),
    (dumped(GOOD), ["import.columns={choosen: x}"], "did you mean 'chosen'?"),
    (dumped(GOOD), ["import.columns={chosen: 5}"], "import.columns: 'chosen' should name a column"),
    (dumped(GOOD), ["import.columns={stratum: topic}"], "column 'topic' is missing"),
    (dumped(GOOD), ["import.path=[]"], "import.path: expected a file"),
    (dumped(GOOD), ["import.path=/proc/self/fdinfo"], "no file in this folder ends in"),
    (dumped(GOOD), ["import.path=/nowhere/*.jsonl"], "no file matches this pattern"),
    (dumped(GOOD), ["import.path=null"], "expected a file or a list of files, or else import.dataset"),
])
def test_a_wrong_request_is_told_in_one_line(tmp_path: Path, content: bytes | None, overrides: list[str],
                                             message: str) -> None:
    assert message in refused(tmp_path, content, *overrides)


# Snapshots

def small(folder: Path, **more: Any) -> Path:
    asked = Prompt((Message("user", "u"),))
    return snapshot.write(folder, [Ranking(asked, (Response("a"), Response("b")), (1, 2), "ann")],
                          [Demonstration(Prompt((Message("user", "v"),)), "d")], [asked], **more)


def test_a_snapshot_comes_back_and_its_checksum_is_its_content_s(tmp_path: Path) -> None:
    first, other = snapshot.read(small(tmp_path / "a" / "b")), snapshot.read(small(tmp_path / "c"))
    assert first.checksum == other.checksum != snapshot.read(small(tmp_path / "d", source="x")).checksum
    assert [prompt.messages[0].content for prompt in first.prompts] == ["u", "v"]
    assert (first.pairs()[0].chosen, first.demonstrations[0].answer) == ("a", "d")
    with pytest.raises(RequestError, match="split: 'dev'"):
        first.pairs("dev")


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="exists already"):
        small(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", snapshot.FILES)
def test_one_flipped_bit_is_noticed_by_name(tmp_path: Path, name: str) -> None:
    path = small(tmp_path / "out") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match=f"{name}: it changed"):
        snapshot.read(path.parent)


def test_a_missing_file_or_manifest_is_noticed_by_name(tmp_path: Path) -> None:
    folder = small(tmp_path / "out")
    (folder / "prompts.jsonl").unlink()
    with pytest.raises(RequestError, match=r"prompts\.jsonl: the manifest names this file"):
        snapshot.read(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(RequestError, match=r"manifest\.json: damaged"):
        snapshot.read(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(RequestError, match="not a snapshot"):
        snapshot.read(folder)


def test_a_row_that_does_not_parse_is_named(tmp_path: Path) -> None:
    folder = small(tmp_path / "out")
    rows = folder / "demonstrations.jsonl"
    rows.write_bytes(rows.read_bytes() + b'{"prompt": {"messages": []}, "answer": "a"}\n')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][rows.name] = snapshot._sealed(rows)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=r"demonstrations\.jsonl:2: prompt: it has no messages"):
        snapshot.read(folder)


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    broken = Demonstration(Prompt((Message("user", "u"),)), "\ud800")
    with pytest.raises(RequestError, match=r"demonstrations\.jsonl:1"):
        snapshot.write(tmp_path / "out", demonstrations=[broken])
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_leaves_nothing_to_see(tmp_path: Path) -> None:
    rows = os.fsencode(json.dumps(GOOD)) + b"\n"
    os.mkfifo(tmp_path / "pipe")
    script = ("import sys, json; from pathlib import Path; from prefloop.formats import snapshot;"
              "from prefloop.records import *;"
              "p = Prompt((Message('user', 'u'),));"
              "made = (Demonstration(p, line) for line in open(sys.argv[1]));"
              "snapshot.write(sys.argv[2], demonstrations=made)")
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "pipe"), str(tmp_path / "out")])
    # Opened both ways, so that a child that fails before it reads does not keep this test waiting.
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDWR), "wb", buffering=0) as pipe:
        pipe.write(rows * 500)
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".out.*.partial/demonstrations.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert list(tmp_path.glob(".out.*.partial/demonstrations.jsonl"))
    assert not (tmp_path / "out").exists()
    small(tmp_path / "out")  # and it is in nobody's way
    assert len(snapshot.read(tmp_path / "out").rankings) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_real_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = SHARED / "hh_harmless" / "pairs.jsonl.gz"
    made = ran(tmp_path, None, f"import.path={path}", "import.bad_rows=drop", form="hh")
    rows, used, dropped = map(int, re.findall(r"(\d+) (?:rows|used|dropped)", capsys.readouterr().out.splitlines()[0]))
    assert rows == used + dropped
    assert len(made.pairs()) == used > 0.99 * rows
    assert all(pair.prompt.messages[-1].role == "user" for pair in made.pairs())


def test_ratings_by_several_columns_are_dimensions(tmp_path: Path) -> None:
    rules: dict[str, Any] = {"scores": "help", "dimensions": {"clear": "clarity", "safe": "notes.safety"}}
    row = {"prompt": "why?", "responses": [{"text": "a", "help": 3, "clarity": 1, "notes": {"safety": None}},
                                           {"text": "b", "help": 1, "clarity": 4, "notes": {"safety": None}},
                                           {"text": "c", "help": 2, "clarity": 4, "notes": {"safety": None}}]}
    found = read("ratings", row, **rules)
    assert (found.ranks, found.dimensions) == ((1, 3, 2), {"clear": (2, 1, 1)})  # nobody was told to be safe
    assert Ranking.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert read("rankings", json.loads(json.dumps(found.to_json()))) == found
    rows = [{"prompt": "why?", "response": text, "help": score, "clarity": 5 - score, "notes": {"safety": 1}}
            for text, score in (("a", 3), ("b", 1))]
    content = "".join(json.dumps(one) + "\n" for one in rows).encode()
    made = ran(tmp_path, content, *(f"import.{key}={json.dumps(told)}" for key, told in rules.items()), form="ratings")
    (made,) = made.rankings_of(found.prompt.split)
    assert made.dimensions == {"clear": (2, 1), "safe": (1, 1)}
    with pytest.raises(RequestError, match=r"import.dimensions: only answers that are rated"):
        importing.ImportConfig(path="x", format="hh", out="y", dimensions={"clear": "clarity"})


@pytest.mark.parametrize(("dimensions", "told"), [
    ({"overall": (1, 2)}, "overall is the ranking itself"), ({"kind": (1,)}, "dimensions.kind: 1 ranks for 2 answers"),
    ({"kind": (1, 0)}, "dimensions.kind: 0 is not a whole number"), ({"kind": [1, 2]}, "dimensions.kind: expected"),
    ([1], "dimensions: expected dict")])
def test_dimensions_that_make_no_sense_are_refused(dimensions: Any, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        Ranking(Prompt((Message("user", "Q"),)), (Response("a"), Response("b")), (1, 2), "ann", dimensions=dimensions)
