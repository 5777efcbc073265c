# What the steps share. Each is a script that runs anywhere: its inputs are variables, and its files lie in OUT.
set -euo pipefail
OUT=${OUT:-haikuq-out}
HAIKUQ=${HAIKUQ:-haikuq}
# An empty token is none; haikuq would take it for one that is not set, curl would send it.
if [ -z "${HF_TOKEN:-}" ]; then unset HF_TOKEN; fi
mkdir -p "$OUT"

# An output of the step, where somebody takes it. Values are one line: names of files may hold anything else.
output() {
    case $2 in *$'\n'*)
        echo "$1: a line break in $2" >&2
        exit 1
        ;;
    esac
    echo "$1: $2" >&2
    if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "$1=$2" >>"$GITHUB_OUTPUT"; fi
}

need() {
    if [ -z "${!1:-}" ]; then
        echo "$1 is not set: $2" >&2
        exit 2
    fi
}
