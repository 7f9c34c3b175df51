#!/usr/bin/env bash
# Runs `bncheck run` or `bncheck compare` as the $BNCHECK_* variables say, and exits as it does.
# The job summary and annotations come from bncheck itself ($GITHUB_STEP_SUMMARY, $GITHUB_ACTIONS).
set -euo pipefail
set -f # words below are names, never patterns

command="${BNCHECK_COMMAND:-run}"
out="${BNCHECK_OUT:-bncheck-run}"
arguments=("$command" --out "$out")
each() { # each OPTION WORDS: the option before every word
  local word
  for word in $2; do arguments+=("$1" "$word"); done
}
given() { # given OPTION VALUE: the option unless the value is empty
  [ -z "$2" ] || arguments+=("$1" "$2")
}
given --baseline "${BNCHECK_BASELINE:-}"
given --waivers "${BNCHECK_WAIVERS:-}"
given --fail-on "${BNCHECK_FAIL_ON:-}"
for word in ${BNCHECK_ARGS:-}; do arguments+=("$word"); done

case "$command" in
  run)
    each --target "${BNCHECK_TARGETS:-}"
    each --optional "${BNCHECK_OPTIONAL:-}"
    each --require "${BNCHECK_REQUIRE:-}"
    given --shard "${BNCHECK_SHARD:-}"
    arguments+=(--)
    for word in ${BNCHECK_SCENARIOS:-}; do arguments+=("$word"); done
    ;;
  compare)
    arguments+=(--)
    for folder in ${BNCHECK_RUNS:-}; do
      if [ -e "$folder/run.json" ]; then
        arguments+=("$folder")
      else # a folder that holds runs, as download-artifact leaves them
        found=0
        while IFS= read -r run; do
          arguments+=("$(dirname "$run")")
          found=1
        done < <(find "$folder" -mindepth 2 -maxdepth 2 -name run.json | LC_ALL=C sort)
        [ "$found" = 1 ] || { echo "bncheck: there is no run in $folder" >&2; exit 2; }
      fi
    done
    ;;
  *)
    echo "bncheck: the action's command is run or compare, not '$command'" >&2
    exit 2
    ;;
esac

code=0
bncheck "${arguments[@]}" || code=$?
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  { echo "run=$out"; echo "exit-code=$code"; } >>"$GITHUB_OUTPUT"
fi
exit "$code"
