"""One grammar: prefloop COMMAND CONFIG section.key=value ...; a command is one word, or two of which the first is one.

Exit codes: 0 done, 1 the run failed, 2 the request was wrong; `compare` adds 3 reject and 4 undecided.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from prefloop import config, ranks
from prefloop.errors import RequestError, RunError, disk_is_full

# Nothing is sent anywhere. Set before any library that would read them is imported.
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False", "TOKENIZERS_PARALLELISM": "false",
         "TRANSFORMERS_VERBOSITY": "error", "DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
         "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

COMMANDS = {
    "import": ("prefloop.formats.importing", "read preference data, in other formats, into a snapshot"),
    "sft": ("prefloop.sft.train", "fine-tune a base model on demonstrations"),
    "generate": ("prefloop.generate", "sample K answers for each prompt"),
    "feedback": ("prefloop.feedback_ui.server", "serve the page on which people rank answers"),
    "feedback campaign": ("prefloop.feedback_ui.applying", "queue a campaign's answers, or change its settings"),
    "feedback account": ("prefloop.feedback_ui.accounting", "add an account, disable it, or change its role"),
    "feedback invite": ("prefloop.feedback_ui.inviting", "print a link to join by, or to set a new password by"),
    "feedback flags": ("prefloop.feedback_ui.flagging", "list what raters reported, newest first"),
    "feedback verify": ("prefloop.feedback_ui.auditing", "say whether the store is what its log of every change says"),
    "feedback rater": ("prefloop.feedback_ui.persons", "write down all that is kept of one person, or delete it"),
    "feedback backup": ("prefloop.feedback_ui.saving", "copy the store into a file, also while it is in use"),
    "feedback export": ("prefloop.feedback_ui.sending", "write the rankings as another tool's file"),
    "feedback import": ("prefloop.feedback_ui.receiving", "take in rankings given elsewhere, or answers to rank"),
    "feedback restore": ("prefloop.feedback_ui.restoring", "put a backup in the place of a store"),
    "snapshot": ("prefloop.feedback_ui.exporting", "freeze the rankings given so far for training"),
    "reward": ("prefloop.reward.train", "train a reward model on rankings"),
    "score": ("prefloop.reward.score", "score answers with a reward model"),
    "serve": ("prefloop.reward.serve", "score answers over HTTP, as other trainers' remote reward"),
    "probe": ("prefloop.reward.probes", "try how a reward model takes answers that were changed on purpose"),
    "ppo": ("prefloop.ppo.train", "improve a policy by PPO against a reward model"),
    "dpo": ("prefloop.ppo.dpo", "improve a policy by DPO on rankings"),
    "compare": ("prefloop.compare.recipe", "sample from checkpoints on the same prompts and give a verdict"),
    "verdicts": ("prefloop.compare.history", "list the comparisons so far, and chart whether it gets better"),
    "arena": ("prefloop.feedback_ui.arena", "look at checkpoints side by side, try prompts, vote blind"),
    "export": ("prefloop.export", "write a policy as plain files, merged into 16 bits or as an adapter"),
    "runs": ("prefloop.runs", "list runs, or follow one (run.name=NAME)"),
    "doctor": ("prefloop.doctor", "say what this machine has, what is missing and what will be slow"),
    "plan": ("prefloop.plan", "say what a stage's config would take: memory by phase, time, micro-batch"),
    "resume": ("", "continue a run that was stopped: prefloop resume RUN"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: prefloop COMMAND [CONFIG] [section.key=value ...]", "", *lines, "",
                      "prefloop COMMAND --help shows a command's keys; configs/ holds a commented config for each."])


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    command, rest = named(words)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore", FutureWarning)  # TRL's own use of names that transformers renamed
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel that only speeds up CPUs
    if not ranks.first():  # the first process speaks for all
        os.environ["TQDM_DISABLE"] = "1"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        if command in COMMANDS and ("-h" in rest or "--help" in rest):
            print(explained(command))
            return 0
        if command == "resume":
            return resume(rest)
        asked = request(command, rest)
        ranks.require_able(command)
        return import_module(COMMANDS[command][0]).main(asked) or 0
    except RequestError as error:
        return told(command, str(error), 2)
    except RunError as error:
        return told(command, str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = "; make room on this disk, and do it again" if disk_is_full(error) else ""
        return told(command, f"{where}{error.strerror or error}{full}", 1)
    except KeyboardInterrupt:
        return told(command, "stopped", 1)
    except Exception as error:
        return told(command, unexpected(error), 1)


def named(words: list[str]) -> tuple[str, list[str]]:
    two = " ".join(words[:2])
    return (two, words[2:]) if two in COMMANDS else (words[0], words[1:])


def unexpected(error: Exception) -> str:
    """In words, what a library raised. Inside a run its folder has the traceback; anywhere else it is shown."""
    from prefloop import memory

    if ranks.parted(error):
        return "another process of this run is gone; `prefloop resume RUN`, with as many processes, continues it"
    if memory.ran_out(error):
        return f"out of memory: {' '.join(str(error).split())[:200]}; set model.four_bit=true, or lower the lengths"
    if not getattr(error, "__notes__", None):
        raise error
    return error.__notes__[-1]


def told(command: str, what: str, code: int) -> int:
    if ranks.speaks():
        print(f"prefloop {command}: {what}", file=sys.stderr)
    return code


def explained(command: str) -> str:
    from prefloop import keys

    if not COMMANDS[command][0]:
        return f"usage: prefloop {command} RUN\n\n{COMMANDS[command][1]}."
    return "\n".join([keys.told(command).rstrip("\n"), *beside(command)])


def beside(command: str) -> list[str]:
    """The commands of two words that begin with this one."""
    seconds = {name: what for name, (_, what) in COMMANDS.items() if name.startswith(f"{command} ")}
    width = max(map(len, seconds), default=0)
    return [*(["", "beside it:"] if seconds else []),
            *(f"  prefloop {name:{width}}  {what}" for name, what in seconds.items())]


def request(command: str, rest: list[str]) -> config.Asked:
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; `prefloop --help` lists the commands"
        raise RequestError(f"there is no command {command!r}{hint}")
    path = Path(rest[0]) if rest and "=" not in rest[0] else None
    seconds = [name.removeprefix(f"{command} ") for name in COMMANDS if name.startswith(f"{command} ")]
    near = get_close_matches(str(path), seconds, n=1)
    if path and near and not path.suffix and not path.exists():  # with a suffix it is a file's name
        raise RequestError(f"there is no config {path}; did you mean `prefloop {command} {near[0]}`?")
    return config.read(command, path, rest[1:] if path else rest)


def resume(rest: list[str]) -> int:
    from prefloop import holding, runs

    if len(rest) != 1:
        raise RequestError("expected one run folder: prefloop resume runs/dpo-0007")
    run = runs.load(Path(rest[0]))
    stage, status = run.record["stage"], runs.status_of(run)
    if status == "done":
        print(f"{run.path}: it is done already")
        return 0
    if status == "running" and ranks.first():  # which others may already see at work
        raise RequestError(f"{run.path}: it is running now{holding.holder(run.path)}")
    if stage not in COMMANDS or not run.record.get("resumable", True):
        raise RequestError(f"{run.path}: a {stage} run is not resumed; {runs.going_on(run)}")
    ranks.require_able(stage)
    asked = config.read(stage, run.path / runs.ASKED, [])
    return import_module(COMMANDS[stage][0]).main(asked, resume=run.path) or 0


if __name__ == "__main__":
    sys.exit(main())
