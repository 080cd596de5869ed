"""`python -m metaexp.report`."""

from metaexp.report.command import main

main()
