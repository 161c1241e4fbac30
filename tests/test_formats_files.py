"""Kinds of files, packed or not, many at once; what is told of broken ones; and that nothing is ever left by half."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_formats import GOOD, dumped, ran, said
from test_formats_public import inside

from prefloop import config
from prefloop.errors import RequestError
from prefloop.formats import files, importing, near, snapshot
from prefloop.formats.digests import Digests
from prefloop.formats.report import printable

ROWS = [{"prompt": f"q{number}\nand more, \"quoted\"", "chosen": "yes é", "rejected": f"no {number}"}
        for number in range(700)]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=500)
    return sink.getvalue()


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": as_lines, "json": lambda rows: json.dumps(rows, indent=1).encode(), "csv": as_table,
    "parquet": as_parquet, "tsv": lambda rows: as_table(rows, "\t")}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress,
                                               ".xz": lzma.compress}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path, kind: str, packed: str) -> None:
    path = tmp_path / f"rows.{kind}{packed}"
    path.write_bytes(PACKED[packed](KINDS[kind](ROWS)))
    made = ran(tmp_path, None, f"import.path={path}")
    assert [(one.prompt.messages[0].content, *(r.text for r in one.responses)) for one in made.rankings] == [
        tuple(row.values()) for row in ROWS]


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    for name, kind in (("a", "parquet"), ("b.txt", "csv"), ("c.data", "jsonl"), ("d", "json")):
        rows = [{**row, "prompt": f"{name} {row['prompt']}"} for row in ROWS[:9]]
        (tmp_path / name).write_bytes(KINDS[kind](rows))
    paths = ", ".join(str(tmp_path / name) for name in ("a", "b.txt", "c.data", "d"))
    assert len(ran(tmp_path, None, f"import.path=[{paths}]").rankings) == 36


def test_lists_in_cells_of_a_table(tmp_path: Path) -> None:
    chat = [said("q", "user"), said("a")]
    rows = [{"messages": json.dumps(chat)}, {"messages": repr([said("r", "user"), said("b")])}]
    (tmp_path / "t.csv").write_bytes(as_table(rows))
    made = ran(tmp_path, None, f"import.path={tmp_path / 't.csv'}", form="messages")
    assert [(one.prompt.messages[0].content, one.answer) for one in made.demonstrations] == [("q", "a"), ("r", "b")]
    nested = [{"prompt": chat[:1], "chosen": chat[1:], "rejected": [said("b")], "n": np.int64(3)}]
    (tmp_path / "t.parquet").write_bytes(as_parquet(nested))
    made = ran(inside(tmp_path, "x"), None, f"import.path={tmp_path / 't.parquet'}")
    assert made.rankings[0].prompt.chat() == chat[:1]


def test_numbers_told_as_text_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,response,rating,rater\np,a,4.0,ann\np,b,,ann\np,c,5,ann\n")
    made = ran(tmp_path, None, f"import.path={tmp_path / 't.csv'}", "import.bad_rows=drop", form="ratings")
    (found,) = made.rankings
    assert ([one.text for one in found.responses], found.ranks) == (["a", "c"], (2, 1))


def test_folders_and_patterns_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / ".hidden").mkdir()
    names = ("b.jsonl", "a.csv", "deep/c.parquet", ".hidden/x.jsonl", "README.md")
    for place, name in enumerate(names):
        kind = name.rpartition(".")[2].replace("md", "jsonl")
        (tmp_path / "d" / name).write_bytes(KINDS[kind]([ROWS[place]]))
    made = ran(tmp_path, None, f"import.path={tmp_path / 'd'}")
    assert [one.prompt.source for one in made.rankings] == ["a.csv", "b.jsonl", "c.parquet"]
    (tmp_path / "y").mkdir()
    made = ran(tmp_path / "y", None, f"import.path={tmp_path / 'd'}/*.jsonl")
    assert [one.prompt.source for one in made.rankings] == ["b.jsonl"]
    with pytest.raises(RequestError, match="meant twice"):
        ran(inside(tmp_path, "z"), None, f"import.path=[{tmp_path / 'd'}, {tmp_path / 'd' / 'a.csv'}]")


def test_a_dataset_by_its_name(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(ROWS[:20])
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "saved")
    asked = ["import.format=preference", f"import.dataset={tmp_path / 'saved'}", f"import.out={tmp_path / 'out'}"]
    with pytest.raises(RequestError, match=r"has the splits train, test; choose one: import\.dataset_split=train"):
        importing.main(config.read("import", None, asked))
    importing.main(config.read("import", None, [*asked, "import.dataset_split=test"]))
    assert len(snapshot.read(tmp_path / "out").rankings) == 20
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.parquet").write_bytes(as_parquet(ROWS[:7]))
    importing.main(config.read("import", None, ["import.format=preference", f"import.dataset={tmp_path / 'files'}",
                                                f"import.out={tmp_path / 'other'}"]))
    assert len(snapshot.read(tmp_path / "other").rankings) == 7


def test_a_dataset_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError) as caught:
        importing.main(config.read("import", None, ["import.format=preference", "import.dataset=nobody/nothing-here",
                                                    f"import.out={tmp_path / 'out'}"]))
    assert str(caught.value).startswith("nobody/nothing-here: `datasets` cannot read it")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


LATIN = "prompt,chosen,rejected\nq,oui,non\nr,été,non\n".encode("latin-1")
BROKEN = {
    "truncated parquet": ("t.parquet", as_parquet(ROWS)[:-40], "damaged Parquet file"),
    "flipped parquet": ("t.parquet", b"PAR1" + os.urandom(64) + b"PAR1", "damaged Parquet file"),
    "truncated bzip2": ("t.jsonl.bz2", bz2.compress(as_lines(ROWS))[:-20], "damaged bzip2 file"),
    "flipped bzip2": ("t.bz2", b"BZh9" + b"junk" * 20, "damaged bzip2 file"),
    "truncated xz": ("t.xz", lzma.compress(as_lines(ROWS))[:-20], "damaged xz file"),
    "zip": ("t.jsonl", b"PK\x03\x04" + b"\0" * 30, "a zip archive (or a spreadsheet)"),
    "zstd": ("t.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 30, "packed by zstd"),
    "latin-1 table": ("t.csv", LATIN, "t.csv:3: byte 2 of the line (0xe9): this is not utf-8 text"),
    "utf-16": ("t.jsonl", as_lines(ROWS).decode().encode("utf-16"), "import.encoding=utf-16"),
    "open quote": ("t.csv", b'prompt,chosen,rejected\nq,a,b\nr,"' + b"x" * 99 + b"\n", "t.csv:3: 2 cells under"),
    "ragged": ("t.csv", b"prompt,chosen,rejected\nq,a,b\nr,c\n", "t.csv:3: 2 cells under a header of 3"),
    "same name twice": ("t.csv", b"prompt,prompt\n1,2\n", "the header names column 'prompt' twice"),
    "cut array": ("t.json", json.dumps(ROWS[:5]).encode()[:-9], "item 5: the array is malformed or cut short"),
    "array of arrays": ("t.json", b'[{"prompt": "q"}, [1]]', "column 'chosen' is missing"),
    "other format": ("t.jsonl", dumped({"prompt": "p", "completion": "c"}), "looks like import.format=completion"),
    "ultrafeedback": ("t.jsonl", dumped({"instruction": "p", "completions": []}), "import.format=ratings"),
    "empty table": ("t.csv", b"prompt,chosen,rejected\n", "this file is empty"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_told_in_one_line(tmp_path: Path, broken: str) -> None:
    name, content, message = BROKEN[broken]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError) as caught:
        ran(tmp_path, None, f"import.path={tmp_path / name}")
    told = str(caught.value)
    assert message in told.replace("'malformed JSON'", "")
    assert "\n" not in told
    assert len(told) < 700
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_encodings_are_read_when_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(LATIN)
    made = ran(tmp_path, None, f"import.path={tmp_path / 't.csv'}", "import.encoding=latin-1")
    assert made.rankings[1].responses[0].text == "été"
    (tmp_path / "x").mkdir()
    (tmp_path / "t.jsonl").write_bytes(as_lines(ROWS).decode().encode("utf-16"))
    made = ran(tmp_path / "x", None, f"import.path={tmp_path / 't.jsonl'}", "import.encoding=utf-16")
    assert len(made.rankings) == 700
    with pytest.raises(RequestError, match=r"import\.encoding: 'latin1000' is not known"):
        ran(tmp_path, None, "import.encoding=latin1000")


def test_a_column_named_with_dots_and_paths_into_objects(tmp_path: Path) -> None:
    row = {"a.b": "q", "info": {"answers": [{"text": "x"}, {"text": "y"}]}}
    made = ran(tmp_path, dumped(row), "import.columns={prompt: a.b, chosen: info.answers.1.text, "
               "rejected: info.answers.0.text}")
    assert [one.text for one in made.rankings[0].responses] == ["y", "x"]


def test_a_hostile_row_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    ran(tmp_path, dumped({**GOOD, "topic": evil}, {**GOOD, "prompt": [said("x", evil)], "topic": evil}, {evil: 1}),
        "import.columns={stratum: topic}", "import.bad_rows=drop")
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert printable("a\tb\x1b é") == "a\\tb\\x1b é"


# Near duplicates

def sentence(draw: random.Random, words: int) -> str:
    return " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(words))


def test_signatures_estimate_how_much_two_texts_share() -> None:
    draw = random.Random(0)
    text = sentence(draw, 300)
    words = text.split()
    for changed in (0, 3, 30, 300):
        other = [sentence(draw, 1) if place < changed else word for place, word in enumerate(words)]

        def shingles(text: str) -> set[str]:
            return {(text[at:] + " " * 16)[:16] for at in range(len(text)) if not at or text[at - 1] == " "}

        some, others = shingles(text), shingles(" ".join(other))
        true = len(some & others) / len(some | others)
        one, two = near.signatures([text, " ".join(other)])
        assert abs((one == two).mean() - true) < 0.17  # three standard errors of 64 draws at one half
    one, two, three, four = near.signatures(["How is it,  there?", "how is it there", "", "!?"])
    assert (one == two).all()
    assert (three == four).all()
    assert near.signatures(["今天天气很好我们去公园", "今天天气很好我们去公园吧"]).shape == (2, 64)


def planted(draw: random.Random, count: int) -> tuple[list[dict[str, str]], set[int]]:
    """Rows, some of which nearly repeat an earlier one: an answer's last word, or capitals, differ."""
    rows, repeats = [], set()
    for place in range(count):
        if place > 5 and draw.random() < 0.2:
            old = rows[draw.choice([earlier for earlier in range(place) if earlier not in repeats])]
            chosen = f"{old['chosen']} {sentence(draw, 1)}"
            rows.append({**old, "prompt": old["prompt"].upper() + "!", "chosen": chosen})
            repeats.add(place)
        else:
            short = {"chosen": sentence(draw, 40), "rejected": sentence(draw, 1)}
            # The same prompt and the same short answer are no repetition where the long answer is another.
            shared = rows[place - 1]["prompt"] if place and draw.random() < 0.3 else sentence(draw, 40)
            rows.append({"prompt": shared, **short})
    return rows, repeats


def test_near_duplicates_are_found_counted_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, repeats = planted(random.Random(1), 300)
    made = ran(tmp_path, dumped(*rows))
    assert len(made.rankings) == 300
    out = capsys.readouterr().out
    assert f"near duplicates: {len(repeats)} records nearly repeat" in out
    assert f"(first {tmp_path / 'in.jsonl'}:{min(repeats) + 1}, like" in out
    (tmp_path / "x").mkdir()
    made = ran(tmp_path / "x", dumped(*rows), "import.near=drop")
    kept = [row["chosen"] for place, row in enumerate(rows) if place not in repeats]
    assert [one.responses[0].text for one in made.rankings] == kept
    assert f"dropped {len(repeats)}: near duplicate" in capsys.readouterr().out
    (tmp_path / "y").mkdir()
    ran(tmp_path / "y", dumped(*rows), "import.near=ignore")
    assert "near duplicate" not in capsys.readouterr().out


def test_what_several_people_said_of_the_same_answers_is_no_near_duplicate(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": sentence(random.Random(5), 30), "responses": ["yes", "no"], "ranks": [1, 2]}
    ran(tmp_path, dumped(*({**row, "rater": rater} for rater in ("ann", "bob", "cyd"))), form="rankings")
    assert "near duplicate" not in capsys.readouterr().out


def test_prompts_that_leak_across_splits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = sentence(random.Random(2), 60)
    made = ran(tmp_path, dumped(*({**GOOD, "prompt": f"{base} {n}", "chosen": f"a{n}"} for n in range(40))))
    splits = [one.prompt.split for one in made.rankings]
    assert len(set(splits)) > 1
    leaks = int((re.search(r"leakage: (\d+) records", capsys.readouterr().out) or ["", "0"])[1])
    assert leaks >= sum(split != splits[0] for split in splits)


def test_digests_are_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.formats.digests.RECENT", 7)
    draw, ours, theirs = random.Random(3), Digests(), set()
    for _ in range(500):
        one = draw.choice([draw.randrange(-100, 100), draw.randrange(-2**63, 2**63)])
        assert ours.add(one) == (one not in theirs)
        theirs.add(one)
    assert len(ours) == len(theirs)


# Never by half

def test_every_row_of_a_random_file_is_used_or_dropped(tmp_path: Path) -> None:
    draw, counted = random.Random(4), 0
    for turn, form in enumerate(("preference", "unpaired", "ratings", "messages", "battles") * 4):
        options = {"prompt": ["p", "q", "", None, 5, [said("p", "user")], [said("x", "wizard")]],
                   "chosen": ["a", "b", "", None], "rejected": ["a", "c"],
                   "completion": ["a", "b", "c"], "label": [True, False, None, "x"],
                   "response": ["a", "b", "c", ""], "rating": [1, 2, "N/A", "x"],
                   "responses": [None, ["a", "b"], ["a", "a"], 3], "ratings": [[1, 2], [1], None],
                   "messages": [[said("q", "user"), said("a")], [said("a")], None],
                   "response_a": ["a", ""], "response_b": ["b", "a"], "winner": ["model_a", "tie", 1, None]}
        rows: list[Any] = [{name: draw.choice(values) for name, values in options.items()} for _ in range(60)]
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows] + [b"{\n"]
        folder = tmp_path / str(turn)
        folder.mkdir()
        made = None
        with suppress(RequestError):  # no row can be used
            made = ran(folder, dumped(*rows), "import.bad_rows=drop", "import.turns=all", form=form)
        if made is None:
            continue
        counted += 1
        manifest = json.loads((made.path / "manifest.json").read_text())
        assert manifest["source"]["used"] + sum(manifest["dropped"].values()) == manifest["source"]["rows"] == 61
        assert manifest["source"]["records"] == len(made.rankings) + len(made.demonstrations)
    assert counted > 10


def test_what_a_killed_import_left_is_cleared_and_a_running_one_s_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefloop.cli", "import", f"import.path={tmp_path / 'long.jsonl'}",
               "import.format=unpaired", f"import.out={tmp_path / 'out'}"]
    row = dumped({"prompt": "p", "completion": "c", "label": True})
    (tmp_path / "long.jsonl").write_bytes(row * 1_000_000)
    (tmp_path / "in.jsonl").write_bytes(row + dumped({"prompt": "p", "completion": "d", "label": False}))
    held: set[Path] = set()
    for kill in (True, False):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 # In a shell's background, where a suite may run, children ignore Ctrl-C.
                                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        deadline, left = time.monotonic() + 60, held
        while (len(held := set(tmp_path.glob(".out*.partial"))) < 2 or held & left) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(held) == 2
        assert not held & left  # those of the first child are gone
        if kill:
            child.kill()
            child.wait()
            continue
        child.send_signal(signal.SIGSTOP)  # however slow this machine, it is still at work then
        ran(tmp_path, None, form="unpaired")
        assert set(tmp_path.glob(".out*.partial")) == held
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        assert child.wait() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"long.jsonl", "in.jsonl", "out"}


@pytest.mark.parametrize("form", ["preference", "unpaired"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, form: str) -> None:
    rows = [{**GOOD, "prompt": f"p{n // 2}", "completion": f"c{n}", "label": n % 2, "chosen": "x" * 1000}
            for n in range(5000)]
    (tmp_path / "in.jsonl").write_bytes(dumped(*rows))

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run([sys.executable, "-m", "prefloop.cli", "import", f"import.path={tmp_path / 'in.jsonl'}",
                           f"import.format={form}", f"import.out={tmp_path / 'out'}"], capture_output=True, text=True,
                          preexec_fn=limited, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The peak of a real import of 40 MB stays within 40 MB of that of a tenth of it: rows are not held."""
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            for number in range(count):
                file.write(json.dumps({**GOOD, "prompt": f"{number} " + "word " * 400}) + "\n")
        asked = ["import", f"import.path={path}", "import.format=preference", f"import.out={tmp_path / str(count)}"]
        # The peak since exec: the kernel's figure for a child counts what it was forked from.
        script = ("import sys; from prefloop.cli import main; code = main(sys.argv[1:]);"
                  "print(open('/proc/self/status').read()); sys.exit(code)")
        done = subprocess.run([sys.executable, "-c", script, *asked], capture_output=True, text=True, check=True)
        return int((re.search(r"VmHWM:\s*(\d+) kB", done.stdout) or ["", "0"])[1])

    small, large = peak(2_000), peak(20_000)
    assert 0 < large - small < 40 << 10


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST", 1000)
    with pytest.raises(RequestError, match="this line is longer than"):
        ran(tmp_path, dumped({**GOOD, "prompt": "x" * 5000}))
