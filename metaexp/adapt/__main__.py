"""`python -m metaexp.adapt`."""

from metaexp.adapt.command import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
