"""The parts of scripts/bench.py: works, processes, our runs, the peers' runs, equal work, tables, plots."""
