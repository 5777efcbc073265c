#!/usr/bin/env bash
# Machines of the Hugging Face hub share a list: `hf-jobs.sh 8 IMAGE ORG/BUCKET [OPTION of hf jobs run]...`. The bucket holds
# models.toml and gets the packages.
set -euo pipefail
of=${1:?how many machines} image=${2:?an image with haikuq} bucket=${3:?a bucket with models.toml}
for ((index = 0; index < of; index++)); do
    hf jobs run --detach --flavor cpu-upgrade --timeout 6h --secrets HF_TOKEN --volume "hf://buckets/$bucket:/fleet:rw" "${@:4}" \
        "$image" haikuq fleet /fleet/models.toml --index "$index" --of "$of"
done
