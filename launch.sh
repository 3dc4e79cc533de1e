#!/usr/bin/env bash
# One command for everything: makes the environment, then runs megan_jax in it (see --help).
# Written for bash 3.2 and plain POSIX tools, which is what macOS has.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
venv="${MEGAN_VENV:-$root/.venv}"
case "$venv" in /*) ;; *) venv="$PWD/$venv" ;; esac
venv="${venv%/}"
dry_run="${MEGAN_DRY_RUN:-}"
locked="" child="" stopped=""
# What the commands print for "run this next".
export MEGAN_LAUNCHER="$0"

# ---------------------------------------------------------------- what the commands run

quickstart() {
  cd "$root"
  # Its batch of a few rows is made for one device.
  export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
  note "Training, then evaluating, the quickstart: ten to fifteen minutes on two cores."
  run "$venv/bin/python" -m megan_jax.train \
    --config experiments/quickstart.py --workdir runs/quickstart
}

chat() {
  local argument has_model=""
  for argument in "$@"; do
    case "$argument" in --model | --model=*) has_model=1 ;; esac
  done
  if [ -z "$has_model" ]; then
    local model="pretrained"
    if [ -f "$root/runs/quickstart/run.json" ]; then model="$root/runs/quickstart"; fi
    set -- --model "$model" "$@"
  fi
  replace "$venv/bin/python" -m megan_jax.generate --interactive "$@"
}

# Everything is checked even if an early check fails, so that one run shows all there is to mend.
run_tests() {
  local failed="" python="$venv/bin/python"
  cd "$root"
  if [ $# -eq 0 ]; then
    check "ruff check" "$python" -m ruff check .
    check "ruff format" "$python" -m ruff format --check .
    check "mypy" "$python" -m mypy
    check "shellcheck" "$venv/bin/shellcheck" launch.sh .ci/run
  fi
  check "pytest" "$python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile "$@"
  [ -z "$failed" ] || die "failed: $failed"
}

check() {
  local name="$1"
  shift
  note "== $name"
  run "$@" || failed="${failed:+$failed, }$name"
}

usage() {
  cat <<'EOF'
usage: ./launch.sh [COMMAND [ARGUMENT ...]]

  (no command)  set up, train the quickstart, evaluate it, write its report
  setup         make or renew the environment, and nothing else
  train         train a network  --config FILE.py --workdir DIR
  evaluate      measure a model  --workdir DIR, or --model PATH
  generate      answer a prompt  --model PATH --condition TEXT --prompt TEXT
  chat          talk to the quickstart's model, or the one that comes along
  convert       convert weights  --source PATH --target DIR --format NAME
  data          check a file     check FILE.jsonl
  test          lint, types and tests; with arguments: pytest with these

COMMAND --help says more. Environment variables:
  PYTHON             the Python (3.11 or newer) to make the environment with
  MEGAN_VENV         where the environment lies (default: .venv by this script)
  MEGAN_ACCELERATOR  cpu, cuda12, cuda13 or tpu (default: found by setup)
  MEGAN_CACHE        keeps base model and data (default: ~/.cache/megan_jax)
  MEGAN_DRY_RUN=1    prints what would be run, and changes nothing
EOF
}

# ---------------------------------------------------------------- small tools

note() { printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

show() {
  printf 'would run:'
  printf ' %q' "$@"
  printf '\n'
}

# Runs a command in a process group of its own and passes Ctrl-C and SIGTERM on to it, each once:
# training saves a checkpoint on them, and must neither be orphaned nor be told twice.
run() {
  local code=0 last=0
  if [ -n "$dry_run" ]; then
    show "$@"
    return 0
  fi
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  if [ -n "$stopped" ]; then
    # The signal also ends a wait, whose code is then not the command's.
    wait "$child" 2>/dev/null || last=$?
    if [ "$last" -ne 127 ]; then code=$last; fi
    exit "$((code ? code : stopped))"
  fi
  child=""
  return "$code"
}

replace() {
  if [ -n "$dry_run" ]; then
    show "$@"
  else
    exec "$@"
  fi
}

pass_on() {
  stopped="$2"
  if [ -n "$child" ]; then
    kill -s "$1" -- "-$child" 2>/dev/null || true
  else
    exit "$2"
  fi
}
trap 'pass_on INT 130' INT
trap 'pass_on TERM 143' TERM
trap 'pass_on TERM 129' HUP
trap 'release' EXIT

release() {
  if [ -n "$locked" ]; then rm -rf "$venv.lock"; fi
  locked=""
}

# Two installations into one folder would spoil each other: the second one waits.
lock() {
  local owner said=""
  mkdir -p "$(dirname "$venv")" 2>/dev/null || true
  until mkdir "$venv.lock" 2>/dev/null; do
    [ -d "$venv.lock" ] || die "can't write in $(dirname "$venv"). Put the environment elsewhere:" \
      "MEGAN_VENV=/some/folder ./launch.sh"
    owner="$(cat "$venv.lock/pid" 2>/dev/null || true)"
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      rm -rf "$venv.lock"
    else
      [ -n "$said" ] || note "Waiting for another launch.sh that is setting up $venv" \
        "(if there is none, remove $venv.lock)."
      said=1
      sleep 1
    fi
  done
  locked=1
  echo $$ >"$venv.lock/pid"
}

# ---------------------------------------------------------------- finding Python and the accelerator

# Prints "MAJOR.MINOR venv|no-venv SYSTEM MACHINE"; must run on any Python there is, even 2.7.
probe() {
  "$1" -c '
import platform, sys
try:
    import ensurepip, venv
    has_venv = "venv"
except ImportError:
    has_venv = "no-venv"
print("%d.%d %s %s %s" % (sys.version_info[0], sys.version_info[1], has_venv, sys.platform, platform.machine()))
' 2>/dev/null || true
}

recent_enough() {
  local major="${1%%.*}" minor="${1#*.}"
  [ "$major" -eq 3 ] && [ "$minor" -ge 11 ]
}

how_to_get_python() {
  if [ "$(uname -s)" = Darwin ]; then
    echo "Install one: brew install python@3.12, or from python.org."
  elif [ -f /etc/debian_version ]; then
    echo "Install one: sudo apt install python3 python3-venv (or python3.12 python3.12-venv)."
  else
    echo "Install one with your system's package manager, or from python.org."
  fi
}

# Sets `python` and `version` to the first Python that will do; the pinned versions come first.
find_python() {
  local candidate found path old="" without_venv="" system machine rest
  if [ -n "${PYTHON:-}" ] && ! command -v "$PYTHON" >/dev/null; then
    die "PYTHON=$PYTHON is not a program that can be run."
  fi
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.13 python3.11 python3 python; do
    path="$(command -v "$candidate" || true)"
    [ -n "$path" ] || continue
    found="$(probe "$path")"
    version="${found%% *}"
    rest="${found#* }"
    if [ -z "$found" ]; then
      [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON does not run as a Python."
    elif ! recent_enough "$version"; then
      old="${old:+$old, }Python $version ($path)"
    elif [ "${rest%% *}" = no-venv ]; then
      without_venv="${without_venv:-$version $path}"
    else
      python="$path"
      machine="${rest##* }"
      system="${rest#* }"
      check_platform "${system%% *}" "$machine"
      return 0
    fi
    [ -z "${PYTHON:-}" ] || break
  done
  if [ -n "$without_venv" ]; then
    version="${without_venv%% *}"
    die "Python $version (${without_venv#* }) can't make environments: its venv or ensurepip module is" \
      "missing. On Debian and Ubuntu: sudo apt install python$version-venv. Then run again."
  elif [ -n "$old" ]; then
    die "found only $old, but Python 3.11 or newer is needed. $(how_to_get_python)" \
      "If it is somewhere else: PYTHON=/path/to/python3.12 ./launch.sh"
  fi
  die "no Python was found; 3.11 or newer is needed. $(how_to_get_python)" \
    "If it is somewhere else: PYTHON=/path/to/python3.12 ./launch.sh"
}

check_platform() {
  case "$1-$2" in
    linux-x86_64 | linux-aarch64 | darwin-arm64) ;;
    darwin-x86_64) die "$python is built for Intel Macs, for which there is no current JAX. On Apple" \
      "silicon install an arm64 Python (brew install python@3.12) and run again." ;;
    win32-* | cygwin-* | msys-*) die "Windows works through WSL2: docs/install.md says how." ;;
    *) die "there are no packages for $1 on $2. Linux on x86-64 and macOS on Apple silicon will do." ;;
  esac
}

# CUDA 13 needs driver 580 and compute capability 7.5, CUDA 12 driver 525.
find_accelerator() {
  local gpus driver capability
  case "${MEGAN_ACCELERATOR:-}" in
    "") ;;
    cpu | cuda12 | cuda13 | tpu)
      accelerator="$MEGAN_ACCELERATOR"
      return 0
      ;;
    *) die "MEGAN_ACCELERATOR=$MEGAN_ACCELERATOR is unknown: cpu, cuda12, cuda13 or tpu." ;;
  esac
  accelerator=cpu
  [ "$(uname -s)" = Linux ] && command -v nvidia-smi >/dev/null || return 0
  gpus="$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null || true)"
  driver="$(printf '%s\n' "$gpus" | awk -F'[., ]+' '$1 ~ /^[0-9]+$/ {print $1; exit}')"
  capability="$(printf '%s\n' "$gpus" | awk -F', *' '
    $2 ~ /^[0-9.]+$/ {c = int(10 * $2 + 0.5); if (!n++ || c < least) least = c} END {print least + 0}')"
  if [ -z "$driver" ]; then
    note "nvidia-smi is there but finds no GPU: installing for the CPU."
  elif [ "$driver" -ge 580 ] && [ "$capability" -ge 75 ]; then
    accelerator=cuda13
  elif [ "$driver" -ge 525 ]; then
    accelerator=cuda12
  else
    note "The NVIDIA driver $driver is too old (525 or newer is needed): installing for the CPU."
  fi
}

# ---------------------------------------------------------------- the environment

# The sizes were measured: docs/install.md.
check_disk() {
  local need=4 folder free
  case "$accelerator" in cuda*) need=12 ;; esac
  folder="$venv"
  while [ ! -d "$folder" ]; do folder="$(dirname "$folder")"; done
  free="$(df -Pk "$folder" 2>/dev/null |
    awk 'NR == 2 {for (i = 2; i <= NF; i++) if ($i ~ /%$/) {print $(i - 1); exit}}')" || free=""
  case "$free" in "" | *[!0-9]*) return 0 ;; esac
  [ "$free" -ge $((need * 1024 * 1024)) ] || die "$folder has $((free / 1024)) MB free, but the" \
    "installation needs $need GB. Free some space, or put the environment on another disk:" \
    "MEGAN_VENV=/some/folder ./launch.sh"
}

# Removes the environment for a new start, if this script made it. $1 says what is wrong with it.
discard() {
  if [ ! -e "$venv" ] || [ -z "$(ls -A "$venv")" ]; then return 0; fi
  [ -f "$venv/.megan-made" ] || die "$venv $1, and this script did not make it, so it stays as it is." \
    "Remove it, or choose another folder: MEGAN_VENV=/some/folder ./launch.sh"
  note "$venv $1: making it anew."
  if [ -n "$dry_run" ]; then show rm -rf "$venv"; else rm -rf "$venv"; fi
}

# Sets `files` and `constraints`: what pip is given for $1, `base` or `test`.
choose_files() {
  files="requirements.txt"
  if [ "$accelerator" != cpu ]; then files="$files requirements-$accelerator.txt"; fi
  if [ "$1" = test ]; then files="$files requirements-test.txt"; fi
  constraints="constraints/py${version%%.*}${version#*.}.txt"
  [ -f "$root/$constraints" ] || constraints=""
}

# Prints the line that stands in the environment's state once everything for $1 is installed.
stamp() {
  local files constraints
  choose_files "$1"
  # shellcheck disable=SC2086  # these names hold no spaces
  echo "$1 $version $(cd "$root" && cat $files $constraints | cksum)"
}

is_installed() {
  grep -qxF "$(stamp "$1")" "$venv/.megan-state" 2>/dev/null
}

# Installs what $1, `base` or `test`, needs, and nothing if nothing has changed since the last time.
prepare() {
  local python="" version="" accelerator="" made="" wanted
  [ -f "$root/requirements.txt" ] || die "$root/requirements.txt is not there: launch.sh runs" \
    "inside the repository only."
  version="$(probe "$venv/bin/python")"
  version="${version%% *}"
  accelerator="$(cat "$venv/.megan-accelerator" 2>/dev/null || true)"
  if [ -n "$version" ] && [ -n "$accelerator" ] && [ "$command" != setup ] &&
    [ -z "${PYTHON:-}${MEGAN_ACCELERATOR:-}" ] && is_installed "$1"; then
    return 0
  fi

  if [ -z "$dry_run" ]; then lock; fi
  examine
  # The choice stays until the next setup: the login and the compute nodes of a cluster share one
  # environment, and not all have a GPU.
  if [ -n "$made" ] || [ -z "$accelerator" ] || [ -n "${MEGAN_ACCELERATOR:-}" ] ||
    [ "$command" = setup ]; then
    find_accelerator
  fi
  if [ -n "$made" ] || ! is_installed "$1"; then
    wanted="$(stamp base)"
    if [ "$1" = test ]; then wanted="$wanted"$'\n'"$(stamp test)"; fi
    if [ -n "$made" ]; then make_venv; fi
    install "$1"
    if [ -z "$dry_run" ]; then
      printf '%s\n' "$accelerator" >"$venv/.megan-accelerator"
      printf '%s\n' "$wanted" >"$venv/.megan-state"
    fi
  fi
  release
}

# Looks at the environment there is. Sets `made` to 1 if it must be made, and `python`, `version`.
examine() {
  local there
  version="$(probe "$venv/bin/python")"
  there="${version%% *}"
  if [ ! -e "$venv" ]; then
    made=1
  elif [ -f "$venv/.megan-made" ] && [ "$(cat "$venv/.megan-state" 2>/dev/null)" = installing ]; then
    made=1
    discard "was left half installed"
  elif [ -z "$there" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    made=1
    discard "has no working Python with pip"
  elif ! recent_enough "$there"; then
    made=1
    discard "has Python $there, and 3.11 or newer is needed"
  fi
  if [ -n "$made" ] || [ -n "${PYTHON:-}" ]; then
    find_python
    if [ -z "$made" ] && [ "$there" != "$version" ]; then
      made=1
      discard "has Python $there, not $version"
    fi
  else
    version="$there"
  fi
}

make_venv() {
  check_disk
  note "Python $version ($python): making the environment in $venv"
  if [ -z "$dry_run" ]; then
    mkdir -p "$venv"
    : >"$venv/.megan-made"
    echo installing >"$venv/.megan-state"
  fi
  logged "$python" -m venv "$venv" || failed_install "making the environment"
}

install() {
  local started=$SECONDS files constraints file
  choose_files "$1"
  set -- install --disable-pip-version-check --no-input --progress-bar off
  for file in $files; do set -- "$@" -r "$root/$file"; done
  if [ -n "$constraints" ]; then
    set -- "$@" -c "$root/$constraints"
  else
    note "There are no pinned versions for Python $version: taking the newest that fit."
  fi
  note "Installing the packages for $accelerator; the first time takes a few minutes."
  if [ -z "$dry_run" ]; then echo installing >"$venv/.megan-state"; fi
  # A configured --user install can't go into an environment.
  export PIP_USER=0 PIP_RETRIES="${PIP_RETRIES:-2}"
  logged "$venv/bin/python" -m pip "$@" || failed_install "installing the packages"
  if [ -z "$dry_run" ]; then note "Installed in $((SECONDS - started)) s."; fi
}

# Only a failure shows what was said. On a terminal the seconds run meanwhile.
logged() {
  local code=0 clock="" started=$SECONDS
  if [ -n "$dry_run" ]; then
    show "$@"
    return 0
  fi
  if [ -t 2 ]; then
    while sleep 1 && kill -0 $$ 2>/dev/null; do printf '\r  %s s ' $((SECONDS - started)) >&2; done &
    clock=$!
  fi
  run "$@" >"$venv/install.log" 2>&1 || code=$?
  if [ -n "$clock" ]; then
    kill "$clock" 2>/dev/null || true
    wait "$clock" 2>/dev/null || true
    printf '\r          \r' >&2
  fi
  return "$code"
}

# What pip says of a dead network is about conflicting versions: then only the cause is shown.
failed_install() {
  local log="$venv/install.log" reason
  if grep -qE 'No space left on device|Errno 28|Disk quota exceeded' "$log"; then
    reason="the disk is full (packages are unpacked in ${TMPDIR:-/tmp}, too). Free some space."
  elif grep -qE 'connection broken by|Could not fetch URL|Network is unreachable' "$log"; then
    reason="the package index can't be reached. Check the network, the proxy and pip's settings;"
    reason="$reason docs/install.md says how to install without a network."
  else
    grep -vE '^WARNING|^$' "$log" | tail -n 8 | sed 's/^/  | /' >&2 || true
    reason="the lines above say why."
  fi
  die "$1 failed: $reason Then run the same command again. The whole log: $log"
}

# ---------------------------------------------------------------- the command line

command="${1:-}"
if [ $# -gt 0 ]; then shift; fi
case "$command" in
  -h | --help | help)
    usage
    exit 0
    ;;
  "" | setup | chat | test | train | evaluate | generate | convert | data) ;;
  *)
    note "error: unknown command '$command'. Commands: setup, train, evaluate, generate, chat," \
      "convert, data, test; none at all runs the quickstart. ./launch.sh --help explains them."
    exit 2
    ;;
esac
case "$(uname -s)" in
  MINGW* | MSYS* | CYGWIN*) die "Windows works through WSL2: docs/install.md says how." ;;
esac

unset PYTHONHOME
export PYTHONNOUSERSITE=1
if [ "$command" = test ]; then prepare test; else prepare base; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
case "$command" in
  "") quickstart ;;
  setup) note "Ready: $venv" ;;
  chat) chat "$@" ;;
  test) run_tests "$@" ;;
  *) replace "$venv/bin/python" -m "megan_jax.$command" "$@" ;;
esac
