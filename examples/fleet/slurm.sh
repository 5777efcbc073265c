#!/usr/bin/env bash
# An array of machines shares a list: `sbatch --array=0-7 slurm.sh models.toml`. Once all are done, see where they stand:
# `haikuq fleet status packages --list models.toml --page status.html`.
#SBATCH --job-name=haikuq-fleet
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=fleet-%A-%a.log
#SBATCH --requeue
set -euo pipefail
exec haikuq fleet "${1:?name a list of models}"
