"""Rows as public data sets hold them, each read by the config shipped for it, and what they must become by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_formats import ran, said

from prefloop import config
from prefloop.errors import RequestError
from prefloop.formats import importing, snapshot
from prefloop.records import Ranking

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def imported(folder: Path, name: str, *rows: Any, overrides: tuple[str, ...] = ()) -> snapshot.Snapshot:
    """What configs/import/NAME.yaml makes of these rows."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = config.read("import", CONFIGS / "import" / f"{name}.yaml",
                        [f"import.path={path}", f"import.out={folder / 'out'}", *overrides])
    importing.main(asked)
    return snapshot.read(folder / "out")


def inside(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def ranked(one: Ranking) -> dict[str, int | None]:
    return {response.text: rank for response, rank in zip(one.responses, one.ranks, strict=True)}


@pytest.mark.parametrize("path", sorted((CONFIGS / "import").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_right(path: Path) -> None:
    config.build(config.read("import", path, []), importing.sections())


def rating(*values: str) -> dict[str, Any]:
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {name: {"Rating": value, "Rationale": "r"} for name, value in zip(names, values, strict=True)}


def test_ultrafeedback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    completions = [{"model": "m1", "response": "one", "annotations": rating("5", "5", "5", "5"), "overall_score": 1.0},
                   {"model": "m2", "response": "two", "annotations": rating("3", "4", "3", "2"), "overall_score": 9.0},
                   {"model": "m3", "response": "three", "annotations": rating("2", "3", "4", "3"), "overall_score": 8},
                   {"model": "m4", "response": "four", "annotations": rating("5", "N/A", "5", "5")}]
    (found,) = imported(tmp_path, "ultrafeedback", {"source": "flan", "instruction": "why?", "models": [],
                                                    "completions": completions}).rankings
    assert ranked(found) == {"one": 1, "two": 2, "three": 2}  # means 5, 3 and 3; the fourth was not rated in full
    assert (found.rater, found.prompt.stratum, found.responses[0].policy) == ("gpt-4", "flan", "m1")
    assert "left out 1: answers without a rating" in capsys.readouterr().out


def test_ultrafeedback_binarized(tmp_path: Path) -> None:
    asking = said("why?", "user")
    row = {"prompt": "why?", "prompt_id": "1", "chosen": [asking, said("a")], "rejected": [asking, said("b")],
           "messages": [asking, said("a")], "score_chosen": 9.0, "score_rejected": 3.0}
    (found,) = ran(tmp_path, json.dumps(row).encode()).rankings
    assert (ranked(found), found.prompt.chat()) == ({"a": 1, "b": 2}, [asking])


def helpsteer(prompt: str, response: str, helpfulness: int, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": 1, "coherence": 4,
            "complexity": 2, "verbosity": 1, **more}


def test_helpsteer_rows_of_a_prompt_wherever_they_stand(tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    turns = "q\n<extra_id_1>Assistant\na\n<extra_id_1>User\nand then?"
    made = imported(tmp_path, "helpsteer", helpsteer("p", "good", 4), helpsteer(turns, "x", 1),
                    helpsteer("p", "bad", 2), helpsteer("alone", "y", 3), helpsteer(turns, "z", 1),
                    helpsteer("p", "fair", 2), helpsteer("p", "bad", 2), helpsteer("p", "odd", 1),
                    helpsteer("p", "odd", 4))
    first, second = made.rankings
    assert ranked(first) == {"good": 1, "bad": 2, "fair": 2}  # "odd" was rated in two ways
    assert ranked(second) == {"x": 1, "z": 1}
    assert [m.role for m in second.prompt.messages] == ["user", "assistant", "user"]
    out = capsys.readouterr().out
    assert "9 rows, 5 used, 4 dropped" in out
    assert "dropped 2: the same answer rated in two ways" in out
    assert f"dropped 1: the only rated answer of its prompt (first {tmp_path / 'helpsteer.jsonl'}:4" in out
    assert "dropped 1: exact duplicate" in out


def test_rankings_of_grouped_rows_stand_where_their_first_rows_stood(tmp_path: Path) -> None:
    rows = [helpsteer(f"p{place}", f"{word}{place}", score)
            for word, score in (("a", 1), ("b", 2)) for place in range(30)]
    made = imported(tmp_path, "helpsteer", *rows)
    assert [ranked(one) for one in made.rankings] == [{f"a{place}": 2, f"b{place}": 1} for place in range(30)]


def test_several_columns_make_a_score_by_their_weights(tmp_path: Path) -> None:
    rows = [helpsteer("p", "a", 4, verbosity=4), helpsteer("p", "b", 3, verbosity=0)]
    only = imported(inside(tmp_path, "x"), "helpsteer", *rows).rankings
    weights = "import.scores={helpfulness: 1, verbosity: -0.5}"
    both = imported(tmp_path, "helpsteer", *rows, overrides=(weights,)).rankings
    assert [ranked(one) for one in (*only, *both)] == [{"a": 1, "b": 2}, {"a": 2, "b": 1}]  # 4 - 2 is below 3


@pytest.mark.parametrize(("strength", "ranks", "words"), [(-3, (1, 2), "significantly"), (1, (2, 1), "slightly"),
                                                          (0, (1, 1), None)])
def test_helpsteer2_preference(tmp_path: Path, strength: int, ranks: tuple[int, int], words: str | None) -> None:
    row = {"split": "train", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": strength,
           "preference_statement": "because", "preference_elaboration": "e"}
    (found,) = imported(tmp_path, "helpsteer2_preference", row).rankings
    assert (found.ranks, found.strength, found.reason) == (ranks, words, "because")


def test_helpsteer3(tmp_path: Path) -> None:
    row = {"domain": "code", "language": "python", "context": [said("q", "user")], "response1": "a", "response2": "b",
           "overall_preference": -1, "individual_preference": [
               {"score": -2, "reasoning": "x", "feedback1": "", "feedback2": ""}, {"score": 1, "reasoning": "y"}]}
    made = imported(tmp_path, "helpsteer3", row)
    assert [(one.rater, one.ranks, one.strength, one.reason) for one in made.rankings] == [
        ("import 1", (1, 2), "better", "x"), ("import 2", (2, 1), "slightly", "y")]


def battle(winner: str, **more: Any) -> dict[str, Any]:
    asking = said("q", "user")
    return {"question_id": "1", "model_a": "m", "model_b": "n", "winner": winner, "judge": "arena_user_7",
            "conversation_a": [asking, said("a")], "conversation_b": [asking, said("b")], "language": "English",
            **more}


@pytest.mark.parametrize(("winner", "ranks", "none"), [("model_a", (1, 2), False), ("model_b", (2, 1), False),
                                                       ("tie", (1, 1), False), ("tie (bothbad)", (1, 1), True),
                                                       ("both_bad", (1, 1), True)])
def test_arena_battles(tmp_path: Path, winner: str, ranks: tuple[int, int], none: bool) -> None:
    (found,) = imported(tmp_path, "arena", battle(winner)).rankings
    assert (found.ranks, found.none_acceptable, found.rater) == (ranks, none, "arena_user_7")
    assert ([one.policy for one in found.responses], found.prompt.stratum) == (["m", "n"], "English")


def test_arena_content_in_parts_and_other_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def parts(text: str, role: str, kind: str = "text") -> dict[str, Any]:
        return {"role": role, "content": [{"type": kind, "text": text, "image": None, "mimeType": None}]}

    asking, more = parts("q", "user"), said("and?", "user")
    good = battle("model_a", conversation_a=[asking, parts("a", "assistant")],
                  conversation_b=[asking, parts("b", "assistant")])
    image = battle("model_a", conversation_a=[parts("q", "user", "image"), said("a")])
    other = battle("model_a", conversation_a=[asking, said("a"), more, said("c")],
                   conversation_b=[asking, said("b"), more, said("d")])
    unknown = battle("model_c")
    (found,) = imported(tmp_path, "arena", good, image, other, unknown).rankings
    assert (found.prompt.messages[0].content, ranked(found)) == ("q", {"a": 1, "b": 2})
    out = capsys.readouterr().out
    for reason in ("message that is not text", "conversations differ before the last answer", "winner 'model_c'"):
        assert f"dropped 1: {reason}" in out


def test_arena_as_lists_of_turns_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        '1,m,n,"[""q, ""]","[""a\\n1""]","[""b""]",0,1,0\n'
        '2,m,n,"[""q""]","[""a""]","[null]",1,0,0\n'
        '3,m,n,"[""s"",""t""]","[""x"",""a""]","[""x"",""b""]",0,0,1\n')
    made = ran(tmp_path, None, f"import.path={tmp_path / 't.csv'}", "import.bad_rows=drop", form="battles")
    assert [ranked(one) for one in made.rankings] == [{"a\n1": 2, "b": 1}, {"a": 1, "b": 1}]
    assert [m.content for m in made.rankings[1].prompt.messages] == ["s", "x", "t"]


def test_shp_and_stack_exchange(tmp_path: Path) -> None:
    row = {"post_id": "1", "domain": "askbaking", "history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0,
           "score_A": 2, "score_B": 9}
    assert ranked(imported(inside(tmp_path, "s"), "shp", row).rankings[0]) == {
        "a": 2, "b": 1}
    answers = [{"answer_id": 1, "pm_score": 3, "selected": False, "text": "x"}, {"pm_score": 0, "text": "y"},
               {"pm_score": 3, "text": "z"}]
    (found,) = imported(tmp_path, "stack_exchange", {"qid": 1, "question": "q", "answers": answers}).rankings
    assert ranked(found) == {"x": 1, "y": 2, "z": 1}


TREE = [("p", None, "prompter", "q", None), ("a", "p", "assistant", "good", 0), ("b", "p", "assistant", "bad", 1),
        ("c", "a", "prompter", "more?", 0), ("d", "c", "assistant", "x", 1.0), ("e", "c", "assistant", "y", 0.0),
        ("f", "c", "assistant", "unranked", None)]


def test_open_assistant_messages_and_trees(tmp_path: Path) -> None:
    rows = [{"message_id": own, "parent_id": parent, "message_tree_id": "p", "role": role, "text": text, "rank": rank,
             "lang": "en", "deleted": False} for own, parent, role, text, rank in TREE]
    alone = {**rows[0], "message_id": "z", "message_tree_id": "z"}
    (tmp_path / "flat").mkdir()
    flat = imported(tmp_path / "flat", "open_assistant", rows[3], alone, *rows[:3], *rows[4:])

    def grown(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "replies": [grown(one) for one in rows if one["parent_id"] == row["message_id"]]}

    tree = {"message_tree_id": "p", "lang": "en", "prompt": grown(rows[0])}
    (tmp_path / "tree").mkdir()
    nested = imported(tmp_path / "tree", "open_assistant", tree)
    for made in (flat, nested):
        assert sorted(map(str, map(ranked, made.rankings))) == ["{'good': 1, 'bad': 2}", "{'x': 2, 'y': 1}"]
        assert {len(one.prompt.messages) for one in made.rankings} == {1, 3}
        assert {one.prompt.stratum for one in made.rankings} == {"en"}


def test_votes_make_an_order_or_are_dropped(tmp_path: Path) -> None:
    answers = ["a", "b", "c"]
    tied = {"prompt": "1", "responses": answers, "pairs": [[0, 1, 0], [0, 2, 2], [1, 2, 2]]}
    cycle = {"prompt": "2", "responses": answers, "pairs": [[0, 1, 1], [1, 2, 1], [2, 0, 1]]}
    intransitive = {"prompt": "3", "responses": answers, "pairs": [[0, 1, 0], [1, 2, 0], [0, 2, 1]]}
    some = {"prompt": "4", "responses": answers, "pairs": [[2, 0, 1]]}
    rows = (tied, cycle, intransitive, some)
    (tmp_path / "x").mkdir()
    made = imported(tmp_path / "x", "finegrained_qa", *rows)
    assert [ranked(one) for one in made.rankings] == [{"a": 2, "b": 2, "c": 1}, {"a": 2, "c": 1}]
    pairs = imported(tmp_path, "finegrained_qa", *rows, overrides=("import.cycles=pairs",))
    assert [ranked(one) for one in pairs.rankings][1:4] == [{"a": 1, "b": 2}, {"b": 1, "c": 2}, {"a": 2, "c": 1}]


def test_ids_are_looked_up_and_votes_are_raters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = tmp_path / "arguments.jsonl"
    arguments.write_text("".join(json.dumps({"id": i, "prompt": "p", "text": f"t{i}"}) + "\n" for i in (1, 2)))
    row = {"a": 1, "b": 2, "topic": "t", "gold": 2, "strict": True, "votes": [["ann", 1], ["bob", 2], ["cyd", 0]]}
    lookup = f"import.lookup={{path: {arguments}, key: id, columns: [a, b]}}"
    (tmp_path / "v").mkdir()
    made = imported(tmp_path / "v", "ukpconvarg1", row, {**row, "b": 9}, overrides=(lookup,))
    assert [(one.rater, ranked(one)) for one in made.rankings] == [
        ("ann", {"t1": 1, "t2": 2}), ("bob", {"t1": 2, "t2": 1}), ("cyd", {"t1": 1, "t2": 1})]
    assert "dropped 1: unknown 'b'" in capsys.readouterr().out
    columns = "import.columns={prompt: a.prompt, response_a: a.text, response_b: b.text, winner: gold, votes: null}"
    made = imported(tmp_path, "ukpconvarg1", row, {**row, "strict": False},
                    overrides=(lookup, columns, "import.rater=gold", "import.where={strict: true}"))
    assert [(one.rater, ranked(one)) for one in made.rankings] == [("gold", {"t1": 2, "t2": 1})]


def test_a_number_for_a_winner_is_never_guessed(tmp_path: Path) -> None:
    row = {"prompt": "p", "response_a": "a", "response_b": "b", "winner": 1}
    with pytest.raises(RequestError, match=r"winner 1 is not known .* import\.winners="):
        ran(tmp_path, json.dumps(row).encode(), form="battles")


def test_instructions_with_an_input(tmp_path: Path) -> None:
    made = imported(tmp_path, "alpaca", {"instruction": "add", "input": "1 {2}", "output": "3"},
                    {"instruction": "say {x}", "input": "", "output": "x"})
    assert [one.prompt.messages[0].content for one in made.demonstrations] == ["add\n\n1 {2}", "say {x}"]


def test_sharegpt_and_roles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def turn(who: str, text: str) -> dict[str, str]:
        return {"from": who, "value": text}

    chat = [turn("system", "s"), turn("human", "1"), turn("gpt", "2"), turn("human", "3"), turn("gpt", "4"),
            turn("human", "5")]
    made = imported(tmp_path, "sharegpt", {"conversations": chat}, {"conversations": [turn("tool", "x"), *chat]})
    assert [(len(one.prompt.messages), one.answer) for one in made.demonstrations] == [(2, "2"), (4, "4")]
    out = capsys.readouterr().out
    assert "left out 1: turns after the last answer" in out
    assert "dropped 1: role 'tool'" in out


def test_openai_messages_with_tools(tmp_path: Path) -> None:
    chat = [said("s", "developer"), {"role": "user", "content": [{"type": "text", "text": "q"}]}, said("17", "tool"),
            said("a")]
    row = json.dumps({"messages": chat}).encode()
    (found,) = ran(tmp_path, row, "import.roles={tool: skip}", form="messages").demonstrations
    assert found.prompt.chat() == [said("s", "system"), said("q", "user")]


def test_calls_of_tools_go_where_their_results_go(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    row = json.dumps({"messages": [said("q", "user"), call, said("17", "tool"), said("a")]}).encode()
    with pytest.raises(RequestError, match="content holds no text"):
        ran(tmp_path, row, "import.roles={tool: user}", form="messages")
    (found,) = ran(tmp_path, row, "import.roles={tool: skip}", form="messages").demonstrations
    assert (found.prompt.chat(), found.answer) == ([said("q", "user")], "a")


def test_unpaired_rows_are_rankings_or_demonstrations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "p", "completion": "good", "label": True}, {"prompt": "q", "completion": "x", "label": True},
            {"prompt": "p", "completion": "bad", "label": False}, {"prompt": "q", "completion": "y", "label": True},
            {"prompt": "P ", "completion": "fine", "label": True}]  # the same prompt: case and spacing do not count
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (found,) = ran(tmp_path, content, form="unpaired").rankings
    assert ranked(found) == {"good": 1, "bad": 2, "fine": 1}
    assert "dropped 2: all answers of its prompt are labelled alike" in capsys.readouterr().out
    (tmp_path / "x").mkdir()
    made = ran(tmp_path / "x", content, "import.columns={label: label}", "import.bad_rows=drop", form="completion")
    assert [one.answer for one in made.demonstrations] == ["good", "x", "y", "fine"]


def test_named_raters_with_a_column_each(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["a", "b"], "ann": [5, 1], "bob": "[2, 2]", "cyd": None}
    made = ran(tmp_path, json.dumps(row).encode(), "import.raters={Ann: ann, Bob: bob, Cyd: cyd}", form="ratings")
    assert [(one.rater, one.ranks) for one in made.rankings] == [("Ann", (1, 2)), ("Bob", (1, 1))]


def test_ranks_told_in_other_ways(tmp_path: Path) -> None:
    rows = [{"prompt": "1", "responses": ["a", "b", "c"], "order": [2, 0, 1], "rater": "r"},
            {"prompt": "2", "responses": [{"answer": "a", "rank": 2, "model": "m"}, {"answer": "b", "rank": 1}]},
            {"prompt": "3", "responses": ["a", "b"], "ranks": {"ann": [1, 2], "bob": [2, 1]}}]
    made = ran(tmp_path, "".join(json.dumps(row) + "\n" for row in rows).encode(), form="rankings")
    assert [ranked(one) for one in made.rankings] == [{"a": 2, "b": 3, "c": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2},
                                                      {"a": 2, "b": 1}]


def test_chat_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\ufeffCustomer: hi\r\nAgent: hello\nthere\nAgent: how can I help?\n\n------\n"
                                    "Customer: bye\nAgent: goodbye\nCustomer: thanks\n---\n---\nnobody said this\n")
    asked = config.read("import", CONFIGS / "import" / "chat_log.yaml",
                        [f"import.path={tmp_path}/*.txt", f"import.out={tmp_path / 'out'}"])
    importing.main(asked)
    made = snapshot.read(tmp_path / "out")
    assert [(one.prompt.messages[0].content, one.answer) for one in made.demonstrations] == [
        ("hi", "hello\nthere\nhow can I help?"), ("bye", "goodbye")]
    out = capsys.readouterr().out
    assert f"dropped 1: not a transcript (first {tmp_path / 'a.txt'}:12" in out
    assert "left out 1: turns after the last answer" in out


def test_chat_logs_by_a_pattern_in_a_column(tmp_path: Path) -> None:
    row = {"text": "[10:01] Ann: hi\n[10:02] Bot: (a) one\nAnn: is no turn"}
    speakers = r"import.speakers={'/\[[0-9:]+\] Ann:/': user, '/\[[0-9:]+\] Bot:/': assistant}"
    (found,) = ran(tmp_path, json.dumps(row).encode(), speakers, form="log").demonstrations
    assert (found.prompt.messages[0].content, found.answer) == ("hi", "(a) one\nAnn: is no turn")
