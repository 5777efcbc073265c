#!/usr/bin/env bash
# Holds the files of examples/fleet to their schedulers, and runs a Slurm array on this machine. Its last output is in docs/scale.md.
#
#   scripts/check_fleet.sh [HAIKUQ]
#
# Takes a Python with kubernetes-validate, skypilot and, in another, huggingface_hub (their needs exclude each other): both are made in
# a folder of their own. Slurm comes from Debian (`apt install slurm-wlm munge`), needs root, and is left out where it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
haikuq=$(realpath "${1:-target/release/haikuq}")
examples=$PWD/examples/fleet
scratch=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$scratch"' EXIT

for file in "$examples"/*; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 30 ] || { echo "$(basename "$file") has $lines lines, and 30 are enough" >&2 && exit 1; }
done

python3 -m venv "$scratch/schedulers" && python3 -m venv "$scratch/hub"
"$scratch/schedulers/bin/pip" -q install kubernetes-validate skypilot
"$scratch/hub/bin/pip" -q install huggingface_hub
"$scratch/schedulers/bin/kubernetes-validate" --strict "$examples/kubernetes.yaml" 2>&1
"$scratch/schedulers/bin/python" - "$examples/skypilot.yaml" <<'PYTHON'
import sys
import sky

task = sky.Task.from_yaml(sys.argv[1])
print(f"skypilot {sky.__version__}: {task.num_nodes} nodes, {task.run.strip()!r}")
PYTHON
jobs=$(PATH=$scratch/hub/bin:$PATH HF_TOKEN=hf_dry "$examples/hf-jobs.sh" 2 registry.example.com/haikuq:0.1.0 org/fleet --dry-run 2>/dev/null)
echo "huggingface_hub $("$scratch/hub/bin/hf" version 2>/dev/null | grep -oE "[0-9.]+$"): $(grep -c 'haikuq fleet /fleet/models.toml --index' <<<"$jobs") jobs by hf jobs run --dry-run"

if ! command -v slurmctld >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "Slurm: not tried, it is not installed or this is not root" >&2
    exit
fi
host=$(hostname -s)
mkdir -p "$scratch/state" "$scratch/spool" /run/munge
cat >"$scratch/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
SlurmctldLogFile=$scratch/slurmctld.log
SlurmdLogFile=$scratch/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc)
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$scratch/slurm.conf
pgrep -x munged >/dev/null || { [ -s /etc/munge/munge.key ] || mungekey; chown -R munge: /run/munge /etc/munge; runuser -u munge -- munged; }
slurmctld -D >/dev/null 2>&1 &
slurmd -D >/dev/null 2>&1 &
for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 1; done
export PATH=$(dirname "$haikuq"):$PATH
cd "$scratch"
sed "s|\.\./\.\./golden|$(realpath "$examples/../../golden")|g" "$examples/models.toml" >models.toml
sbatch --test-only --array=0-1 "$examples/slurm.sh" models.toml 2>&1 | sed 's/ to start at.*//'
sbatch --wait --array=0-1 "$examples/slurm.sh" models.toml >/dev/null || true
echo "$(sbatch --version), an array of two on one machine:"
cat fleet-*.log
"$haikuq" fleet status packages --list models.toml
