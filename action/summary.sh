#!/usr/bin/env bash
# OUT/summary.md: the report, and the difference from the published package. It is the job's page where there is one.
source "$(dirname "$0")/common.sh"
{
    if [ -e "$OUT/report/report.md" ]; then
        cat "$OUT/report/report.md"
    else
        echo "# No report: the validation did not end"
    fi
    echo
    echo "## Since the last published version"
    echo
    # A fence that no line of the text ends.
    echo '~~~~~~text'
    head -c 60000 "$OUT/difference.txt" 2>/dev/null || echo "It was not compared."
    echo
    echo '~~~~~~'
} >"$OUT/summary.md"
# GitHub takes a megabyte.
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then head -c 900000 "$OUT/summary.md" >>"$GITHUB_STEP_SUMMARY"; fi
