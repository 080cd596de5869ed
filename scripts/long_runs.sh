#!/bin/sh
# Usage: scripts/long_runs.sh OMNIGLOT [EXPERIMENT...]: the Omniglot rows at the length of their papers, three seeds each.
#
# omniglot_fomaml takes 60,000 outer steps, omniglot_reptile 100,000; at the speed of the shorter runs in docs/results.md
# (5,000 and 12,000 steps in about an hour of a core) that is about 12 and 8 core-hours a seed, 60 core-hours in all.
# FOMAML takes the inner rate that is best on validation tasks, 0.4 (docs/results.md), instead of MAML's 2.0.
# Call it again after a stop: finished runs are kept and the others go on from their last checkpoint.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' scripts/long_runs.sh; exit 2; }
data=$1
shift
for name in ${*:-omniglot_fomaml omniglot_reptile}; do
  case $name in
    omniglot_fomaml) steps=60000 rate=algo.inner_lr=0.4 ;;
    omniglot_reptile) steps=100000 rate= ;;
    *) echo "$name: omniglot_fomaml or omniglot_reptile" >&2; exit 2 ;;
  esac
  for seed in 0 1 2; do
    out=outputs/long/$name/$seed
    if ls "$out"/*/result.json >/dev/null 2>&1; then continue; fi
    # shellcheck disable=SC2086
    scripts/run.sh "experiment=$name" $rate "steps=$steps" "seed=$seed" test.tasks=1000 val.every=5000 \
      checkpoint.every=1000 "task.root=$data" "out=$out" resume=auto
  done
done
