"""The parts of scripts/bench.py: workloads, processes, our runs, the peers' runs, equal work, tables, plots."""
