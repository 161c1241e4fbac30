#!/usr/bin/env bash
# Makes .venv with what constraints.txt pins; `setup.sh browser` sees to Debian's Chromium for the page's tests, and to
# Debian's PostgreSQL for the store's.
# pip rather than uv: pip takes a CPU build of torch that lies on the machine, uv would miss it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

apt_install() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null
  else
    return 1
  fi
}

if [ "${1:-}" = browser ]; then
  command -v chromium >/dev/null || apt_install chromium ||
    echo "no Chromium and no right to install it: the page's tests will be skipped (apt install chromium)"
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || apt_install postgresql ||
    echo "no PostgreSQL and no right to install it: the store is tested in files alone (apt install postgresql)"
  exit 0
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "prefloop needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Try: make $* PYTHON=python3.11" >&2
  exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv || {
  echo "this Python has no venv module. Run: sudo apt install python3-venv" >&2
  exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing what constraints.txt pins into .venv (a few minutes the first time)"
.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'

# pyright does not run the import hook of an editable install: links show it where `prefloop.sft` and the others are.
mkdir -p .venv/stages/prefloop
for part in prefloop/* sft reward ppo feedback_ui launch; do
  ln -sfn "$PWD/$part" ".venv/stages/prefloop/$(basename "$part")"
done
