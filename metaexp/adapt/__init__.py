"""Learning one new task with a trained run: `python -m metaexp.adapt`, predictions and exported predictors."""
