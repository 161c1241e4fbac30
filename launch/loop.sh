#!/usr/bin/env bash
# The whole loop and a second round, on your data, with people ranking on the page. Run it again to go on: it skips what
# is done and resumes what was interrupted. launch/loop.py is the text of it.
# usage: launch/loop.sh BASE DATA [--out FOLDER] [--size tiny|small|8b] [--rounds N] [--rankings N] [--set COMMAND:KEY=VALUE]
exec "${PYTHON:-$(dirname "$0")/../.venv/bin/python}" -m prefloop.launch.loop "$@"
