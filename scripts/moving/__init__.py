"""Parts of scripts/dynamics.py and scripts/control.py."""
