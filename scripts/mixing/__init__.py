"""What scripts/mixture.py adds to the page of a comparison."""
